// Products with any weight, in the order of its stored rows. Right for every format and shape; gemv.cuh has the fast ones.
#pragma once

#include "step.cuh"
#include "weight.cuh"

namespace lowbit {

/// Rows of x that a block multiplies at once.
constexpr int kRowsAtOnce = 8;
constexpr int kWarps = 4;

__device__ __forceinline__ float with_bias(const Weight& w, int row, float sum) {
  return w.bias != 0 ? sum + reinterpret_cast<const float*>(w.bias)[row] : sum;
}

/**
 * out [rows, out] = x [rows, inp] W^T + bias. A warp for each row of the weight: it reads each number once for up to 8 rows of x. Sums run over the
 * inputs of a lane, then over lanes, whatever the rows beside a row.
 * Grid: (ceil(out / 4), ceil(rows / 8)); block: 128.
 */
extern "C" __global__ void __launch_bounds__(128) product(const Weight* weight, const float* x, float* out, int rows) {
  const Weight w = *weight;
  const int lane = threadIdx.x % 32, row = blockIdx.x * kWarps + threadIdx.x / 32;
  const int first = blockIdx.y * kRowsAtOnce, count = min(rows - first, kRowsAtOnce);
  if (row >= w.out) return;
  float sums[kRowsAtOnce] = {};
  for (int k = lane; k < w.inp; k += 32) {
    const float value = weight_at(w, row, k);
    LOWBIT_UNROLL
    for (int i = 0; i < kRowsAtOnce; ++i) {
      if (i < count) sums[i] = fmaf(value, x[static_cast<long long>(first + i) * w.inp + k], sums[i]);
    }
  }
  LOWBIT_UNROLL
  for (int i = 0; i < kRowsAtOnce; ++i) {
    const float sum = warp_sum(sums[i]);
    if (lane == 0 && i < count) out[static_cast<long long>(first + i) * w.out + row] = with_bias(w, row, sum);
  }
}

/**
 * Row r of out is weights[ids[r]] times row r / top_k (shared != 0) or r of x. An id outside of the experts gives NaN.
 * Grid: (ceil(out / 4), rows); block: 128.
 */
extern "C" __global__ void __launch_bounds__(128)
    expert_product(const Address* weights, int experts, const int* ids, const float* x, float* out, int out_width, int top_k, int shared) {
  const int lane = threadIdx.x % 32, row = blockIdx.x * kWarps + threadIdx.x / 32, r = blockIdx.y, id = ids[r];
  if (row >= out_width) return;
  if (id < 0 || id >= experts) {
    if (lane == 0) out[static_cast<long long>(r) * out_width + row] = nan_value();
    return;
  }
  const Weight w = *reinterpret_cast<const Weight*>(weights[id]);
  const float* from = x + static_cast<long long>(shared ? r / top_k : r) * w.inp;
  float sum = 0;
  for (int k = lane; k < w.inp; k += 32) sum = fmaf(weight_at(w, row, k), from[k], sum);
  sum = warp_sum(sum);
  if (lane == 0) out[static_cast<long long>(r) * out_width + row] = with_bias(w, row, sum);
}

/// Rows [from, from + rows) of the weight, as they are stored: f32 [rows, inp]. Grid: (ceil(inp / 256), rows); block: 256.
extern "C" __global__ void fill_rows(const Weight* weight, int from, float* out) {
  const int k = blockIdx.x * blockDim.x + threadIdx.x;
  if (k < weight->inp) out[static_cast<long long>(blockIdx.y) * weight->inp + k] = weight_at(*weight, from + blockIdx.y, k);
}

/// Rows named by the step's tokens: f32 [tokens, inp]. Grid: (ceil(inp / 256), tokens); block: 256.
extern "C" __global__ void look_up(const Weight* weight, const Step* step, float* out) {
  const int k = blockIdx.x * blockDim.x + threadIdx.x;
  if (k >= weight->inp) return;
  const int row = static_cast<int>(section<uint32_t>(step, step->tokens)[blockIdx.y]);
  out[static_cast<long long>(blockIdx.y) * weight->inp + k] = weight_at(*weight, row, k);
}

/// Reads `count` times 16 bytes, to measure how fast that is: writes a word that depends on all of them. Grid: any; block: 256.
extern "C" __global__ void read_words(const uint32_t* from, int count, uint32_t* out) {
  uint32_t all = 0;
  for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += static_cast<long long>(gridDim.x) * blockDim.x) {
    const Word4 four = reinterpret_cast<const Word4*>(from)[i];
    all ^= four.x ^ four.y ^ four.z ^ four.w;
  }
  atomicXor(out, all);
}

}  // namespace lowbit
