// What the parts of the native backend agree on: weights in this backend's own layouts, and the functions that read them.
//
// Everything here is plain data. Functions take sizes and pointers, own nothing and report by status; who allocates is the binding (napi/).
#pragma once

#include <cstddef>
#include <cstdint>

#include "quantizer_kernels.h"

namespace lowbit {

enum class Status : int {
  ok = 0,
  bad_argument = 1,
  out_of_memory = 2,
  unsupported = 3,
};

/// Instruction sets with kernels of their own. scalar: portable C++, for every machine.
enum class Isa : int { scalar = 0, avx2 = 1, avx512 = 2 };
constexpr int kIsaCount = 3;

/// dense: rows of floats. grouped: packed codes with any grouping. tiles: 16 rows interleaved, for integer dot products. int8: LLM.int8 in such tiles.
enum class Kind : int { dense = 0, grouped = 1, tiles = 2, int8 = 3 };

/// Dtypes of stored floats; none: there are no scales.
enum class Float : int { none = 0, f32 = 1, f16 = 2, bf16 = 3 };

/// How 16 x n codes lie in a tile. table4: 4-bit codes that index a table of 16 numbers, held as 16-bit integers.
enum class Codes : int { c8 = 0, c4 = 1, c3 = 2, c2 = 3, c1 = 4, table4 = 5 };
constexpr int kCodesCount = 6;

constexpr size_t kTileRows = 16;
/// Most 8-bit planes that activations are cut into, and most rows of activations that one kernel call takes.
constexpr int kMaxPlanes = 3;
constexpr int kMaxTokens = 12;

/// A weight as the kernels see it. Pointers are to memory of the binding's, 64-byte aligned.
struct Weight {
  Kind kind = Kind::dense;
  size_t out = 0;
  size_t inp = 0;
  const uint8_t* data = nullptr;
  size_t data_bytes = 0;
  const float* bias = nullptr;  // f32 [out]

  // dense: row-major [out, inp]; grouped: numbers of groups
  Float dtype = Float::f32;

  // grouped: codes of `bits` bits, rows start at whole bytes; w = (q - zero[g]) * scale[g], or table[q] * scale[g]
  int bits = 0;
  size_t row_bytes = 0;
  size_t group = 0;   // axis 1: elements of a group; axis 0: unused
  size_t groups = 0;  // axis 0: element f is of group f % groups
  int axis = 1;
  const float* scale = nullptr;
  const float* zero = nullptr;
  const float* table = nullptr;

  // tiles and int8: tile t holds rows 16 t .. 16 t + 15 of `classes` classes one after another, see layout.h
  Codes codes = Codes::c4;
  Float meta = Float::none;  // of scales (and zeros) inside the tile
  bool zeros = false;
  size_t block = 0;        // inputs that share a scale
  size_t blocks = 0;       // per row, the last one padded
  size_t block_bytes = 0;  // 16 rows of codes, then f[16] scales, then f[16] zeros
  size_t code_bytes = 0;   // of those, codes
  size_t classes = 1;      // axis 0: row i is of class i % classes; scale and zero are [classes, inp]
  size_t class_tiles = 0;
  uint8_t table_low[16] = {};
  uint8_t table_high[16] = {};
  float table_factor = 1;  // table[i] = (256 high + low - 32768) * table_factor
};

/// Activations of up to kMaxTokens rows, quantized per block of inputs: x = scale * (65536 p0 + 256 p1 + p2), fewer planes likewise.
struct Activations {
  int tokens = 0;
  int planes = 0;
  const int32_t* codes = nullptr;  // [inputs / 4][token][plane]: four signed bytes of consecutive inputs
  const float* scale = nullptr;    // [block][token]
  const float* sum = nullptr;      // [block][token]: of the quantized numbers
  const int32_t* plane_sum = nullptr;  // [block][token][plane]: of the signed bytes
};

/// One call of a tile kernel: `tiles` (1 or 2) tiles of 16 rows times all tokens.
struct TileCall {
  const Weight* weight;
  const uint8_t* tile;
  size_t stride;  // bytes from one tile to the next
  const Activations* x;
  float* out;  // [tile][token][16]
};

/// int8: sums of w * a over blocks [from, to), exact while they are below 2^31.
struct Int8Call {
  const Weight* weight;
  const uint8_t* tile;
  const Activations* x;
  size_t from;
  size_t to;
  int32_t* out;  // [token][16]
};

/// The functions of one instruction set.
struct Kernels {
  Isa isa;
  /// [codes][planes - 1][tokens - 1]; null where a caller must take fewer tokens.
  void (*tile[kCodesCount][kMaxPlanes][kMaxTokens])(const TileCall&);
  /// Two tiles at once for one token: hides the latency of a single chain.
  void (*pair[kCodesCount][kMaxPlanes])(const TileCall&);
  void (*int8[kMaxTokens])(const Int8Call&);
  /// Most tokens of one call, by planes - 1.
  int most[kMaxPlanes];
  /**
   * Quantizes `tokens` rows of x, `stride` floats apart, times column[k] if there is one. Writes what `Activations` points to. A row whose block has
   * NaN or infinity gets the scale NaN; a block below 2^-100 counts as zero.
   */
  void (*quantize)(const float* x, size_t stride, int tokens, int planes, size_t inp, size_t block, size_t blocks, const float* column,
                   int32_t* codes, float* scale, float* sum, int32_t* plane_sum);
  /// out[i] = number i of a row of stored floats.
  void (*widen)(const uint8_t* data, Float dtype, size_t count, float* out);
  /// out[t * out_stride + r] = x[t] . w[r] for `rows` (at most 4) rows w [rows, n] and `tokens` rows of x.
  void (*dot)(const float* w, size_t rows, size_t n, const float* x, size_t x_stride, size_t tokens, float* out, size_t out_stride);
  /// out[t] = x[t] . w without fused operations: the same bytes on every instruction set.
  void (*dot_plain)(const float* w, size_t n, const float* x, size_t x_stride, size_t tokens, float* out);
  /// Attention of one head: out[j] = q . k[j], and out = sum over j of weights[j] v[j], rows `stride` floats apart, keys in order.
  void (*scores)(const float* q, const float* k, size_t stride, size_t dim, size_t count, float* out);
  void (*mix)(const float* v, size_t stride, size_t dim, size_t count, const float* weights, float* out);
  QuantizerKernels quantizers;
};

/// Null where this build has no kernels for it.
const Kernels* scalar_kernels();
const Kernels* avx2_kernels();
const Kernels* avx512_kernels();

}  // namespace lowbit
