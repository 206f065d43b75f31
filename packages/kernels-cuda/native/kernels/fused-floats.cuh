// As fused.cuh, of weights that are multiplied in floating point: HIGGS and other codebooks, dense, axis 0. Rows of x are normalised and brought into the basis of
// the weight by each block of threads for itself, in its shared memory. Each number is that of the kernels one by one.
#pragma once

#include "codebook.cuh"
#include "elementwise.cuh"
#include "norm.cuh"

namespace lowbit {

/// A row of x in the basis of a weight: zeros after its `features`, then runs of `run` numbers times the Hadamard matrix and `factor`; 1, 1: as it is.
struct Turning {
  int features, run;
  float factor;
};

constexpr int kTurned = 16;                 // numbers of a lane: a warp turns 512, the usual run
constexpr int kPiece = 32 * kTurned;
constexpr int kApart = 36;                  // from a block of 32 numbers to the next in shared memory: eight lanes that read 16 bytes each meet all banks
constexpr int kPieceInputs = 8192;                // inputs that are in shared memory at once, if not the whole row: a multiple of every run and of what a warp reads

/// Number i of a row in shared memory.
__device__ __forceinline__ int spot(int i) { return i / kBlock * kApart + i % kBlock; }

/// Runs of `run` of 512 numbers of a warp, those of lane l being l, 32 + l ...; of longer ones the steps within 512. Steps are in the order of `hadamard`.
__device__ __forceinline__ void turn(float (&numbers)[kTurned], int run) {
  const int lane = threadIdx.x % 32;
  LOWBIT_UNROLL
  for (int half = 1; half < 32; half *= 2) {
    if (half >= run) break;
    LOWBIT_UNROLL
    for (int j = 0; j < kTurned; ++j) {
      const float other = __shfl_xor_sync(kAll, numbers[j], half);
      numbers[j] = (lane & half) != 0 ? other - numbers[j] : numbers[j] + other;
    }
  }
  LOWBIT_UNROLL
  for (int half = 1; half < kTurned; half *= 2) {
    if (32 * half >= run) break;
    LOWBIT_UNROLL
    for (int j = 0; j < kTurned; ++j) {
      if ((j & half) != 0) continue;
      const float a = numbers[j], b = numbers[j + half];
      numbers[j] = a + b;
      numbers[j + half] = a - b;
    }
  }
}

/// Inputs [begin, begin + count) of a row, whole runs, into shared memory; the block meets after it.
__device__ __forceinline__ void turned_row(const float* x, const Moments& moments, const Normalizing& norm, const Turning& turning, int begin, int count,
                                           float* row) {
  const int lane = threadIdx.x % 32, run = turning.run;
  for (int piece = threadIdx.x / 32 * kPiece; piece < count; piece += blockDim.x / 32 * kPiece) {
    float numbers[kTurned];
    LOWBIT_UNROLL
    for (int j = 0; j < kTurned; ++j) {
      const int i = piece + 32 * j + lane, k = begin + i;
      numbers[j] = i < count && k < turning.features ? normalized(x[k], moments, norm, k, k, turning.features) : 0;
    }
    turn(numbers, run);
    LOWBIT_UNROLL
    for (int j = 0; j < kTurned; ++j) {
      const int i = piece + 32 * j + lane;
      if (i < count) row[spot(i)] = run > kPiece ? numbers[j] : numbers[j] * turning.factor;
    }
  }
  for (int half = kPiece; half < run; half *= 2) {
    const float factor = 2 * half == run ? turning.factor : 1;
    __syncthreads();
    for (int pair = threadIdx.x; pair < count / 2; pair += blockDim.x) {
      const int i = pair / half * 2 * half + pair % half;
      const float a = row[spot(i)], b = row[spot(i + half)];
      row[spot(i)] = (a + b) * factor;
      row[spot(i + half)] = (a - b) * factor;
    }
  }
  __syncthreads();
}

/// Adds to sums of a lane those of four rows from `first` on times inputs in shared memory, [begin, begin + count) of the row.
template <bool kCodebook>
__device__ __forceinline__ void add_floats(const Weight& w, const float* table, int first, const float* row, int begin, int count,
                                           float (&sums)[kCodebookRows]) {
  if constexpr (kCodebook) {
    add_codebook(w, table, first, {row, kApart, begin / kBlock, (begin + count) / kBlock}, sums);
  } else {
    for (int k = threadIdx.x % 32 * kWide; k < count; k += 32 * kWide) {
      float inputs[kWide];
      load_eight(row + spot(k), inputs);
      LOWBIT_UNROLL
      for (int r = 0; r < kCodebookRows; ++r) {
        float values[kWide];
        eight_weights(w, table, min(first + r, w.out - 1), begin + k, values);
        LOWBIT_UNROLL
        for (int j = 0; j < kWide; ++j) sums[r] = fmaf(values[j], inputs[j], sums[r]);
      }
    }
  }
}

/// Sums over a warp, the same in each lane, with bias.
__device__ __forceinline__ void finish_floats(const Weight& w, int first, float (&sums)[kCodebookRows]) {
  LOWBIT_UNROLL
  for (int r = 0; r < kCodebookRows; ++r) sums[r] = with_bias(w, min(first + r, w.out - 1), warp_sum(sums[r]));
}

template <bool kCodebook>
__device__ __forceinline__ void floats_normed(const float* x, const Normalizing& norm, const Turning& turning, int per_block, const Weight* first_weight,
                                              const Weight* second_weight, const Weight* third_weight, float* first_out, float* second_out, float* third_out) {
  LOWBIT_DYNAMIC_SHARED(float, row);
  LOWBIT_SHARED(float, table, 512);
  LOWBIT_SHARED(float, scratch, 32);
  const Chosen chosen = chosen_of(blockIdx.y, per_block, first_weight, first_out, second_weight, second_out, third_weight, third_out);
  const Weight w = *chosen.weight;
  const float* from = x + static_cast<long long>(blockIdx.x) * turning.features;
  load_table(w, table);
  turned_row(from, moments_of(from, turning.features, norm, scratch), norm, turning, 0, w.inp, row);
  const int begin = chosen.block * per_block, end = min(w.out, begin + per_block), warps = blockDim.x / 32;
  for (int first = begin + threadIdx.x / 32 * kCodebookRows; first < end; first += warps * kCodebookRows) {
    float sums[kCodebookRows] = {};
    add_floats<kCodebook>(w, table, first, row, 0, w.inp, sums);
    finish_floats(w, first, sums);
    LOWBIT_UNROLL
    for (int r = 0; r < kCodebookRows; ++r) {
      if (threadIdx.x % 32 == 0 && first + r < end) chosen.out[static_cast<long long>(blockIdx.x) * w.out + first + r] = sums[r];
    }
  }
}

template <bool kCodebook>
__device__ __forceinline__ void floats_gated(const float* x, const Normalizing& norm, const Turning& turning, int per_block, const Weight* gate_weight,
                                             const Weight* up_weight, int activation, float* out) {
  LOWBIT_DYNAMIC_SHARED(float, row);
  LOWBIT_SHARED(float, gate_table, 512);
  LOWBIT_SHARED(float, up_table, 512);
  LOWBIT_SHARED(float, scratch, 32);
  const Weight w = *gate_weight, up = *up_weight;
  const float* from = x + static_cast<long long>(blockIdx.x) * turning.features;
  load_table(w, gate_table);
  load_table(up, up_table);
  turned_row(from, moments_of(from, turning.features, norm, scratch), norm, turning, 0, w.inp, row);
  const int begin = blockIdx.y * per_block, end = min(w.out, begin + per_block), warps = blockDim.x / 32;
  for (int first = begin + threadIdx.x / 32 * kCodebookRows; first < end; first += warps * kCodebookRows) {
    float gates[kCodebookRows] = {}, ups[kCodebookRows] = {};
    add_floats<kCodebook>(w, gate_table, first, row, 0, w.inp, gates);
    finish_floats(w, first, gates);
    add_floats<kCodebook>(up, up_table, first, row, 0, w.inp, ups);
    finish_floats(up, first, ups);
    LOWBIT_UNROLL
    for (int r = 0; r < kCodebookRows; ++r) {
      if (threadIdx.x % 32 == 0 && first + r < end)
        out[static_cast<long long>(blockIdx.x) * w.out + first + r] = activated(gates[r], activation) * ups[r];
    }
  }
}

template <bool kCodebook>
__device__ __forceinline__ void floats_added(const float* x, const Turning& turning, const Weight* weight, const float* other, float factor, int product_is_b,
                                             float* out) {
  LOWBIT_DYNAMIC_SHARED(float, row);
  LOWBIT_SHARED(float, table, 512);
  const Weight w = *weight;
  const float* from = x + static_cast<long long>(blockIdx.x) * turning.features;
  const int first = static_cast<int>(blockIdx.y * (blockDim.x / 32) + threadIdx.x / 32) * kCodebookRows;
  load_table(w, table);
  float sums[kCodebookRows] = {};
  for (int begin = 0; begin < w.inp; begin += kPieceInputs) {
    const int count = min(kPieceInputs, w.inp - begin);
    if (begin > 0) __syncthreads();
    turned_row(from, {0, 1}, {}, turning, begin, count, row);
    add_floats<kCodebook>(w, table, first, row, begin, count, sums);
  }
  finish_floats(w, first, sums);
  LOWBIT_UNROLL
  for (int r = 0; r < kCodebookRows; ++r) {
    if (threadIdx.x % 32 != 0 || first + r >= w.out) continue;
    const long long to = static_cast<long long>(blockIdx.x) * w.out + first + r;
    const float b = product_is_b ? sums[r] : other[to], a = product_is_b ? other[to] : sums[r];
    out[to] = fmaf(factor, b, a);
  }
}

// Two blocks to a multiprocessor are asked for where the assembler would take fewer registers than there is use for, and spill.

/**
 * As `gemv_normed`, of codebooks (table_) and of what `wide_product` takes (wide_); rows of x have `features` numbers. Rows come first in the grid: blocks that
 * read the same weights for two rows run at the same time.
 * Grid: (rows, blocks of all weights); block: 256; dynamic shared memory: ceil(inp / 32) * 144 bytes; `per_block` is a multiple of 32.
 */
extern "C" __global__ void __launch_bounds__(256, 2)
    table_normed(const float* x, int kind, float eps, const float* norm_weight, int weight_width, float offset, const float* norm_bias, int bias_width,
                 int features, int run, float turn_factor, int per_block, const Weight* first_weight, const Weight* second_weight, const Weight* third_weight,
                 float* first_out, float* second_out, float* third_out) {
  floats_normed<true>(x, {kind, eps, norm_weight, weight_width, offset, norm_bias, bias_width}, {features, run, turn_factor}, per_block, first_weight,
                      second_weight, third_weight, first_out, second_out, third_out);
}
extern "C" __global__ void __launch_bounds__(256, 2)
    wide_normed(const float* x, int kind, float eps, const float* norm_weight, int weight_width, float offset, const float* norm_bias, int bias_width,
                int features, int run, float turn_factor, int per_block, const Weight* first_weight, const Weight* second_weight, const Weight* third_weight,
                float* first_out, float* second_out, float* third_out) {
  floats_normed<false>(x, {kind, eps, norm_weight, weight_width, offset, norm_bias, bias_width}, {features, run, turn_factor}, per_block, first_weight,
                       second_weight, third_weight, first_out, second_out, third_out);
}

/// As `gemv_gated`, floats alone. Grid: (rows, ceil(out / per_block)); block, shared memory and `per_block` as above.
extern "C" __global__ void __launch_bounds__(256, 2)
    table_gated(const float* x, int kind, float eps, const float* norm_weight, int weight_width, float offset, const float* norm_bias, int bias_width,
                int features, int run, float turn_factor, int per_block, const Weight* gate_weight, const Weight* up_weight, int activation, float* out) {
  floats_gated<true>(x, {kind, eps, norm_weight, weight_width, offset, norm_bias, bias_width}, {features, run, turn_factor}, per_block, gate_weight, up_weight,
                     activation, out);
}
extern "C" __global__ void __launch_bounds__(256, 2)
    wide_gated(const float* x, int kind, float eps, const float* norm_weight, int weight_width, float offset, const float* norm_bias, int bias_width,
               int features, int run, float turn_factor, int per_block, const Weight* gate_weight, const Weight* up_weight, int activation, float* out) {
  floats_gated<false>(x, {kind, eps, norm_weight, weight_width, offset, norm_bias, bias_width}, {features, run, turn_factor}, per_block, gate_weight, up_weight,
                      activation, out);
}

/// As `gemv_added`, of floats. Grid: (rows, ceil(out / (4 * warps))); block: 128 or 256; dynamic shared memory: ceil(min(inp, 8192) / 32) * 144 bytes.
extern "C" __global__ void __launch_bounds__(256, 2)
    table_added(const float* x, int features, int run, float turn_factor, const Weight* weight, const float* other, float factor, int product_is_b, float* out) {
  floats_added<true>(x, {features, run, turn_factor}, weight, other, factor, product_is_b, out);
}
extern "C" __global__ void __launch_bounds__(256)
    wide_added(const float* x, int features, int run, float turn_factor, const Weight* weight, const float* other, float factor, int product_is_b, float* out) {
  floats_added<false>(x, {features, run, turn_factor}, weight, other, factor, product_is_b, out);
}

}  // namespace lowbit
