// AVX2 with FMA and F16C: Haswell, Zen and later. A vector of 64 bytes is a pair of 32.
#include <immintrin.h>

#include "prelude.h"

namespace lowbit {
namespace {

struct V {
  struct Bytes {
    __m256i a, b;
  };
  using Ints = Bytes;
  struct Floats {
    __m256 a, b;
  };
  using Table = __m256i;
  using Table64 = const uint8_t*;
  using Table256 = const uint8_t*;

  static constexpr bool kChains = false;
  static constexpr bool kSigned = false;
  /// Whether panels pay: not where registers are too few.
  static constexpr bool kPanels = false;
  /// Whether panels of words do, and how many tiles and rows of them registers hold.
  static constexpr bool kWords = true;
  static constexpr int kWordTiles = 1, kWordTokens = 4;
  static constexpr size_t kFewWords[] = {6, 1};
  static constexpr bool kPairs = false;
  static constexpr int kMost[kMaxPlanes] = {4, 2, 1};
  static constexpr int kTableSums = 6;
  /// Of attention, by queries - 1: what registers hold.
  static constexpr int kKeyBlocks[kMostQueries] = {4, 2, 1, 1};
  static constexpr int kValueVectors[kMostQueries] = {4, 2, 1, 1};
  static constexpr int kDotTokens = 1;
  static constexpr int kStripTokens = 1;
  static constexpr bool kHalves = false;

  ALWAYS_INLINE __m256i half(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  ALWAYS_INLINE Bytes load(const uint8_t* p) { return {half(p), half(p + 32)}; }
  ALWAYS_INLINE void store_bytes(uint8_t* p, Bytes v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v.a);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 32), v.b);
  }
  ALWAYS_INLINE Bytes mask(Bytes v, int byte) {
    const __m256i m = _mm256_set1_epi8(static_cast<char>(byte));
    return {_mm256_and_si256(v.a, m), _mm256_and_si256(v.b, m)};
  }
  ALWAYS_INLINE Bytes either(Bytes v, Bytes w) { return {_mm256_or_si256(v.a, w.a), _mm256_or_si256(v.b, w.b)}; }
  template <int N>
  ALWAYS_INLINE Bytes right(Bytes v) {
    if constexpr (N == 0) {
      return v;
    } else {
      return {_mm256_srli_epi16(v.a, N), _mm256_srli_epi16(v.b, N)};
    }
  }
  template <int N>
  ALWAYS_INLINE Bytes left(Bytes v) {
    return {_mm256_slli_epi16(v.a, N), _mm256_slli_epi16(v.b, N)};
  }
  ALWAYS_INLINE Table load_table(const uint8_t* p) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  ALWAYS_INLINE Bytes look_up(Table table, Bytes codes) {
    return {_mm256_shuffle_epi8(table, codes.a), _mm256_shuffle_epi8(table, codes.b)};
  }
  ALWAYS_INLINE Table64 load_table64(const uint8_t* p) { return p; }
  ALWAYS_INLINE Table256 load_table256(const uint8_t* p) { return p; }
  /// There is no look-up of bytes beyond 16: one by one.
  ALWAYS_INLINE Bytes look_up256(Table256 table, Bytes codes) {
    alignas(32) uint8_t v[64];
    _mm256_store_si256(reinterpret_cast<__m256i*>(v), codes.a);
    _mm256_store_si256(reinterpret_cast<__m256i*>(v + 32), codes.b);
    for (uint8_t& byte : v) byte = table[byte];
    return load(v);
  }
  ALWAYS_INLINE __m256i half64(const __m128i* table, __m256i codes) {
    const __m256i quarter = _mm256_and_si256(codes, _mm256_set1_epi8(0x30));
    __m256i found = _mm256_setzero_si256();
    for (int i = 0; i < 4; ++i) {
      const __m256i here = _mm256_cmpeq_epi8(quarter, _mm256_set1_epi8(static_cast<char>(16 * i)));
      const __m256i of = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(table + i)), codes);
      found = _mm256_or_si256(found, _mm256_and_si256(here, of));
    }
    return found;
  }
  ALWAYS_INLINE Bytes look_up64(Table64 table, Bytes codes) {
    const __m128i* quarters = reinterpret_cast<const __m128i*>(table);
    return {half64(quarters, codes.a), half64(quarters, codes.b)};
  }
  /// Pair sums have 16 bits and saturate, so bytes above 127 are taken apart: 127 * -128 * 2 and 128 * -128 * 2 both fit.
  template <bool WIDE>
  ALWAYS_INLINE __m256i dot_half(__m256i sum, __m256i codes, __m256i a) {
    const __m256i ones = _mm256_set1_epi16(1);
    if constexpr (!WIDE) return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, a), ones));
    const __m256i top = _mm256_set1_epi8(static_cast<char>(0x80));
    const __m256i low = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_andnot_si256(top, codes), a), ones);
    const __m256i high = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_and_si256(top, codes), a), ones);
    return _mm256_add_epi32(sum, _mm256_add_epi32(low, high));
  }
  template <bool WIDE>
  ALWAYS_INLINE Ints dot(Ints sum, Bytes codes, int32_t a) {
    const __m256i v = _mm256_set1_epi32(a);
    return {dot_half<WIDE>(sum.a, codes.a, v), dot_half<WIDE>(sum.b, codes.b, v)};
  }
  ALWAYS_INLINE Ints dot_words(Ints sum, Bytes words, int32_t a) {
    const __m256i v = _mm256_set1_epi32(a);
    return {_mm256_add_epi32(sum.a, _mm256_madd_epi16(words.a, v)), _mm256_add_epi32(sum.b, _mm256_madd_epi16(words.b, v))};
  }
  ALWAYS_INLINE Ints integers(int32_t v) { return {_mm256_set1_epi32(v), _mm256_set1_epi32(v)}; }
  ALWAYS_INLINE Ints add(Ints v, Ints w) { return {_mm256_add_epi32(v.a, w.a), _mm256_add_epi32(v.b, w.b)}; }
  ALWAYS_INLINE Ints left8(Ints v) { return {_mm256_slli_epi32(v.a, 8), _mm256_slli_epi32(v.b, 8)}; }
  ALWAYS_INLINE void store_ints(int32_t* p, Ints v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v.a);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), v.b);
  }
  ALWAYS_INLINE Floats to_float(Ints v) { return {_mm256_cvtepi32_ps(v.a), _mm256_cvtepi32_ps(v.b)}; }
  ALWAYS_INLINE Floats set(float v) { return {_mm256_set1_ps(v), _mm256_set1_ps(v)}; }
  ALWAYS_INLINE Floats add(Floats v, Floats w) { return {_mm256_add_ps(v.a, w.a), _mm256_add_ps(v.b, w.b)}; }
  ALWAYS_INLINE Floats sub(Floats v, Floats w) { return {_mm256_sub_ps(v.a, w.a), _mm256_sub_ps(v.b, w.b)}; }
  ALWAYS_INLINE Floats mul(Floats v, Floats w) { return {_mm256_mul_ps(v.a, w.a), _mm256_mul_ps(v.b, w.b)}; }
  ALWAYS_INLINE Floats multiply_add(Floats v, Floats w, Floats c) {
    return {_mm256_fmadd_ps(v.a, w.a, c.a), _mm256_fmadd_ps(v.b, w.b, c.b)};
  }
  ALWAYS_INLINE Floats fused(Floats v, Floats w, Floats c) { return multiply_add(v, w, c); }
  ALWAYS_INLINE Floats load_f32(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  ALWAYS_INLINE Floats load_part(const float* p, size_t n) {
    float v[16] = {};
    __builtin_memcpy(v, p, n * sizeof(float));
    return load_f32(v);
  }
  ALWAYS_INLINE __m128i eight(const uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
  ALWAYS_INLINE Floats load_f16(const uint8_t* p) { return {_mm256_cvtph_ps(eight(p)), _mm256_cvtph_ps(eight(p + 16))}; }
  ALWAYS_INLINE __m256 upper(__m128i v) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16)); }
  ALWAYS_INLINE Floats load_bf16(const uint8_t* p) { return {upper(eight(p)), upper(eight(p + 16))}; }
  /// Byte T of each 32-bit lane.
  template <int T>
  ALWAYS_INLINE Ints byte_of(Bytes v) {
    const __m256i m = _mm256_set1_epi32(255);
    return {_mm256_and_si256(_mm256_srli_epi32(v.a, 8 * T), m), _mm256_and_si256(_mm256_srli_epi32(v.b, 8 * T), m)};
  }
  ALWAYS_INLINE Floats gather(const float* base, Ints at) { return {_mm256_i32gather_ps(base, at.a, 4), _mm256_i32gather_ps(base, at.b, 4)}; }
  ALWAYS_INLINE __m256 pick_half(const Floats& table, __m256i at) {
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(table.a, at), _mm256_permutevar8x32_ps(table.b, at),
                            _mm256_castsi256_ps(_mm256_slli_epi32(at, 28)));
  }
  ALWAYS_INLINE Floats pick(const Floats& table, Ints at) { return {pick_half(table, at.a), pick_half(table, at.b)}; }
  ALWAYS_INLINE __m256 half_f16(__m256 v) { return _mm256_cvtph_ps(_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)); }
  ALWAYS_INLINE Floats round_f16(Floats v) { return {half_f16(v.a), half_f16(v.b)}; }
  ALWAYS_INLINE __m256 half_bf16(__m256 v) {
    const __m256i u = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(_mm256_add_epi32(u, odd), _mm256_set1_epi32(0x7fff));
    return _mm256_castsi256_ps(_mm256_and_si256(up, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
  }
  /// To nearest, ties to even.
  ALWAYS_INLINE Floats round_bf16(Floats v) { return {half_bf16(v.a), half_bf16(v.b)}; }
  template <int H>
  ALWAYS_INLINE __m256 half_butterfly(__m256 v) {
    constexpr int kUpper = H == 1 ? 0xaa : H == 2 ? 0xcc : 0xf0;
    __m256 other;
    if constexpr (H == 4) {
      other = _mm256_permute2f128_ps(v, v, 1);
    } else {
      other = _mm256_permute_ps(v, H == 1 ? 0xb1 : 0x4e);
    }
    return _mm256_blend_ps(_mm256_add_ps(v, other), _mm256_sub_ps(other, v), kUpper);
  }
  /// Of lanes H apart: sums in the lower one, differences in the upper.
  template <int H>
  ALWAYS_INLINE Floats butterfly(Floats v) {
    if constexpr (H == 8) return {_mm256_add_ps(v.a, v.b), _mm256_sub_ps(v.a, v.b)};
    else return {half_butterfly<H>(v.a), half_butterfly<H>(v.b)};
  }
  ALWAYS_INLINE void store(float* p, Floats v) {
    _mm256_storeu_ps(p, v.a);
    _mm256_storeu_ps(p + 8, v.b);
  }
  ALWAYS_INLINE void prefetch(const uint8_t* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0); }
};

#include "tiles.h"
#include "pairs.h"
#include "panels.h"
#include "hadamard.h"
#include "rows.h"
#include "quantize.h"
#include "attention.h"
#include "groups.h"
#include "table.h"

}  // namespace

const Kernels* avx2_kernels() {
  static const Kernels kernels = make_kernels(Isa::avx2);
  return &kernels;
}

}  // namespace lowbit
