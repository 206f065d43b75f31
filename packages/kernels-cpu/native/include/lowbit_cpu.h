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

/// Instruction sets with kernels of their own, those of one processor from the least to the best. scalar: portable C++, for every machine; amx: avx512, and
/// many rows at once by AMX; neon: every arm64.
enum class Isa : int { scalar = 0, avx2 = 1, avx512 = 2, amx = 3, neon = 4, dotprod = 5, i8mm = 6 };
constexpr int kIsaCount = 7;

/// dense: rows of floats. grouped: packed codes with any grouping. tiles: 16 rows interleaved, for integer dot products. int8: LLM.int8 in such tiles.
enum class Kind : int { dense = 0, grouped = 1, tiles = 2, int8 = 3 };

/// Dtypes of stored floats; none: there are no scales.
enum class Float : int { none = 0, f32 = 1, f16 = 2, bf16 = 3 };

/// How 16 x n codes lie in a tile. table4: 4-bit codes that index a table of 16 numbers, held as integers. pairs: codes of 8, 6 or 4 bits that index a
/// table of pairs of such numbers, for two consecutive inputs.
enum class Codes : int { c8 = 0, c4 = 1, c3 = 2, c2 = 3, c1 = 4, table4 = 5, pairs8 = 6, pairs6 = 7, pairs4 = 8 };
constexpr int kCodesCount = 9;
static constexpr bool is_pairs(Codes codes) { return codes == Codes::pairs8 || codes == Codes::pairs6 || codes == Codes::pairs4; }
static constexpr bool is_table(Codes codes) { return codes == Codes::table4 || is_pairs(codes); }

constexpr size_t kTileRows = 16;
/// Fewest and most 8-bit planes that activations are cut into, and most rows of activations that one kernel call takes.
constexpr int kMinPlanes = 2;
constexpr int kMaxPlanes = 3;
constexpr int kMaxTokens = 12;
/// Most queries of an attention kernel's call; keys of a block.
constexpr int kMostQueries = 4;
constexpr size_t kKeys = 16;

/// Numbers of a table as integers of two bytes: number i = (256 high[i] + low[i] - 32768) * factor. Of pairs the factor alone.
struct Integers {
  uint8_t low[16] = {};
  uint8_t high[16] = {};
  float factor = 1;
};
/// The largest of them for activations of two planes, and for three.
constexpr int kShortNumber = 2047;
constexpr int kLongNumber = 32767;

/// A weight as the kernels see it. Pointers are to memory of the binding's, 64-byte aligned.
struct Weight {
  Kind kind = Kind::dense;
  size_t out = 0;
  size_t inp = 0;
  const uint8_t* data = nullptr;
  size_t data_bytes = 0;
  const float* bias = nullptr;  // f32 [out]

  // codebooks: a code stands for `dim` consecutive weights; `round`: products of table and scale are rounded to it (f16 or bf16; none: f32)
  size_t dim = 1;
  Float round = Float::none;
  // rotated weights (HIGGS): rows of x have `features` numbers, are filled up with zeros to `inp` and multiplied by the Hadamard matrix in runs of
  // `rotate`; 0: no rotation, and features = inp
  size_t rotate = 0;
  size_t features = 0;

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
  Integers numbers[2];     // of a table, for two planes and for three
  // pairs: bytes of such integers, [two planes, three][first of a pair, second][low, high][entry]; and f16 bits [first, second][low, high][entry], null if the
  // table is not of f16 numbers
  const uint8_t* pair_bytes = nullptr;
  const uint8_t* pair_halves = nullptr;
};

/// Entries of a table of pairs.
static constexpr size_t pair_entries(Codes codes) { return codes == Codes::pairs8 ? 256 : codes == Codes::pairs6 ? 64 : 16; }

/// The integers of a table for so many planes.
static inline const Integers& numbers_of(const Weight& weight, int planes) { return weight.numbers[planes - kMinPlanes]; }
/// The same of pairs, [first of a pair, second][low, high][entry].
static inline const uint8_t* pair_numbers(const Weight& weight, int planes) {
  return weight.pair_bytes + static_cast<size_t>(planes - kMinPlanes) * 4 * pair_entries(weight.codes);
}

/// Activations of up to kMaxTokens rows, quantized per block of inputs: x = scale * (65536 p0 + 256 p1 + p2), or scale * (256 p0 + p1). Two planes stay so
/// small (see largest_code) that all sums of a block fit an int32.
struct Activations {
  int tokens = 0;
  int planes = 0;
  const int32_t* codes = nullptr;  // [inputs / 4][token][plane]: four signed bytes of consecutive inputs; for pairs see `rotate`
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

/// What a quantization of rows reads and writes: `tokens` rows of x, `stride` floats apart, times column[k] if there is one, to what `Activations` or
/// `Panel` points to.
struct QuantizeCall {
  const float* x;
  size_t stride;
  int tokens;
  size_t inp;
  size_t block;
  size_t blocks;
  bool table;  // for the numbers of a table
  const float* column;
  uint8_t* codes;
  float* scale;
  float* sum;
  int32_t* plane_sum;
};

/// The largest code of an activation. Two planes: 16 bits, or 14 for a table's numbers of 12: 128 products of them fit an int32. Three: a little less than
/// their bytes could hold, as the product that makes a code may round up by one.
static constexpr float largest_code(int planes, bool table) {
  return planes == 2 ? (table ? 8191.0f : 127.0f * 256 + 127) : (127.0f * 256 + 127) * 256 + 125;
}

/// Many rows at once: activations of up to kPanelRows rows, for weights whose codes were expanded to bytes. Rows that are not there are zeros.
constexpr size_t kPanelRows = 16;
/// Inputs of a unit: a block is padded to whole ones.
constexpr size_t kPanelInputs = 64;
struct Panel {
  int tokens = 0;
  // [block][unit][plane][kPanelRows][kPanelInputs], signed; or 16-bit words 256 p0 + p1, [block][unit][kPanelRows][kPanelInputs], of every four inputs the
  // first and the third, then the others, which is the order that `widen_words` makes
  const uint8_t* codes = nullptr;
  const float* scale = nullptr;        // [block][kPanelRows]
  const float* sum = nullptr;          // [block][kPanelRows]
  const int32_t* plane_sum = nullptr;  // [block][plane][kPanelRows]; of words none
};

/// Which bytes stand for a tile's codes: themselves; of a table's numbers for so many planes the lower or the upper byte.
enum class Part : int { codes = 0, low = 1, high = 2 };

/// One call of a panel kernel: two tiles of one strip each, or one tile of two (low and high), times a panel.
struct PanelCall {
  const Weight* weight;
  const uint8_t* tile;    // for scales and zeros
  size_t stride;          // to the next tile; 0: there is none, and the second one's results are not used
  const uint8_t* strips;  // expanded codes, one strip after another
  size_t strip_bytes;
  const Panel* x;
  float* out;  // [tile][kPanelRows][16]
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
  /// Two tiles at once for one token, where two streams from memory are faster than one.
  void (*pair[kCodesCount][kMaxPlanes])(const TileCall&);
  void (*int8[kMaxTokens])(const Int8Call&);
  /// By planes - 1, as below. A row whose block has NaN or infinity gets the scale NaN; a block below 2^-100 counts as zero.
  void (*quantize[kMaxPlanes])(const QuantizeCall&);
  /// The same for a panel of bytes; `column` is not used.
  void (*quantize_panel[kMaxPlanes])(const QuantizeCall&);
  /// Writes a tile's codes as bytes, [block][unit][16][64]: the codes themselves, or one of the bytes of the table's numbers for so many planes.
  void (*widen_codes[kCodesCount])(const Weight&, const uint8_t* tile, Part part, int planes, uint8_t* strip);
  /// [strips a tile has - 1][planes - 1]; null where this instruction set has none: then `tile` serves.
  void (*panel[2][kMaxPlanes])(const PanelCall&);
  /// Panels of two planes as words, where that takes fewer instructions: two tiles, one strip of words each. Null otherwise.
  void (*quantize_words)(const QuantizeCall&);
  void (*widen_words[kCodesCount])(const Weight&, const uint8_t* tile, uint8_t* strip);
  void (*panel_words)(const PanelCall&);
  /// Rows up to which `tile` is faster than these, of codes and of tables.
  size_t few_words[2];
  /**
   * One row of x for a rotated weight, or one of pairs: out [columns] = x [features] filled up with zeros, times the normalised Hadamard matrix in runs of
   * `block` (0: none). `evens_first`: of every 8 numbers those at 0, 2, 4, 6, then the others, as the tiles of pairs have them.
   */
  void (*rotate)(const float* x, size_t features, size_t columns, size_t block, bool evens_first, float* out);
  /// Blocks [from, to) of a tile of a codebook with `round`, as floats: out [input][16], the codec's rounded products. Null for other codes.
  void (*expand[kCodesCount])(const Weight& weight, const uint8_t* tile, size_t from, size_t to, float* out);
  /// sums [token][16] += strip [n][16] times `tokens` rows of x, `stride` floats apart; n is a multiple of 4. By tokens - 1; null where a caller must take fewer.
  void (*strip[kMaxTokens])(const float* strip, size_t n, const float* x, size_t stride, float* sums);
  /// out[i] = number i of a row of stored floats.
  void (*widen)(const uint8_t* data, Float dtype, size_t count, float* out);
  /// out[t * out_stride + r] = x[t] . w[r] for `rows` (at most 4) rows w [rows, n] of stored floats and `tokens` rows of x.
  void (*dot)(const uint8_t* w, Float dtype, size_t rows, size_t n, const float* x, size_t x_stride, size_t tokens, float* out,
              size_t out_stride);
  /// out[t] = x[t] . w without fused operations: the same bytes on every instruction set.
  void (*dot_plain)(const float* w, size_t n, const float* x, size_t x_stride, size_t tokens, float* out);
  /// Attention, see attention.h. out[j] = q . k[j], rows `stride` floats apart.
  void (*scores)(const float* q, const float* k, size_t stride, size_t dim, size_t count, float* out);
  /// out[n][16 b + l] = q[n] . key l of block b, for up to kMostQueries queries; blocks are [dim][16], `stride` bytes apart.
  void (*score_blocks)(const float* const* q, int queries, const uint8_t* k, Float dtype, size_t stride, size_t dim, size_t blocks,
                       float* const* out);
  /// out[n] += sum over j, in order, of weights[n][j] v[j], rows `stride` bytes apart.
  void (*mix_rows)(const float* const* weights, int queries, const uint8_t* v, Float dtype, size_t stride, size_t dim, size_t count,
                   float* const* out);
  /// p[i] = e^(factor p[i] - their largest); gives the sum.
  double (*soften)(float* p, size_t count, float factor);
  /// out[i] = x[i] / (1 + e^-x[i]), times y[i] unless y is null.
  void (*silu)(const float* x, const float* y, size_t count, float* out);
  QuantizerKernels quantizers;
};

/// Null where this build has no kernels for it.
const Kernels* scalar_kernels();
const Kernels* avx2_kernels();
const Kernels* avx512_kernels();
const Kernels* amx_kernels();
const Kernels* neon_kernels();
const Kernels* dotprod_kernels();
const Kernels* i8mm_kernels();

}  // namespace lowbit
