// Routines of group-wise quantizers on groups of consecutive weights, with the roundings and the order of sums of the TypeScript they stand in for:
// every operation rounds to f32 where that does, sums of a group are doubles added in the order of its elements. So groups, not elements, are the lanes.
// Plain loops of fixed length: each instruction set's compiler makes vectors of them. See tiles.h for how this file is included.

constexpr int kLanes = kGroupLanes;

void min_max(const float* w, size_t groups, size_t size, float* low, float* high) {
  for (size_t g = 0; g < groups; ++g, w += size) {
    float lo = w[0], hi = w[0];
    for (size_t i = 1; i < size; ++i) {
      lo = w[i] < lo ? w[i] : lo;
      hi = w[i] > hi ? w[i] : hi;
    }
    low[g] = lo;
    high[g] = hi;
  }
}

/// Sums of one half-quadratic step over kLanes groups, w[l] the weights of group l.
void proximal_step(const float* const* w, size_t size, float top, const float* inverse, const float* zero, double* error, double* zero_sum,
                   float* largest) {
  constexpr size_t kRun = 64;
  alignas(64) float turned[kRun][kLanes];
  alignas(64) double e[kLanes] = {}, zs[kLanes] = {};
  alignas(64) float most[kLanes] = {}, s[kLanes], z[kLanes];
  for (int l = 0; l < kLanes; ++l) {
    s[l] = inverse[l];
    z[l] = zero[l];
  }
  for (size_t from = 0; from < size; from += kRun) {
    const size_t n = size - from < kRun ? size - from : kRun;
    for (int l = 0; l < kLanes; ++l) {
      for (size_t i = 0; i < n; ++i) turned[i][l] = w[l][from + i];
    }
    for (size_t i = 0; i < n; ++i) {
      alignas(64) float residual[kLanes], off[kLanes];
      for (int l = 0; l < kLanes; ++l) {
        const float v = turned[i][l];
        const float scaled = v * s[l];
        float q = __builtin_rintf(scaled + z[l]);
        q = q < 0.0f ? 0.0f : q;
        q = q > top ? top : q;
        const float r = __builtin_fabsf(v - (q - z[l]) / s[l]);
        residual[l] = r;
        off[l] = q - scaled;
        most[l] = r > most[l] ? r : most[l];
      }
      for (int l = 0; l < kLanes; ++l) e[l] += static_cast<double>(residual[l]);
      for (int l = 0; l < kLanes; ++l) zs[l] += static_cast<double>(off[l]);
    }
  }
  for (int l = 0; l < kLanes; ++l) {
    error[l] = e[l];
    zero_sum[l] = zs[l];
    largest[l] = most[l];
  }
}

/// Codes of one group, and w minus what they stand for. `solved`: codes in f32 by inverse and z; else in double by 1 / scale and zero.
void assign_codes(const float* w, size_t size, float top, float scale, float zero, bool solved, float inverse, float z, uint8_t* codes,
                  double* error) {
  const double wide_inverse = 1.0 / static_cast<double>(scale);
  for (size_t i = 0; i < size; ++i) {
    float q = solved ? __builtin_rintf(w[i] * inverse + z)
                     : static_cast<float>(__builtin_rint(static_cast<double>(w[i]) * wide_inverse + static_cast<double>(zero)));
    q = q < 0.0f ? 0.0f : q;
    q = q > top ? top : q;
    codes[i] = static_cast<uint8_t>(static_cast<int32_t>(q));
    error[i] = static_cast<double>(w[i]) - static_cast<double>((q - zero) * scale);
  }
}
