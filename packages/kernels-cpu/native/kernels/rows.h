// Products with rows of floats, and widening of stored floats: one body for all instruction sets, see tiles.h.

/// Adds 16 lanes in a fixed order.
ALWAYS_INLINE float total(V::Floats lanes) {
  float v[16];
  V::store(v, lanes);
  for (int h = 8; h > 0; h /= 2) {
    for (int i = 0; i < h; ++i) v[i] += v[i + h];
  }
  return v[0];
}

template <bool FUSED>
ALWAYS_INLINE V::Floats accumulate(V::Floats a, V::Floats b, V::Floats sum) {
  if constexpr (FUSED) return V::multiply_add(a, b, sum);
  return V::add(V::mul(a, b), sum);
}

/// R rows x T tokens. Each sum is 16 lanes over the inputs in order, added up at the end: it depends on neither R nor T.
template <int R, int T, bool FUSED = true>
ALWAYS_INLINE void dot_tile(const float* w, size_t n, const float* x, size_t x_stride, float* out, size_t out_stride) {
  V::Floats sums[R][T];
  UNROLL for (int r = 0; r < R; ++r) UNROLL for (int t = 0; t < T; ++t) sums[r][t] = V::set(0.0f);
  size_t k = 0;
  for (; k + 16 <= n; k += 16) {
    V::Floats v[T];
    UNROLL for (int t = 0; t < T; ++t) v[t] = V::load_f32(x + t * x_stride + k);
    UNROLL for (int r = 0; r < R; ++r) {
      const V::Floats row = V::load_f32(w + r * n + k);
      UNROLL for (int t = 0; t < T; ++t) sums[r][t] = accumulate<FUSED>(row, v[t], sums[r][t]);
    }
  }
  if (k < n) {
    UNROLL for (int r = 0; r < R; ++r) {
      const V::Floats row = V::load_part(w + r * n + k, n - k);
      UNROLL for (int t = 0; t < T; ++t) {
        sums[r][t] = accumulate<FUSED>(row, V::load_part(x + t * x_stride + k, n - k), sums[r][t]);
      }
    }
  }
  UNROLL for (int r = 0; r < R; ++r) UNROLL for (int t = 0; t < T; ++t) out[t * out_stride + r] = total(sums[r][t]);
}

template <int R>
void dot_rows(const float* w, size_t n, const float* x, size_t x_stride, size_t tokens, float* out, size_t out_stride) {
  size_t t = 0;
  for (; t + V::kDotTokens <= tokens; t += V::kDotTokens) {
    dot_tile<R, V::kDotTokens>(w, n, x + t * x_stride, x_stride, out + t * out_stride, out_stride);
  }
  for (; t < tokens; ++t) dot_tile<R, 1>(w, n, x + t * x_stride, x_stride, out + t * out_stride, out_stride);
}

void dot(const float* w, size_t rows, size_t n, const float* x, size_t x_stride, size_t tokens, float* out, size_t out_stride) {
  switch (rows) {
    case 1:
      return dot_rows<1>(w, n, x, x_stride, tokens, out, out_stride);
    case 2:
      return dot_rows<2>(w, n, x, x_stride, tokens, out, out_stride);
    case 3:
      return dot_rows<3>(w, n, x, x_stride, tokens, out, out_stride);
    default:
      return dot_rows<4>(w, n, x, x_stride, tokens, out, out_stride);
  }
}

void dot_plain(const float* w, size_t n, const float* x, size_t x_stride, size_t tokens, float* out) {
  for (size_t t = 0; t < tokens; ++t) dot_tile<1, 1, false>(w, n, x + t * x_stride, x_stride, out + t, 1);
}

void scores(const float* q, const float* k, size_t stride, size_t dim, size_t count, float* out) {
  for (size_t j = 0; j < count; ++j) dot_tile<1, 1>(k + j * stride, dim, q, 0, out + j, 1);
}

void mix(const float* v, size_t stride, size_t dim, size_t count, const float* weights, float* out) {
  for (size_t i = 0; i < dim; i += 16) {
    V::Floats sum = V::set(0.0f);
    if (i + 16 <= dim) {
      for (size_t j = 0; j < count; ++j) sum = V::multiply_add(V::load_f32(v + j * stride + i), V::set(weights[j]), sum);
      V::store(out + i, sum);
    } else {
      float lanes[16];
      for (size_t j = 0; j < count; ++j) sum = V::multiply_add(V::load_part(v + j * stride + i, dim - i), V::set(weights[j]), sum);
      V::store(lanes, sum);
      __builtin_memcpy(out + i, lanes, (dim - i) * sizeof(float));
    }
  }
}

void widen(const uint8_t* data, Float dtype, size_t count, float* out) {
  const size_t width = dtype == Float::f32 ? 4 : 2;
  size_t i = 0;
  for (; i + 16 <= count; i += 16) V::store(out + i, load_meta(data + i * width, dtype));
  if (i == count) return;
  alignas(64) uint8_t rest[64] = {};
  float lanes[16];
  __builtin_memcpy(rest, data + i * width, (count - i) * width);
  V::store(lanes, load_meta(rest, dtype));
  __builtin_memcpy(out + i, lanes, (count - i) * sizeof(float));
}
