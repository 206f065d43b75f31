// As fused.cuh, of LLM.int8: rows are normalised and rounded by one block of threads, since their outliers are those of all rows together.
#pragma once

#include "elementwise.cuh"
#include "int8.cuh"
#include "norm.cuh"

namespace lowbit {

/**
 * One or two rows of x, normalised into `normed` (none: as they are): what `int8_outliers`, `int8_columns` and `int8_rows` make of them, codes
 * [rows, row_words * 4], scale [rows] and columns [1 + inp]. Grid: 1; block: 256.
 */
extern "C" __global__ void __launch_bounds__(256)
    int8_few(const float* x, int kind, float eps, const float* norm_weight, int weight_width, float offset, const float* norm_bias, int bias_width, int inp,
             int rows, float threshold, int row_words, float* normed, int8_t* codes, float* scale, int* columns) {
  LOWBIT_SHARED(float, scratch, 32);
  LOWBIT_SHARED(int, counts, 8);
  const Normalizing norm = {kind, eps, norm_weight, weight_width, offset, norm_bias, bias_width};
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const float* const from = normed != nullptr ? normed : x;
  for (int r = 0; normed != nullptr && r < rows; ++r) {
    const float* row = x + static_cast<long long>(r) * inp;
    const Moments moments = moments_of(row, inp, norm, scratch);
    for (int k = threadIdx.x; k < inp; k += blockDim.x) normed[static_cast<long long>(r) * inp + k] = normalized(row[k], moments, norm, k, k, inp);
  }
  __syncthreads();
  const auto value = [&](int r, int k) { return from_f16(to_f16(from[static_cast<long long>(r) * inp + k])); };
  const auto out_of_range = [&](float number) { return threshold > 0 && fabsf(number) >= threshold; };
  const auto flagged = [&](int k) {
    bool any = false;
    for (int r = 0; r < rows; ++r) any = any || out_of_range(value(r, k));
    return any;
  };
  int found = 0;
  for (int base = 0; base < inp; base += blockDim.x) {
    const int k = base + threadIdx.x;
    const bool mine = k < inp && flagged(k);
    const unsigned marks = __ballot_sync(kAll, mine);
    if (lane == 0) counts[warp] = __popc(marks);
    __syncthreads();
    int at = found;
    for (int i = 0; i < 8; ++i) {
      if (i < warp) at += counts[i];
      found += counts[i];
    }
    if (mine) columns[1 + at + __popc(marks & ((1u << lane) - 1))] = k;
    __syncthreads();
  }
  if (threadIdx.x == 0) columns[0] = found;
  for (int r = 0; r < rows; ++r) {
    float largest = 0;
    for (int k = threadIdx.x; k < inp; k += blockDim.x) {
      const float number = fabsf(value(r, k));
      if (!out_of_range(number) && !(number <= largest)) largest = largest != largest ? largest : number;
    }
    largest = warp_max(largest);
    if (lane == 0) scratch[warp] = largest;
    __syncthreads();
    largest = scratch[0];
    for (int i = 1; i < 8; ++i) largest = largest != largest || largest >= scratch[i] ? largest : scratch[i];
    __syncthreads();
    if (threadIdx.x == 0) scale[r] = largest;
    const float factor = (1.0f / largest) * 127.0f;
    for (int k = threadIdx.x; k < row_words * 4; k += blockDim.x) {
      const bool none = k >= inp || !(largest > 0) || flagged(k);
      codes[static_cast<long long>(r) * row_words * 4 + k] = static_cast<int8_t>(none ? 0 : to_integer(value(r, k) * factor));
    }
  }
}

/// What `int8_few` leaves of x, as products take it.
struct Int8Inputs {
  const int8_t* codes;
  const float* scale;
  const float* x;
  const int* columns;
};

__device__ __forceinline__ float int8_number(const Weight& w, int row, int r, const Int8Inputs& in) {
  return with_bias(w, row,
                   int8_dot(w, row, in.codes + static_cast<long long>(r) * w.row_words * 4, in.scale[r], in.x + static_cast<long long>(r) * w.inp, in.columns));
}

/// As `int8_product`, of up to three weights. Grid: (rows, ceil(out / 4) of all weights); block: 128.
extern "C" __global__ void __launch_bounds__(128)
    int8_normed(const int8_t* codes, const float* scale, const float* x, const int* columns, const Weight* first_weight, const Weight* second_weight,
                const Weight* third_weight, float* first_out, float* second_out, float* third_out) {
  const Chosen chosen = chosen_of(blockIdx.y, kWarps, first_weight, first_out, second_weight, second_out, third_weight, third_out);
  const Weight w = *chosen.weight;
  const int row = chosen.block * kWarps + threadIdx.x / 32;
  if (row >= w.out) return;
  const float sum = int8_number(w, row, blockIdx.x, {codes, scale, x, columns});
  if (threadIdx.x % 32 == 0) chosen.out[static_cast<long long>(blockIdx.x) * w.out + row] = sum;
}

/// act(gate) * up. Grid: (rows, ceil(out / 4)); block: 128.
extern "C" __global__ void __launch_bounds__(128) int8_gated(const int8_t* codes, const float* scale, const float* x, const int* columns, const Weight* gate_weight,
                                                             const Weight* up_weight, int activation, float* out) {
  const Weight w = *gate_weight, up = *up_weight;
  const int row = blockIdx.y * kWarps + threadIdx.x / 32;
  if (row >= w.out) return;
  const Int8Inputs in = {codes, scale, x, columns};
  const float gate = int8_number(w, row, blockIdx.x, in), other = int8_number(up, row, blockIdx.x, in);
  if (threadIdx.x % 32 == 0) out[static_cast<long long>(blockIdx.x) * w.out + row] = activated(gate, activation) * other;
}

/// A product and the residual, as `gemv_added`. Grid: (rows, ceil(out / 4)); block: 128.
extern "C" __global__ void __launch_bounds__(128) int8_added(const int8_t* codes, const float* scale, const float* x, const int* columns, const Weight* weight,
                                                             const float* other, float factor, int product_is_b, float* out) {
  const Weight w = *weight;
  const int row = blockIdx.y * kWarps + threadIdx.x / 32;
  if (row >= w.out) return;
  const float sum = int8_number(w, row, blockIdx.x, {codes, scale, x, columns});
  if (threadIdx.x % 32 != 0) return;
  const long long to = static_cast<long long>(blockIdx.x) * w.out + row;
  out[to] = fmaf(factor, product_is_b ? sum : other[to], product_is_b ? other[to] : sum);
}

}  // namespace lowbit
