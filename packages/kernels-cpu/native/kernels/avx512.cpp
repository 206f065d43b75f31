// AVX-512 with VNNI: Ice Lake, Zen 4 and later.
#include <immintrin.h>

#include "prelude.h"

namespace lowbit {
namespace {

struct V {
  using Bytes = __m512i;
  using Ints = __m512i;
  using Floats = __m512;
  using Table = __m512i;

  static constexpr bool kChains = true;
  static constexpr bool kSigned = false;
  static constexpr bool kPairs = true;
  static constexpr int kMost[kMaxPlanes] = {12, 6, 4};
  static constexpr int kTableSums = 12;
  static constexpr int kDotTokens = 4;

  ALWAYS_INLINE Bytes load(const uint8_t* p) { return _mm512_loadu_si512(p); }
  ALWAYS_INLINE Bytes mask(Bytes v, int byte) { return _mm512_and_si512(v, _mm512_set1_epi8(static_cast<char>(byte))); }
  ALWAYS_INLINE Bytes either(Bytes a, Bytes b) { return _mm512_or_si512(a, b); }
  template <int N>
  ALWAYS_INLINE Bytes right(Bytes v) {
    if constexpr (N == 0) {
      return v;
    } else {
      return _mm512_srli_epi16(v, N);
    }
  }
  template <int N>
  ALWAYS_INLINE Bytes left(Bytes v) {
    return _mm512_slli_epi16(v, N);
  }
  ALWAYS_INLINE Table load_table(const uint8_t* p) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  ALWAYS_INLINE Bytes look_up(Table table, Bytes codes) { return _mm512_shuffle_epi8(table, codes); }
  template <bool WIDE>
  ALWAYS_INLINE Ints dot(Ints sum, Bytes codes, int32_t a) {
    return _mm512_dpbusd_epi32(sum, codes, _mm512_set1_epi32(a));
  }
  ALWAYS_INLINE Ints integers(int32_t v) { return _mm512_set1_epi32(v); }
  ALWAYS_INLINE Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
  ALWAYS_INLINE Ints left8(Ints v) { return _mm512_slli_epi32(v, 8); }
  ALWAYS_INLINE void store_ints(int32_t* p, Ints v) { _mm512_storeu_si512(p, v); }
  ALWAYS_INLINE Floats to_float(Ints v) { return _mm512_cvtepi32_ps(v); }
  ALWAYS_INLINE Floats set(float v) { return _mm512_set1_ps(v); }
  ALWAYS_INLINE Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  ALWAYS_INLINE Floats sub(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
  ALWAYS_INLINE Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  ALWAYS_INLINE Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  ALWAYS_INLINE Floats load_f32(const float* p) { return _mm512_loadu_ps(p); }
  ALWAYS_INLINE Floats load_part(const float* p, size_t n) {
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p);
  }
  ALWAYS_INLINE Floats load_f16(const uint8_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  ALWAYS_INLINE Floats load_bf16(const uint8_t* p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
  }
  ALWAYS_INLINE void store(float* p, Floats v) { _mm512_storeu_ps(p, v); }
  ALWAYS_INLINE void prefetch(const uint8_t* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0); }
};

#include "tiles.h"
#include "rows.h"
#include "groups.h"
#include "table.h"

}  // namespace

const Kernels* avx512_kernels() {
  static const Kernels kernels = make_kernels(Isa::avx512);
  return &kernels;
}

}  // namespace lowbit
