// Products of one or two rows of x with weights of codes together with what comes before and after them. Each number is that of the kernels one by one.
#pragma once

#include "elementwise.cuh"
#include "gemv.cuh"
#include "norm.cuh"

namespace lowbit {

constexpr int kFusedWarps = 8;
constexpr int kSharedBlock = 28;   // words of a block in shared memory: eight lanes that read one after another meet all banks
constexpr int kMostPerBlock = 64;  // rows of the weight to a block of threads

/// A row of x, normalised (`Normalizing`) and quantized, in dynamic shared memory of inp / 32 * 30 words: planes, then numbers.
__device__ __forceinline__ const BlockNumbers* quantized_row(const float* x, int inp, const Normalizing& norm, int natural, uint32_t* planes) {
  LOWBIT_SHARED(float, scratch, 32);
  const int blocks = inp / kBlock, lane = threadIdx.x % 32;
  BlockNumbers* numbers = reinterpret_cast<BlockNumbers*>(planes + blocks * kSharedBlock);
  const Moments moments = moments_of(x, inp, norm, scratch);
  for (int block = threadIdx.x / 32; block < blocks; block += kFusedWarps) {
    const int i = block * kBlock + lane;
    store_block(normalized(x[i], moments, norm, i, i, inp), natural, planes + block * kSharedBlock, numbers + block);
  }
  __syncthreads();
  return numbers;
}

/**
 * Up to three weights times rows of x, normalised: `per_block` rows of a weight to a block of threads, a multiple of 16; blocks of the first weight come first.
 * Grid: (blocks of all weights, rows); block: 256; dynamic shared memory: inp / 32 * 120 bytes.
 */
extern "C" __global__ void __launch_bounds__(256)
    gemv_normed(const float* x, int kind, float eps, const float* norm_weight, int weight_width, float offset, const float* norm_bias, int bias_width,
                int natural, int per_block, const Weight* first_weight, const Weight* second_weight, const Weight* third_weight, float* first_out,
                float* second_out, float* third_out) {
  LOWBIT_DYNAMIC_SHARED(uint32_t, planes);
  const Normalizing norm = {kind, eps, norm_weight, weight_width, offset, norm_bias, bias_width};
  const Chosen chosen = chosen_of(blockIdx.x, per_block, first_weight, first_out, second_weight, second_out, third_weight, third_out);
  const Weight w = *chosen.weight;
  const BlockNumbers* numbers = quantized_row(x + static_cast<long long>(blockIdx.y) * w.inp, w.inp, norm, natural, planes);
  const int begin = chosen.block * per_block, end = min(w.out, begin + per_block);
  for (int first = begin + threadIdx.x / 32 * kGemvRows; first < end; first += kFusedWarps * kGemvRows) {
    float sums[kGemvRows];
    dot_either(w, first, planes, kSharedBlock, numbers, sums);
    LOWBIT_UNROLL
    for (int r = 0; r < kGemvRows; ++r) {
      if (threadIdx.x % 32 == 0 && first + r < end) chosen.out[static_cast<long long>(blockIdx.y) * w.out + first + r] = sums[r];
    }
  }
}

/**
 * act(gate) * up, of two weights times rows of x, normalised. Floats [rows, out], or planes of them (`out` none; then out and `per_block` are multiples of 32).
 * Grid: (ceil(out / per_block), rows); block: 256; dynamic shared memory: inp / 32 * 120 bytes; `per_block` is up to 64, a multiple of 16.
 */
extern "C" __global__ void __launch_bounds__(256)
    gemv_gated(const float* x, int kind, float eps, const float* norm_weight, int weight_width, float offset, const float* norm_bias, int bias_width,
               int natural, int per_block, const Weight* gate_weight, const Weight* up_weight, int activation, float* out, uint32_t* out_planes,
               BlockNumbers* out_numbers, int out_natural) {
  LOWBIT_DYNAMIC_SHARED(uint32_t, planes);
  LOWBIT_SHARED(float, gated, kMostPerBlock);
  const Normalizing norm = {kind, eps, norm_weight, weight_width, offset, norm_bias, bias_width};
  const Weight w = *gate_weight, up = *up_weight;
  const BlockNumbers* numbers = quantized_row(x + static_cast<long long>(blockIdx.y) * w.inp, w.inp, norm, natural, planes);
  const int begin = blockIdx.x * per_block, end = min(w.out, begin + per_block), lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int first = begin + warp * kGemvRows; first < end; first += kFusedWarps * kGemvRows) {
    float gates[kGemvRows], ups[kGemvRows];
    dot_either(w, first, planes, kSharedBlock, numbers, gates);
    dot_either(up, first, planes, kSharedBlock, numbers, ups);
    LOWBIT_UNROLL
    for (int r = 0; r < kGemvRows; ++r) {
      if (lane == 0 && first + r < end) gated[first + r - begin] = activated(gates[r], activation) * ups[r];
    }
  }
  __syncthreads();
  if (out != nullptr) {
    for (int i = threadIdx.x; i < end - begin; i += blockDim.x) out[static_cast<long long>(blockIdx.y) * w.out + begin + i] = gated[i];
    return;
  }
  for (int block = warp; block < (end - begin) / kBlock; block += kFusedWarps) {
    const long long at = static_cast<long long>(blockIdx.y) * (w.out / kBlock) + begin / kBlock + block;
    store_block(gated[block * kBlock + lane], out_natural, out_planes + at * kBlockWords, out_numbers + at);
  }
}

/// As `gemv_affine` and its like, then as `add`: `product_is_b` or a is the other. Grid: (ceil(out / 8), rows); block: 128.
extern "C" __global__ void __launch_bounds__(128)
    gemv_added(const Weight* weight, const uint32_t* planes, const BlockNumbers* numbers, const float* other, float factor, int product_is_b, float* out) {
  const Weight w = *weight;
  const int first = (blockIdx.x * kWarps + threadIdx.x / 32) * kGemvRows;
  if (first >= w.out) return;
  const long long from = static_cast<long long>(blockIdx.y) * (w.inp / kBlock), to = static_cast<long long>(blockIdx.y) * w.out + first;
  float sums[kGemvRows];
  dot_either(w, first, planes + from * kBlockWords, kBlockWords, numbers + from, sums);
  LOWBIT_UNROLL
  for (int r = 0; r < kGemvRows; ++r) {
    if (threadIdx.x % 32 != 0 || first + r >= w.out) continue;
    const float b = product_is_b ? sums[r] : other[to + r], a = product_is_b ? other[to + r] : sums[r];
    out[to + r] = fmaf(factor, b, a);
  }
}

}  // namespace lowbit
