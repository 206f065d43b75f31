// Panels by AMX: a tile register holds 16 rows of 64 bytes, so one instruction does the work of 256 of AVX-512's. Sums are the same integers and what
// follows them is the same arithmetic as in panels.h: the same bytes.
#include <immintrin.h>

#include "prelude.h"

namespace lowbit {
namespace {

constexpr size_t kUnitBytes = kPanelRows * kPanelInputs;

/// As the processor reads it: eight registers of 16 rows, 64 bytes each.
struct alignas(64) TileShapes {
  uint8_t palette = 1;
  uint8_t start = 0;
  uint8_t reserved[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
constexpr TileShapes kShapes;

ALWAYS_INLINE __m512 load_meta(const uint8_t* p, Float dtype) {
  if (dtype == Float::none) return _mm512_set1_ps(1.0f);
  if (dtype == Float::f32) return _mm512_loadu_ps(p);
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  if (dtype == Float::f16) return _mm512_cvtph_ps(half);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

/// What a batch of blocks reads: activations of P planes a unit, and the strip (or two) of a tile.
struct Operands {
  const uint8_t* a;
  const uint8_t* low;
  const uint8_t* high;
  size_t units;  // of a block
};

/// Blocks of a batch: as many as there are registers for, since a register's next sums wait until its last ones are stored.
template <int B, int P>
constexpr size_t kBatch = B == 1 ? 2 : 1;

// Register numbers are literals: that is how the instructions are spelt. Activations are the first operand, codes the second: 16 rows of four consecutive
// inputs a line is the order in which tiles hold them.
#define LOWBIT_SUMS_2(c, d, bytes)            \
  do {                                        \
    _tile_zero(c);                            \
    _tile_zero(d);                            \
    const uint8_t* a = o.a;                   \
    for (size_t u = 0; u < o.units; ++u) {    \
      _tile_loadd(7, bytes, 64);              \
      _tile_loadd(6, a, 64);                  \
      _tile_dpbsud(c, 6, 7);                  \
      _tile_loadd(5, a + kUnitBytes, 64);     \
      _tile_dpbsud(d, 5, 7);                  \
      a += 2 * kUnitBytes;                    \
      bytes += kUnitBytes;                    \
    }                                         \
  } while (0)

#define LOWBIT_SUMS_3(c, d, e)                \
  do {                                        \
    _tile_zero(c);                            \
    _tile_zero(d);                            \
    _tile_zero(e);                            \
    for (size_t u = 0; u < o.units; ++u) {    \
      _tile_loadd(7, o.low, 64);              \
      _tile_loadd(6, o.a, 64);                \
      _tile_dpbsud(c, 6, 7);                  \
      _tile_loadd(6, o.a + kUnitBytes, 64);   \
      _tile_dpbsud(d, 6, 7);                  \
      _tile_loadd(6, o.a + 2 * kUnitBytes, 64); \
      _tile_dpbsud(e, 6, 7);                  \
      o.a += 3 * kUnitBytes;                  \
      o.low += kUnitBytes;                    \
    }                                         \
  } while (0)

/// Sums of up to kBatch blocks, [block][B][P][row][16].
template <int B, int P>
ALWAYS_INLINE void batch_sums(Operands& o, size_t blocks, int32_t* sums) {
  if constexpr (P == 2) {
    LOWBIT_SUMS_2(0, 1, o.low);
    if constexpr (B == 2) {
      LOWBIT_SUMS_2(2, 3, o.high);
      o.a += 2 * o.units * kUnitBytes;
    } else {
      o.a += 2 * o.units * kUnitBytes;
      if (blocks > 1) {
        LOWBIT_SUMS_2(2, 3, o.low);
        o.a += 2 * o.units * kUnitBytes;
      }
    }
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + 256, 64);
    if (B == 2 || blocks > 1) {
      _tile_stored(2, sums + 512, 64);
      _tile_stored(3, sums + 768, 64);
    }
  } else if constexpr (B == 1) {
    LOWBIT_SUMS_3(0, 1, 2);
    if (blocks > 1) LOWBIT_SUMS_3(3, 4, 5);
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + 256, 64);
    _tile_stored(2, sums + 512, 64);
    if (blocks > 1) {
      _tile_stored(3, sums + 768, 64);
      _tile_stored(4, sums + 1024, 64);
      _tile_stored(5, sums + 1280, 64);
    }
  } else {
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    const uint8_t* a = o.a;
    for (size_t u = 0; u < o.units; ++u, a += 3 * kUnitBytes, o.high += kUnitBytes) {
      _tile_loadd(7, o.high, 64);
      _tile_loadd(6, a, 64);
      _tile_dpbsud(3, 6, 7);
      _tile_loadd(6, a + kUnitBytes, 64);
      _tile_dpbsud(4, 6, 7);
      _tile_loadd(6, a + 2 * kUnitBytes, 64);
      _tile_dpbsud(5, 6, 7);
    }
    LOWBIT_SUMS_3(0, 1, 2);
    _tile_stored(3, sums + 768, 64);
    _tile_stored(4, sums + 1024, 64);
    _tile_stored(5, sums + 1280, 64);
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + 256, 64);
    _tile_stored(2, sums + 512, 64);
  }
}

/// One tile times a panel. TABLE: codes are bytes of a table's numbers, held with 128 added. ZEROS: the tile has zeros.
template <int B, int P, bool TABLE, bool ZEROS>
ALWAYS_INLINE void tile_panel(const PanelCall& call, const uint8_t* tile, const uint8_t* strip, float* out) {
  const Weight& w = *call.weight;
  const Panel& x = *call.x;
  const size_t units = (w.block + kPanelInputs - 1) / kPanelInputs;
  const size_t meta = w.meta == Float::f32 ? 64 : 32;
  const size_t blocks = w.blocks, block_bytes = w.block_bytes;
  const Float dtype = w.meta;
  const uint8_t* numbers = tile + w.code_bytes;
  const float* row_scale = x.scale;
  const float* row_sum = x.sum;
  const int32_t* plane_sum = x.plane_sum;
  constexpr size_t kBlocks = kBatch<B, P>;
  constexpr size_t kSums = B * P * 256;
  // Two batches in turn: the products of the next one run beside what is done with the sums of the last.
  alignas(64) int32_t sums[2][kBlocks * kSums];
  __m512 f[kPanelRows];
  UNROLL for (size_t m = 0; m < kPanelRows; ++m) f[m] = _mm512_setzero_ps();
  Operands operands{x.codes, strip, strip + call.strip_bytes, units};
  const auto batch = [&](size_t from) { return blocks - from < kBlocks ? blocks - from : kBlocks; };
  batch_sums<B, P>(operands, batch(0), sums[0]);
  for (size_t b = 0; b < blocks; ++b) {
    const size_t within = b % kBlocks;
    const size_t turn = b / kBlocks % 2;
    if (within == 0 && b + kBlocks < blocks) batch_sums<B, P>(operands, batch(b + kBlocks), sums[turn ^ 1]);
    const int32_t* s = sums[turn] + within * kSums;
    const __m512 scale = load_meta(numbers, dtype);
    __m512 shift = _mm512_setzero_ps();
    if constexpr (ZEROS) shift = _mm512_mul_ps(_mm512_sub_ps(shift, load_meta(numbers + meta, dtype)), scale);
    UNROLL for (size_t m = 0; m < kPanelRows; ++m) {
      __m512i planes[P];
      UNROLL for (int p = 0; p < P; ++p) {
        __m512i upper = _mm512_load_si512(s + ((B - 1) * P + p) * 256 + m * 16);
        if constexpr (TABLE) upper = _mm512_sub_epi32(upper, _mm512_slli_epi32(_mm512_set1_epi32(plane_sum[static_cast<size_t>(p) * kPanelRows + m]), 7));
        planes[p] = B == 1 ? upper : _mm512_add_epi32(_mm512_slli_epi32(upper, 8), _mm512_load_si512(s + p * 256 + m * 16));
      }
      __m512 all;
      if constexpr (P == 2) {
        all = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(planes[0], 8), planes[1]));
      } else if constexpr (B == 1) {
        const __m512 lower = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(planes[1], 8), planes[2]));
        all = _mm512_add_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(planes[0]), _mm512_set1_ps(65536.0f)), lower);
      } else {
        all = _mm512_cvtepi32_ps(planes[0]);
        UNROLL for (int p = 1; p < P; ++p) all = _mm512_add_ps(_mm512_mul_ps(all, _mm512_set1_ps(256.0f)), _mm512_cvtepi32_ps(planes[p]));
      }
      f[m] = _mm512_fmadd_ps(_mm512_mul_ps(all, _mm512_set1_ps(row_scale[m])), scale, f[m]);
      if constexpr (ZEROS) f[m] = _mm512_fmadd_ps(shift, _mm512_set1_ps(row_sum[m]), f[m]);
    }
    numbers += block_bytes;
    row_scale += kPanelRows;
    row_sum += kPanelRows;
    plane_sum += P * kPanelRows;
  }
  UNROLL for (size_t m = 0; m < kPanelRows; ++m) _mm512_storeu_ps(out + m * 16, f[m]);
}

template <int B, int P, bool TABLE, bool ZEROS>
void tile_panels(const PanelCall& call) {
  tile_panel<B, P, TABLE, ZEROS>(call, call.tile, call.strips, call.out);
  if (B == 1 && call.stride != 0) {
    tile_panel<B, P, TABLE, ZEROS>(call, call.tile + call.stride, call.strips + call.strip_bytes, call.out + kPanelRows * 16);
  }
}

template <int B, int P>
void panel_product(const PanelCall& call) {
  _tile_loadconfig(&kShapes);
  const Weight& w = *call.weight;
  if (is_table(w.codes)) {
    tile_panels<B, P, true, false>(call);
  } else if constexpr (B == 1) {
    if (w.zeros) {
      tile_panels<B, P, false, true>(call);
    } else {
      tile_panels<B, P, false, false>(call);
    }
  }
  _tile_release();
}

}  // namespace

const Kernels* amx_kernels() {
  static const Kernels kernels = [] {
    Kernels k = *avx512_kernels();
    k.isa = Isa::amx;
    k.panel_words = nullptr;
    k.panel[0][1] = panel_product<1, 2>;
    k.panel[0][2] = panel_product<1, 3>;
    k.panel[1][1] = panel_product<2, 2>;
    k.panel[1][2] = panel_product<2, 3>;
    return k;
  }();
  return &kernels;
}

}  // namespace lowbit
