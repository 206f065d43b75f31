// Attention, and the functions it shares with activations: one body for all instruction sets, see tiles.h.
//
// Keys of a cache lie in blocks of 16 positions, [block][channel][16], so that a vector holds one channel of 16 keys and no sum crosses lanes. Every number
// depends on its own query and keys alone, not on the queries beside it.

/// e^x within 2^-22 of it, 0 below -87, infinity above 88.7; NaN stays. Cephes' polynomial; products and sums round one by one, on all machines alike.
ALWAYS_INLINE float exponential(float x) {
  const float bounded = x < -88.0f ? -88.0f : x > 89.0f ? 89.0f : x;
  // Adding 1.5 * 2^23 rounds to a whole number, which is then the low bits.
  const float shifted = bounded * 1.44269504f + 12582912.0f;
  const float whole = shifted - 12582912.0f;
  const float r = (bounded - whole * 0.693359375f) - whole * -2.12194440e-4f;
  float y = 1.9875691500e-4f;
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * r * r + r + 1.0f;
  uint32_t bits;
  __builtin_memcpy(&bits, &shifted, 4);
  // In two steps: 2^128 is no float, 2^-127 no normal one.
  const int32_t power = static_cast<int32_t>(bits - 0x4b400000u);
  const int32_t half = power >> 1;
  const uint32_t first = static_cast<uint32_t>(half + 127) << 23, second = static_cast<uint32_t>(power - half + 127) << 23;
  float a, b;
  __builtin_memcpy(&a, &first, 4);
  __builtin_memcpy(&b, &second, 4);
  y = y * a * b;
  return x < -87.0f ? 0.0f : y;
}

/// p[i] = e^(factor p[i] - most), most the largest of factor p[i]; gives their sum.
double soften(float* p, size_t count, float factor) {
  float lanes[16];
  for (int l = 0; l < 16; ++l) lanes[l] = -__builtin_inff();
  size_t i = 0;
  for (; i + 16 <= count; i += 16) {
    for (int l = 0; l < 16; ++l) {
      const float score = p[i + l] * factor;
      p[i + l] = score;
      lanes[l] = score > lanes[l] ? score : lanes[l];
    }
  }
  float most = -__builtin_inff();
  for (int l = 0; l < 16; ++l) most = lanes[l] > most ? lanes[l] : most;
  for (; i < count; ++i) {
    p[i] *= factor;
    most = p[i] > most ? p[i] : most;
  }
  double total = 0;
  float sums[16] = {};
  for (i = 0; i + 16 <= count; i += 16) {
    for (int l = 0; l < 16; ++l) {
      const float e = exponential(p[i + l] - most);
      p[i + l] = e;
      sums[l] += e;
    }
    if (i % 256 == 240) {  // sums of f32 stay short
      for (int l = 0; l < 16; ++l) {
        total += static_cast<double>(sums[l]);
        sums[l] = 0;
      }
    }
  }
  for (int l = 0; l < 16; ++l) total += static_cast<double>(sums[l]);
  for (; i < count; ++i) {
    p[i] = exponential(p[i] - most);
    total += static_cast<double>(p[i]);
  }
  return total;
}

/// out[i] = x[i] / (1 + e^-x[i]), times y[i] if there is one.
void silu(const float* x, const float* y, size_t count, float* out) {
  if (y == nullptr) {
    for (size_t i = 0; i < count; ++i) out[i] = x[i] / (1.0f + exponential(-x[i]));
  } else {
    for (size_t i = 0; i < count; ++i) out[i] = x[i] / (1.0f + exponential(-x[i])) * y[i];
  }
}

template <Float D>
struct float_of {
  static constexpr Float value = D;
};

/// f(number of queries, dtype), both as types.
template <int N, class F>
ALWAYS_INLINE void with_dtype(Float dtype, F&& f) {
  switch (dtype) {
    case Float::f16:
      return f(index_of<N>{}, float_of<Float::f16>{});
    case Float::bf16:
      return f(index_of<N>{}, float_of<Float::bf16>{});
    default:
      return f(index_of<N>{}, float_of<Float::f32>{});
  }
}
template <class F>
ALWAYS_INLINE void with_constants(int queries, Float dtype, F&& f) {
  switch (queries) {
    case 1:
      return with_dtype<1>(dtype, f);
    case 2:
      return with_dtype<2>(dtype, f);
    case 3:
      return with_dtype<3>(dtype, f);
    default:
      return with_dtype<4>(dtype, f);
  }
}

template <Float D, int N, int B>
ALWAYS_INLINE void score_block(const float* const* q, const uint8_t* k, size_t stride, size_t dim, size_t at, float* const* out) {
  constexpr size_t line = 16 * (D == Float::f32 ? 4 : 2);
  V::Floats sums[N][B];
  UNROLL for (int n = 0; n < N; ++n) UNROLL for (int b = 0; b < B; ++b) sums[n][b] = V::set(0.0f);
  for (size_t d = 0; d < dim; ++d) {
    V::Floats keys[B];
    UNROLL for (int b = 0; b < B; ++b) keys[b] = load_meta(k + (at + b) * stride + d * line, D);
    UNROLL for (int n = 0; n < N; ++n) {
      const V::Floats v = V::set(q[n][d]);
      UNROLL for (int b = 0; b < B; ++b) sums[n][b] = V::multiply_add(keys[b], v, sums[n][b]);
    }
  }
  UNROLL for (int n = 0; n < N; ++n) UNROLL for (int b = 0; b < B; ++b) V::store(out[n] + (at + b) * 16, sums[n][b]);
}

template <Float D, int N>
void score_blocks_of(const float* const* q, const uint8_t* k, size_t stride, size_t dim, size_t blocks, float* const* out) {
  constexpr int B = V::kKeyBlocks[N - 1];
  size_t at = 0;
  for (; at + B <= blocks; at += B) score_block<D, N, B>(q, k, stride, dim, at, out);
  for (; at < blocks; ++at) score_block<D, N, 1>(q, k, stride, dim, at, out);
}

void score_blocks(const float* const* q, int queries, const uint8_t* k, Float dtype, size_t stride, size_t dim, size_t blocks, float* const* out) {
  with_constants(queries, dtype, [&](auto n, auto d) ALWAYS_INLINE_LAMBDA {
    score_blocks_of<decltype(d)::value, decltype(n)::value>(q, k, stride, dim, blocks, out);
  });
}

template <Float D, int N, int P>
ALWAYS_INLINE void mix_part(const float* const* weights, const uint8_t* v, size_t stride, size_t i, size_t count, float* const* out) {
  constexpr size_t width = D == Float::f32 ? 4 : 2;
  V::Floats sums[N][P];
  UNROLL for (int n = 0; n < N; ++n) UNROLL for (int p = 0; p < P; ++p) sums[n][p] = V::load_f32(out[n] + i + 16 * p);
  for (size_t j = 0; j < count; ++j) {
    V::Floats values[P];
    UNROLL for (int p = 0; p < P; ++p) values[p] = load_meta(v + j * stride + (i + 16 * p) * width, D);
    UNROLL for (int n = 0; n < N; ++n) {
      const V::Floats weight = V::set(weights[n][j]);
      UNROLL for (int p = 0; p < P; ++p) sums[n][p] = V::multiply_add(values[p], weight, sums[n][p]);
    }
  }
  UNROLL for (int n = 0; n < N; ++n) UNROLL for (int p = 0; p < P; ++p) V::store(out[n] + i + 16 * p, sums[n][p]);
}

template <Float D, int N>
void mix_rows_of(const float* const* weights, const uint8_t* v, size_t stride, size_t dim, size_t count, float* const* out) {
  constexpr int P = V::kValueVectors[N - 1];
  size_t i = 0;
  for (; i + 16 * P <= dim; i += 16 * P) mix_part<D, N, P>(weights, v, stride, i, count, out);
  for (; i + 16 <= dim; i += 16) mix_part<D, N, 1>(weights, v, stride, i, count, out);
  if (i == dim) return;
  for (int n = 0; n < N; ++n) {
    float lanes[16] = {};
    __builtin_memcpy(lanes, out[n] + i, (dim - i) * sizeof(float));
    V::Floats sum = V::load_f32(lanes);
    for (size_t j = 0; j < count; ++j) {
      sum = V::multiply_add(load_tail(v + j * stride + i * stored_bytes(D), D, dim - i), V::set(weights[n][j]), sum);
    }
    V::store(lanes, sum);
    __builtin_memcpy(out[n] + i, lanes, (dim - i) * sizeof(float));
  }
}

void mix_rows(const float* const* weights, int queries, const uint8_t* v, Float dtype, size_t stride, size_t dim, size_t count,
              float* const* out) {
  with_constants(queries, dtype, [&](auto n, auto d) ALWAYS_INLINE_LAMBDA {
    mix_rows_of<decltype(d)::value, decltype(n)::value>(weights, v, stride, dim, count, out);
  });
}
