// Vectors in which every lane is a group of weights and every operation rounds as the TypeScript does: what the compiler makes of plain operators, and of
// intrinsics where it does not find the instruction. See tiles.h for how this file is included.

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif
/// Lanes of a vector of floats; kGroupLanes groups take one, two or four vectors.
constexpr int kLanes = kVectorBytes / 4;

using Floats = float __attribute__((vector_size(kVectorBytes)));
using Ints = int32_t __attribute__((vector_size(kVectorBytes)));
using Doubles = double __attribute__((vector_size(kVectorBytes)));
using Longs = int64_t __attribute__((vector_size(kVectorBytes)));
using SixteenBytes = uint8_t __attribute__((vector_size(16)));

/// As many doubles as there are lanes.
struct Wide {
  Doubles low, high;
};

template <class T>
ALWAYS_INLINE T read_as(const void* from) {
  T value;
  __builtin_memcpy(&value, from, sizeof(T));
  return value;
}
template <class T>
ALWAYS_INLINE void write_to(void* into, const T& value) {
  __builtin_memcpy(into, &value, sizeof(T));
}

// smaller and larger give the second where two are equal or one is NaN. of_rows: four numbers each of every fourth row.
#if defined(__AVX512F__)
ALWAYS_INLINE Floats smaller(Floats a, Floats b) { return _mm512_min_ps(a, b); }
ALWAYS_INLINE Floats larger(Floats a, Floats b) { return _mm512_max_ps(a, b); }
ALWAYS_INLINE Doubles smaller(Doubles a, Doubles b) { return _mm512_min_pd(a, b); }
ALWAYS_INLINE Doubles larger(Doubles a, Doubles b) { return _mm512_max_pd(a, b); }
ALWAYS_INLINE Wide widened(Floats v) { return {_mm512_cvtps_pd(_mm512_castps512_ps256(v)), _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1))}; }
ALWAYS_INLINE Floats narrowed(const Wide& v) {
  return _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(v.low)), _mm512_cvtpd_ps(v.high), 1);
}
ALWAYS_INLINE Ints truncated(const Wide& v) {
  return (Ints)_mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvttpd_epi32(v.low)), _mm512_cvttpd_epi32(v.high), 1);
}
ALWAYS_INLINE Wide widened(Ints v) {
  return {_mm512_cvtepi32_pd(_mm512_castsi512_si256((__m512i)v)), _mm512_cvtepi32_pd(_mm512_extracti64x4_epi64((__m512i)v, 1))};
}
ALWAYS_INLINE Floats of_rows(const float* const* rows, size_t at) {
  Floats v = _mm512_castps128_ps512(_mm_loadu_ps(rows[0] + at));
  v = _mm512_insertf32x4(v, _mm_loadu_ps(rows[4] + at), 1);
  v = _mm512_insertf32x4(v, _mm_loadu_ps(rows[8] + at), 2);
  return _mm512_insertf32x4(v, _mm_loadu_ps(rows[12] + at), 3);
}
ALWAYS_INLINE Floats low_pairs(Floats a, Floats b) { return _mm512_unpacklo_ps(a, b); }
ALWAYS_INLINE Floats high_pairs(Floats a, Floats b) { return _mm512_unpackhi_ps(a, b); }
ALWAYS_INLINE Floats low_halves(Floats a, Floats b) { return (Floats)_mm512_unpacklo_pd((Doubles)a, (Doubles)b); }
ALWAYS_INLINE Floats high_halves(Floats a, Floats b) { return (Floats)_mm512_unpackhi_pd((Doubles)a, (Doubles)b); }
ALWAYS_INLINE Floats even_lanes(Floats a, Floats b) {
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
}
ALWAYS_INLINE Floats odd_lanes(Floats a, Floats b) {
  return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}
#elif defined(__AVX__)
ALWAYS_INLINE Floats smaller(Floats a, Floats b) { return _mm256_min_ps(a, b); }
ALWAYS_INLINE Floats larger(Floats a, Floats b) { return _mm256_max_ps(a, b); }
ALWAYS_INLINE Doubles smaller(Doubles a, Doubles b) { return _mm256_min_pd(a, b); }
ALWAYS_INLINE Doubles larger(Doubles a, Doubles b) { return _mm256_max_pd(a, b); }
ALWAYS_INLINE Wide widened(Floats v) { return {_mm256_cvtps_pd(_mm256_castps256_ps128(v)), _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1))}; }
ALWAYS_INLINE Floats narrowed(const Wide& v) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm256_cvtpd_ps(v.low)), _mm256_cvtpd_ps(v.high), 1);
}
ALWAYS_INLINE Ints truncated(const Wide& v) {
  return (Ints)_mm256_insertf128_si256(_mm256_castsi128_si256(_mm256_cvttpd_epi32(v.low)), _mm256_cvttpd_epi32(v.high), 1);
}
ALWAYS_INLINE Wide widened(Ints v) {
  return {_mm256_cvtepi32_pd(_mm256_castsi256_si128((__m256i)v)), _mm256_cvtepi32_pd(_mm256_extractf128_si256((__m256i)v, 1))};
}
ALWAYS_INLINE Floats of_rows(const float* const* rows, size_t at) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(rows[0] + at)), _mm_loadu_ps(rows[4] + at), 1);
}
ALWAYS_INLINE Floats low_pairs(Floats a, Floats b) { return _mm256_unpacklo_ps(a, b); }
ALWAYS_INLINE Floats high_pairs(Floats a, Floats b) { return _mm256_unpackhi_ps(a, b); }
ALWAYS_INLINE Floats low_halves(Floats a, Floats b) { return (Floats)_mm256_unpacklo_pd((Doubles)a, (Doubles)b); }
ALWAYS_INLINE Floats high_halves(Floats a, Floats b) { return (Floats)_mm256_unpackhi_pd((Doubles)a, (Doubles)b); }
ALWAYS_INLINE Floats even_lanes(Floats a, Floats b) { return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14); }
ALWAYS_INLINE Floats odd_lanes(Floats a, Floats b) { return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15); }
#else
template <class T>
ALWAYS_INLINE T smaller(T a, T b) {
  return a < b ? a : b;
}
template <class T>
ALWAYS_INLINE T larger(T a, T b) {
  return a > b ? a : b;
}
ALWAYS_INLINE Wide widened(Floats v) { return {Doubles{v[0], v[1]}, Doubles{v[2], v[3]}}; }
/// As vectors: of lanes that are narrowed and widened one by one GCC 12 makes nothing at all.
using TwoFloats = float __attribute__((vector_size(8)));
ALWAYS_INLINE Floats narrowed(const Wide& v) {
  return __builtin_shufflevector(__builtin_convertvector(v.low, TwoFloats), __builtin_convertvector(v.high, TwoFloats), 0, 1, 2, 3);
}
ALWAYS_INLINE Ints truncated(const Wide& v) {
  return Ints{static_cast<int32_t>(v.low[0]), static_cast<int32_t>(v.low[1]), static_cast<int32_t>(v.high[0]), static_cast<int32_t>(v.high[1])};
}
ALWAYS_INLINE Wide widened(Ints v) {
  return {Doubles{static_cast<double>(v[0]), static_cast<double>(v[1])}, Doubles{static_cast<double>(v[2]), static_cast<double>(v[3])}};
}
ALWAYS_INLINE Floats of_rows(const float* const* rows, size_t at) { return read_as<Floats>(rows[0] + at); }
ALWAYS_INLINE Floats low_pairs(Floats a, Floats b) { return __builtin_shufflevector(a, b, 0, 4, 1, 5); }
ALWAYS_INLINE Floats high_pairs(Floats a, Floats b) { return __builtin_shufflevector(a, b, 2, 6, 3, 7); }
ALWAYS_INLINE Floats low_halves(Floats a, Floats b) { return __builtin_shufflevector(a, b, 0, 1, 4, 5); }
ALWAYS_INLINE Floats high_halves(Floats a, Floats b) { return __builtin_shufflevector(a, b, 2, 3, 6, 7); }
ALWAYS_INLINE Floats even_lanes(Floats a, Floats b) { return __builtin_shufflevector(a, b, 0, 2, 4, 6); }
ALWAYS_INLINE Floats odd_lanes(Floats a, Floats b) { return __builtin_shufflevector(a, b, 1, 3, 5, 7); }
#endif

ALWAYS_INLINE Floats all(float v) { return Floats{} + v; }
ALWAYS_INLINE Doubles all(double v) { return Doubles{} + v; }
ALWAYS_INLINE Floats magnitude(Floats v) { return (Floats)((Ints)v & 0x7fffffff); }
ALWAYS_INLINE Doubles magnitude(Doubles v) { return (Doubles)((Longs)v & 0x7fffffffffffffff); }

/// Adding and taking off 1.5 * 2^23 (2^52) rounds to an integer, ties to even, what is below 2^22 (2^51); larger numbers stay large.
ALWAYS_INLINE Floats rounded(Floats v) { return v + 12582912.0f - 12582912.0f; }
ALWAYS_INLINE Doubles rounded(Doubles v) { return v + 6755399441055744.0 - 6755399441055744.0; }

/// To the nearest f16, ties to even, what is below 65520: a number so much larger that its last bit is an f16's is added and taken off.
ALWAYS_INLINE Floats rounded_to_f16(Floats v) {
  const Ints size = (Ints)v & 0x7fffffff, least = Ints{} + 0x38800000;
  const Ints exponent = (size < least ? least : size) & 0x7f800000;
  const Floats far = (Floats)(exponent + (13 << 23));
  return (Floats)((Ints)(((Floats)size + far) - far) | ((Ints)v & static_cast<int32_t>(0x80000000)));
}

/// The lower bytes of whole numbers.
ALWAYS_INLINE void write_bytes(uint8_t* into, Ints whole) {
#if defined(__AVX512F__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(into), _mm512_cvtepi32_epi8((__m512i)whole));
#else
  for (int l = 0; l < kLanes; ++l) into[l] = static_cast<uint8_t>(whole[l]);
#endif
}
ALWAYS_INLINE void write_bytes(uint8_t* into, Floats v) { write_bytes(into, __builtin_convertvector(v, Ints)); }

/// Elements [from, from + n) of kLanes rows as vectors of the rows.
ALWAYS_INLINE void turn(const float* const* rows, size_t from, size_t n, Floats* into) {
  size_t i = 0;
  for (; i + 4 <= n; i += 4) {
    const Floats a = of_rows(rows, from + i), b = of_rows(rows + 1, from + i);
    const Floats c = of_rows(rows + 2, from + i), d = of_rows(rows + 3, from + i);
    const Floats ab = low_pairs(a, b), cd = low_pairs(c, d), AB = high_pairs(a, b), CD = high_pairs(c, d);
    into[i] = low_halves(ab, cd);
    into[i + 1] = high_halves(ab, cd);
    into[i + 2] = low_halves(AB, CD);
    into[i + 3] = high_halves(AB, CD);
  }
  for (; i < n; ++i) {
    for (int l = 0; l < kLanes; ++l) into[i][l] = rows[l][from + i];
  }
}

/// Bytes [size, 16] as rows of `size` bytes, the first `lanes` of them.
void turn_bytes(const uint8_t* from, size_t size, int lanes, uint8_t* into, size_t stride) {
  size_t i = 0;
  for (; i + 16 <= size; i += 16) {
    SixteenBytes v[16], w[16];
    UNROLL for (int r = 0; r < 16; ++r) v[r] = read_as<SixteenBytes>(from + 16 * (i + static_cast<size_t>(r)));
    // Four times: what is 8 vectors apart becomes neighbours.
    UNROLL for (int round = 0; round < 4; ++round) {
      UNROLL for (int r = 0; r < 8; ++r) {
        w[2 * r] = __builtin_shufflevector(v[r], v[r + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        w[2 * r + 1] = __builtin_shufflevector(v[r], v[r + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
      }
      UNROLL for (int r = 0; r < 16; ++r) v[r] = w[r];
    }
    for (int l = 0; l < lanes; ++l) write_to(into + static_cast<size_t>(l) * stride + i, v[l]);
  }
  for (; i < size; ++i) {
    for (int l = 0; l < lanes; ++l) into[static_cast<size_t>(l) * stride + i] = from[16 * i + static_cast<size_t>(l)];
  }
}
