// AVX-512 with VNNI and VBMI: Ice Lake, Zen 4 and later.
#include <immintrin.h>

#include <cstring>

#include "prelude.h"

namespace lowbit {
namespace {

struct V {
  using Bytes = __m512i;
  using Ints = __m512i;
  using Floats = __m512;
  using Table = __m512i;
  using Table64 = __m512i;
  struct Table256 {
    __m512i v[4];
  };

  static constexpr bool kChains = true;
  static constexpr bool kSigned = false;
  /// Whether panels pay: not where registers are too few.
  static constexpr bool kPanels = true;
  /// Whether panels of words do, and how many tiles and rows of them registers hold.
  static constexpr bool kWords = true;
  static constexpr int kWordTiles = 2, kWordTokens = 8;
  static constexpr size_t kFewWords[] = {6, 6};
  static constexpr bool kPairs = true;
  static constexpr int kMost[kMaxPlanes] = {12, 6, 4};
  static constexpr int kTableSums = 12;
  /// Of attention, by queries - 1: what registers hold.
  static constexpr int kKeyBlocks[kMostQueries] = {4, 4, 4, 4};
  static constexpr int kValueVectors[kMostQueries] = {4, 4, 4, 4};
  static constexpr int kDotTokens = 4;
  static constexpr int kStripTokens = 6;
  static constexpr bool kHalves = true;

  ALWAYS_INLINE Bytes load(const uint8_t* p) { return _mm512_loadu_si512(p); }
  ALWAYS_INLINE void store_bytes(uint8_t* p, Bytes v) { _mm512_storeu_si512(p, v); }
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
  ALWAYS_INLINE Table64 load_table64(const uint8_t* p) { return load(p); }
  ALWAYS_INLINE Bytes look_up64(Table64 table, Bytes codes) { return _mm512_permutexvar_epi8(codes, table); }
  ALWAYS_INLINE Table256 load_table256(const uint8_t* p) { return {{load(p), load(p + 64), load(p + 128), load(p + 192)}}; }
  ALWAYS_INLINE Bytes look_up256(const Table256& table, Bytes codes) {
    // Four look-ups of 64, each where the upper two bits say so: on Intel's cores as many shuffles as two of 128 take, and fewer operations.
    const __mmask64 upper = _mm512_movepi8_mask(codes), odd = _mm512_movepi8_mask(_mm512_add_epi8(codes, codes));
    __m512i found = _mm512_permutexvar_epi8(codes, table.v[0]);
    found = _mm512_mask_permutexvar_epi8(found, _kandn_mask64(upper, odd), codes, table.v[1]);
    found = _mm512_mask_permutexvar_epi8(found, _kandn_mask64(odd, upper), codes, table.v[2]);
    return _mm512_mask_permutexvar_epi8(found, _kand_mask64(upper, odd), codes, table.v[3]);
  }
  template <bool WIDE>
  ALWAYS_INLINE Ints dot(Ints sum, Bytes codes, int32_t a) {
    // Written out: from the intrinsic GCC 12 makes copies of every sum around every dot product.
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(codes), "v"(_mm512_set1_epi32(a)));
    return sum;
  }
  ALWAYS_INLINE Ints dot_words(Ints sum, Bytes words, int32_t a) {
    asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(words), "v"(_mm512_set1_epi32(a)));
    return sum;
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
  ALWAYS_INLINE Floats fused(Floats a, Floats b, Floats c) { return multiply_add(a, b, c); }
  ALWAYS_INLINE Floats load_f32(const float* p) { return _mm512_loadu_ps(p); }
  ALWAYS_INLINE Floats load_part(const float* p, size_t n) {
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p);
  }
  ALWAYS_INLINE Floats load_f16(const uint8_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  ALWAYS_INLINE Floats load_bf16(const uint8_t* p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
  }
  /// Byte T of each 32-bit lane.
  template <int T>
  ALWAYS_INLINE Ints byte_of(Bytes v) {
    return _mm512_and_si512(_mm512_srli_epi32(v, 8 * T), _mm512_set1_epi32(255));
  }
  ALWAYS_INLINE Floats gather(const float* base, Ints at) { return _mm512_i32gather_ps(at, base, 4); }
  ALWAYS_INLINE Floats pick(Floats table, Ints at) { return _mm512_permutexvar_ps(at, table); }
  ALWAYS_INLINE Floats round_f16(Floats v) { return _mm512_cvtph_ps(_mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)); }
  /// Codes 4 r + t of rows r so that the look-ups of two tables, their bytes taken by turns, are numbers of rows in 32-bit lanes: halves_low has t = 0
  /// and 1, halves_high 2 and 3.
  ALWAYS_INLINE Bytes halves_order(Bytes codes) {
    return _mm512_shuffle_epi8(codes, _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15)));
  }
  ALWAYS_INLINE Ints halves_low(Bytes low, Bytes high) { return _mm512_unpacklo_epi8(low, high); }
  ALWAYS_INLINE Ints halves_high(Bytes low, Bytes high) { return _mm512_unpackhi_epi8(low, high); }
  /// The lower (0) or upper f16 of each lane times 2^-112: its bits moved into those of an f32. Not for subnormal numbers.
  template <int I>
  ALWAYS_INLINE Floats half_at(Ints v) {
    const __m512i upper = I == 0 ? _mm512_slli_epi32(v, 16) : v;
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_srai_epi32(upper, 3), _mm512_set1_epi32(static_cast<int>(0x8fffe000u))));
  }
  /// To nearest, ties to even.
  ALWAYS_INLINE Floats round_bf16(Floats v) {
    const __m512i u = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    const __m512i up = _mm512_add_epi32(_mm512_add_epi32(u, odd), _mm512_set1_epi32(0x7fff));
    return _mm512_castsi512_ps(_mm512_and_si512(up, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
  }
  /// Of lanes H apart: sums in the lower one, differences in the upper.
  template <int H>
  ALWAYS_INLINE Floats butterfly(Floats v) {
    constexpr __mmask16 kUpper = H == 1 ? 0xaaaa : H == 2 ? 0xcccc : H == 4 ? 0xf0f0 : 0xff00;
    Floats other;
    if constexpr (H == 1) {
      other = _mm512_permute_ps(v, 0xb1);
    } else if constexpr (H == 2) {
      other = _mm512_permute_ps(v, 0x4e);
    } else {
      other = _mm512_shuffle_f32x4(v, v, H == 4 ? 0xb1 : 0x4e);
    }
    return _mm512_mask_sub_ps(_mm512_add_ps(v, other), kUpper, other, v);
  }
  ALWAYS_INLINE void store(float* p, Floats v) { _mm512_storeu_ps(p, v); }
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

const Kernels* avx512_kernels() {
  static const Kernels kernels = [] {
    Kernels k = make_kernels(Isa::avx512);
    // Zen 5 reads one stream at 0.9 of its rate and two at 0.6 to 0.8; Emerald Rapids reads two at 0.9.
    if (__builtin_cpu_is("amd")) std::memset(k.pair, 0, sizeof(k.pair));
    return k;
  }();
  return &kernels;
}

}  // namespace lowbit
