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

ALWAYS_INLINE size_t stored_bytes(Float dtype) { return dtype == Float::f32 ? 4 : 2; }

/// The last n < 16 numbers of a row, then zeros.
ALWAYS_INLINE V::Floats load_tail(const uint8_t* p, Float dtype, size_t n) {
  alignas(64) uint8_t rest[64] = {};
  __builtin_memcpy(rest, p, n * stored_bytes(dtype));
  return load_meta(rest, dtype);
}

/// R rows of stored floats x T tokens. Each sum is 16 lanes over the inputs in order, added up at the end: it depends on neither R nor T.
template <Float D, int R, int T, bool FUSED = true>
ALWAYS_INLINE void dot_tile(const uint8_t* w, size_t n, const float* x, size_t x_stride, float* out, size_t out_stride) {
  const size_t width = stored_bytes(D);
  const size_t row_bytes = n * width;
  V::Floats sums[R][T];
  UNROLL for (int r = 0; r < R; ++r) UNROLL for (int t = 0; t < T; ++t) sums[r][t] = V::set(0.0f);
  // What is fetched meanwhile: R rows lie one after another, so near their end it is in the rows after these.
  const size_t ahead = row_bytes >= kAhead<1> ? kAhead<1> : (kAhead<1> / (R * row_bytes + 1) + 1) * R * row_bytes;
  size_t k = 0;
  for (; k + 16 <= n; k += 16) {
    if constexpr (R > 1 && T == 1) {
      UNROLL for (int r = 0; r < R; ++r) V::prefetch(w + r * row_bytes + k * width + ahead);
    }
    V::Floats v[T];
    UNROLL for (int t = 0; t < T; ++t) v[t] = V::load_f32(x + t * x_stride + k);
    UNROLL for (int r = 0; r < R; ++r) {
      const uint8_t* p = w + r * row_bytes + k * width;
      const V::Floats row = load_meta(p, D);
      UNROLL for (int t = 0; t < T; ++t) sums[r][t] = accumulate<FUSED>(row, v[t], sums[r][t]);
    }
  }
  if (k < n) {
    UNROLL for (int r = 0; r < R; ++r) {
      const V::Floats row = load_tail(w + r * row_bytes + k * width, D, n - k);
      UNROLL for (int t = 0; t < T; ++t) {
        sums[r][t] = accumulate<FUSED>(row, V::load_part(x + t * x_stride + k, n - k), sums[r][t]);
      }
    }
  }
  UNROLL for (int r = 0; r < R; ++r) UNROLL for (int t = 0; t < T; ++t) out[t * out_stride + r] = total(sums[r][t]);
}

template <Float D, int R>
ALWAYS_INLINE void dot_rows(const uint8_t* w, size_t n, const float* x, size_t x_stride, size_t tokens, float* out, size_t out_stride) {
  size_t t = 0;
  for (; t + V::kDotTokens <= tokens; t += V::kDotTokens) {
    dot_tile<D, R, V::kDotTokens>(w, n, x + t * x_stride, x_stride, out + t * out_stride, out_stride);
  }
  for (; t < tokens; ++t) dot_tile<D, R, 1>(w, n, x + t * x_stride, x_stride, out + t * out_stride, out_stride);
}

template <Float D>
void dot_stored(const uint8_t* w, size_t rows, size_t n, const float* x, size_t x_stride, size_t tokens, float* out, size_t out_stride) {
  if (rows == 4) return dot_rows<D, 4>(w, n, x, x_stride, tokens, out, out_stride);
  for (size_t r = 0; r < rows; ++r) dot_rows<D, 1>(w + r * n * stored_bytes(D), n, x, x_stride, tokens, out + r, out_stride);
}

void dot(const uint8_t* w, Float dtype, size_t rows, size_t n, const float* x, size_t x_stride, size_t tokens, float* out, size_t out_stride) {
  switch (dtype) {
    case Float::f16:
      return dot_stored<Float::f16>(w, rows, n, x, x_stride, tokens, out, out_stride);
    case Float::bf16:
      return dot_stored<Float::bf16>(w, rows, n, x, x_stride, tokens, out, out_stride);
    default:
      return dot_stored<Float::f32>(w, rows, n, x, x_stride, tokens, out, out_stride);
  }
}

ALWAYS_INLINE const uint8_t* as_bytes(const float* p) { return reinterpret_cast<const uint8_t*>(p); }

void dot_plain(const float* w, size_t n, const float* x, size_t x_stride, size_t tokens, float* out) {
  for (size_t t = 0; t < tokens; ++t) dot_tile<Float::f32, 1, 1, false>(as_bytes(w), n, x + t * x_stride, x_stride, out + t, 1);
}

void scores(const float* q, const float* k, size_t stride, size_t dim, size_t count, float* out) {
  for (size_t j = 0; j < count; ++j) dot_tile<Float::f32, 1, 1>(as_bytes(k + j * stride), dim, q, 0, out + j, 1);
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
