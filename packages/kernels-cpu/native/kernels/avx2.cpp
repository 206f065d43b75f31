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

  static constexpr bool kChains = false;
  static constexpr bool kSigned = false;
  static constexpr bool kPairs = false;
  static constexpr int kMost[kMaxPlanes] = {4, 2, 1};
  static constexpr int kTableSums = 6;
  static constexpr int kDotTokens = 1;

  ALWAYS_INLINE __m256i half(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  ALWAYS_INLINE Bytes load(const uint8_t* p) { return {half(p), half(p + 32)}; }
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
  ALWAYS_INLINE void store(float* p, Floats v) {
    _mm256_storeu_ps(p, v.a);
    _mm256_storeu_ps(p + 8, v.b);
  }
  ALWAYS_INLINE void prefetch(const uint8_t* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0); }
};

#include "tiles.h"
#include "rows.h"
#include "groups.h"
#include "table.h"

}  // namespace

const Kernels* avx2_kernels() {
  static const Kernels kernels = make_kernels(Isa::avx2);
  return &kernels;
}

}  // namespace lowbit
