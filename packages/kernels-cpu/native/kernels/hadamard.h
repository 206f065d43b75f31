// The Hadamard transform of activations: sums and differences in f32, in one order, on all instruction sets alike. See tiles.h for how it is included.

/// Sums and differences of numbers H apart, in runs of 2 H: H up to 8 within a vector.
template <int H>
ALWAYS_INLINE void butterflies_within(float* v, size_t n) {
  for (size_t i = 0; i < n; i += 16) V::store(v + i, V::template butterfly<H>(V::load_f32(v + i)));
}

/// As above for H of whole vectors; H and 2 H in one pass where both are wanted.
ALWAYS_INLINE void butterflies(float* v, size_t n, size_t h) {
  for (size_t run = 0; run < n; run += 2 * h) {
    for (size_t i = run; i < run + h; i += 16) {
      const V::Floats a = V::load_f32(v + i), b = V::load_f32(v + i + h);
      V::store(v + i, V::add(a, b));
      V::store(v + i + h, V::sub(a, b));
    }
  }
}

ALWAYS_INLINE void double_butterflies(float* v, size_t n, size_t h) {
  for (size_t run = 0; run < n; run += 4 * h) {
    for (size_t i = run; i < run + h; i += 16) {
      const V::Floats a = V::load_f32(v + i), b = V::load_f32(v + i + h), c = V::load_f32(v + i + 2 * h), d = V::load_f32(v + i + 3 * h);
      const V::Floats ab = V::add(a, b), a_b = V::sub(a, b), cd = V::add(c, d), c_d = V::sub(c, d);
      V::store(v + i, V::add(ab, cd));
      V::store(v + i + h, V::add(a_b, c_d));
      V::store(v + i + 2 * h, V::sub(ab, cd));
      V::store(v + i + 3 * h, V::sub(a_b, c_d));
    }
  }
}

/// Runs of `block` (a power of two) of n numbers, n a multiple of 16 and of the block (or this of 16), in place, unnormalised.
void transform(float* v, size_t n, size_t block) {
  if (block >= 16) {
    for (size_t i = 0; i < n; i += 16) {
      V::Floats a = V::template butterfly<1>(V::load_f32(v + i));
      a = V::template butterfly<2>(a);
      a = V::template butterfly<4>(a);
      V::store(v + i, V::template butterfly<8>(a));
    }
  } else {
    if (block >= 2) butterflies_within<1>(v, n);
    if (block >= 4) butterflies_within<2>(v, n);
    if (block >= 8) butterflies_within<4>(v, n);
  }
  size_t h = 16;
  for (; 4 * h <= block; h *= 4) double_butterflies(v, n, h);
  if (2 * h <= block) butterflies(v, n, h);
}

void transform_normalised(float* v, size_t n, size_t block) {
  transform(v, n, block);
  const V::Floats norm = V::set(static_cast<float>(1.0 / __builtin_sqrt(static_cast<double>(block))));
  for (size_t i = 0; i < n; i += 16) V::store(v + i, V::mul(V::load_f32(v + i), norm));
}

void rotate(const float* x, size_t features, size_t columns, size_t block, bool evens_first, float* out) {
  __builtin_memcpy(out, x, features * sizeof(float));
  for (size_t i = features; i < columns; ++i) out[i] = 0;
  if (block > 1) {
    const size_t whole = columns / 16 * 16;  // shorter rows are of blocks below 16
    if (whole > 0) transform_normalised(out, whole, block);
    if (whole < columns) {
      float rest[16] = {};
      __builtin_memcpy(rest, out + whole, (columns - whole) * sizeof(float));
      transform_normalised(rest, 16, block);
      __builtin_memcpy(out + whole, rest, (columns - whole) * sizeof(float));
    }
  }
  if (!evens_first) return;
  for (size_t i = 0; i + 8 <= columns; i += 8) {
    float v[8];
    __builtin_memcpy(v, out + i, sizeof(v));
    for (size_t j = 0; j < 4; ++j) {
      out[i + j] = v[2 * j];
      out[i + 4 + j] = v[2 * j + 1];
    }
  }
}
