// Products in floating point, eight inputs at a time: dense weights, HIGGS and other tables, axis 0.
#pragma once

#include "gemv.cuh"

namespace lowbit {

constexpr int kWide = 8;

struct alignas(16) Float4 {
  float x, y, z, w;
};

__device__ __forceinline__ void load_eight(const float* from, float (&values)[kWide]) {
  const Float4 a = reinterpret_cast<const Float4*>(from)[0], b = reinterpret_cast<const Float4*>(from)[1];
  values[0] = a.x, values[1] = a.y, values[2] = a.z, values[3] = a.w;
  values[4] = b.x, values[5] = b.y, values[6] = b.z, values[7] = b.w;
}

/// Weights [row][k .. k + 7], in the rotated basis if there is one; k is a multiple of 8. `table`: that of the weight.
__device__ __forceinline__ void eight_weights(const Weight& w, const float* table, int row, int k, float (&values)[kWide]) {
  if (w.kind == kDense) {
    const long long at = static_cast<long long>(row) * w.inp + k;
    if (w.stored == kF32) return load_eight(reinterpret_cast<const float*>(w.codes) + at, values);
    const Word4 four = *reinterpret_cast<const Word4*>(reinterpret_cast<const uint16_t*>(w.codes) + at);
    const uint32_t words[4] = {four.x, four.y, four.z, four.w};
    LOWBIT_UNROLL
    for (int i = 0; i < kWide; ++i) {
      const uint16_t bits = static_cast<uint16_t>(words[i / 2] >> (16 * (i % 2)));
      values[i] = w.stored == kF16 ? from_f16(bits) : from_bf16(bits);
    }
    return;
  }
  // Eight in a row are of one group along rows, and of groups in a row along columns.
  const int g = group_of(w, row, k);
  float scale = stored_float(w.scale, g, w.meta);
  if (w.table != 0) {
    const uint32_t* words = reinterpret_cast<const uint32_t*>(w.codes) + static_cast<long long>(row) * w.row_words;
    const uint32_t first = four_codes(words, k / w.dim, w.bits), second = w.dim == 2 ? 0 : four_codes(words, k + 4, w.bits);
    LOWBIT_UNROLL
    for (int i = 0; i < kWide; ++i) {
      const uint32_t code = w.dim == 2 ? first >> (8 * (i / 2)) & 0xff : (i < 4 ? first : second) >> (8 * (i % 4)) & 0xff;
      values[i] = rounded(table[w.dim == 2 ? code * 2 + i % 2 : code] * scale, w.round);
    }
    return;
  }
  float zero = w.zero != 0 ? stored_float(w.zero, g, w.meta) : w.fixed_zero;
  LOWBIT_UNROLL
  for (int i = 0; i < kWide; ++i) {
    if (w.axis == 0 && i > 0) {
      scale = stored_float(w.scale, g + i, w.meta);
      if (w.zero != 0) zero = stored_float(w.zero, g + i, w.meta);
    }
    values[i] = (static_cast<float>(code_at(w, row, k + i)) - zero) * scale;
  }
}

__device__ __forceinline__ void load_table(const Weight& w, float* table) {
  if (w.table != 0) {
    for (int i = threadIdx.x; i < (w.dim << w.bits); i += blockDim.x) table[i] = reinterpret_cast<const float*>(w.table)[i];
  }
  __syncthreads();
}

constexpr int kFewWide = 2;

/// As `product`, of one or two rows of x, for rows and groups that are multiples of 8 inputs. Grid: (ceil(out / 4), ceil(rows / 2)); block: 128.
extern "C" __global__ void __launch_bounds__(128) wide_product(const Weight* weight, const float* x, float* out, int rows) {
  LOWBIT_SHARED(float, table, 512);
  const Weight w = *weight;
  load_table(w, table);
  const int lane = threadIdx.x % 32, row = blockIdx.x * kWarps + threadIdx.x / 32;
  const int first = blockIdx.y * kFewWide, count = min(rows - first, kFewWide);
  if (row >= w.out) return;
  float sums[kFewWide] = {};
  for (int k = lane * kWide; k < w.inp; k += 32 * kWide) {
    float values[kWide];
    eight_weights(w, table, row, k, values);
    LOWBIT_UNROLL
    for (int i = 0; i < kFewWide; ++i) {
      if (i >= count) continue;
      float inputs[kWide];
      load_eight(x + static_cast<long long>(first + i) * w.inp + k, inputs);
      LOWBIT_UNROLL
      for (int j = 0; j < kWide; ++j) sums[i] = fmaf(values[j], inputs[j], sums[i]);
    }
  }
  LOWBIT_UNROLL
  for (int i = 0; i < kFewWide; ++i) {
    const float sum = warp_sum(sums[i]);
    if (lane == 0 && i < count) out[static_cast<long long>(first + i) * w.out + row] = with_bias(w, row, sum);
  }
}

}  // namespace lowbit
