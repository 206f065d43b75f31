// LLM.int8: rows of activations rounded to 8 bits, but for outlier columns. What it computes: packages/core/src/reference/int8.ts.
#pragma once

#include "mma.cuh"

namespace lowbit {

/// flags [inp] (each 0 before): columns in which some row has a magnitude of at least the threshold. Grid: (ceil(inp / 256), rows); block: 256.
extern "C" __global__ void int8_outliers(const float* x, int inp, float threshold, unsigned* flags) {
  const int k = blockIdx.x * blockDim.x + threadIdx.x;
  if (k >= inp || !(threshold > 0)) return;
  const float value = fabsf(from_f16(to_f16(x[static_cast<long long>(blockIdx.y) * inp + k])));
  if (value >= threshold) flags[k] = 1;  // the same from whoever writes it
}

/**
 * codes [rows, row_words * 4] and scale [rows] of x: the largest magnitude of the row outside its own outliers, NaN for a row with NaN. With `flags`
 * the columns that have a 0 in the codes are theirs, else those of the row. Grid: rows; block: 128.
 */
extern "C" __global__ void int8_rows(const float* x, int inp, float threshold, const unsigned* flags, int row_words, int8_t* codes, float* scale) {
  LOWBIT_SHARED(float, largest_of, 4);
  const float* row = x + static_cast<long long>(blockIdx.x) * inp;
  float largest = 0;
  for (int k = threadIdx.x; k < inp; k += blockDim.x) {
    const float value = fabsf(from_f16(to_f16(row[k])));
    const bool outlier = threshold > 0 && value >= threshold;
    if (!outlier && !(value <= largest)) largest = largest != largest ? largest : value;
  }
  largest = warp_max(largest);
  if (threadIdx.x % 32 == 0) largest_of[threadIdx.x / 32] = largest;
  __syncthreads();
  largest = largest_of[0];
  for (int i = 1; i < 4; ++i) largest = largest != largest || largest >= largest_of[i] ? largest : largest_of[i];
  if (threadIdx.x == 0) scale[blockIdx.x] = largest;
  const float factor = (1.0f / largest) * 127.0f;
  for (int k = threadIdx.x; k < row_words * 4; k += blockDim.x) {
    float value = k < inp ? from_f16(to_f16(row[k])) : 0;
    const bool outlier = k < inp && threshold > 0 && (fabsf(value) >= threshold || (flags != nullptr && flags[k] != 0));
    codes[static_cast<long long>(blockIdx.x) * row_words * 4 + k] =
        static_cast<int8_t>(outlier || !(largest > 0) ? 0 : to_integer(value * factor));
  }
}

/// columns [1 + inp]: how many have a flag, and which, in their order. Grid: 1; block: 1024.
extern "C" __global__ void int8_columns(const unsigned* flags, int inp, int* columns) {
  LOWBIT_SHARED(int, counts, 32);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int found = 0;
  for (int base = 0; base < inp; base += blockDim.x) {
    const int k = base + threadIdx.x;
    const bool mine = k < inp && flags[k] != 0;
    const unsigned marks = __ballot_sync(kAll, mine);
    if (lane == 0) counts[warp] = __popc(marks);
    __syncthreads();
    int at = found;
    for (int i = 0; i < warp; ++i) at += counts[i];
    if (mine) columns[1 + at + __popc(marks & ((1u << lane) - 1))] = k;
    for (int i = 0; i < 32; ++i) found += counts[i];
    __syncthreads();
  }
  if (threadIdx.x == 0) columns[0] = found;
}

__device__ __forceinline__ float int8_scaled(const Weight& w, int row, int sum, float scale) {
  return static_cast<float>(sum) * scale * stored_float(w.scale, row, kF32) * (1.0f / 16129.0f);
}

/// The product of a row of codes and what floating point adds, over one warp; the sum is the same in each lane. Outliers are `columns`, or (none) the row's own.
__device__ __forceinline__ float int8_dot(const Weight& w, int row, const int8_t* codes, float scale, const float* x, const int* columns) {
  const int lane = threadIdx.x % 32;
  const int* mine = reinterpret_cast<const int*>(w.codes) + static_cast<long long>(row) * w.row_words;
  const int* theirs = reinterpret_cast<const int*>(codes);
  int sum = 0;
  for (int i = lane; i < w.row_words; i += 32) sum = __dp4a(mine[i], theirs[i], sum);
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(kAll, sum, offset);
  float wide = 0;
  if (columns != nullptr) {
    for (int i = lane; i < columns[0]; i += 32) wide = fmaf(x[columns[1 + i]], weight_at(w, row, columns[1 + i]), wide);
    wide = warp_sum(wide);
  } else if (w.threshold > 0) {
    for (int k = lane; k < w.inp; k += 32) {
      if (fabsf(from_f16(to_f16(x[k]))) >= w.threshold) wide = fmaf(x[k], weight_at(w, row, k), wide);
    }
    wide = warp_sum(wide);
  }
  return int8_scaled(w, row, sum, scale) + wide;
}

/// As `product`, of one or two rows of activations that int8_rows made. Grid: (ceil(out / 4), rows); block: 128. Up to 2^17 inputs.
extern "C" __global__ void __launch_bounds__(128)
    int8_product(const Weight* weight, const int8_t* codes, const float* scale, const float* x, const int* columns, float* out) {
  const Weight w = *weight;
  const int row = blockIdx.x * kWarps + threadIdx.x / 32, r = blockIdx.y;
  if (row >= w.out) return;
  const float sum = int8_dot(w, row, codes + static_cast<long long>(r) * w.row_words * 4, scale[r], x + static_cast<long long>(r) * w.inp, columns);
  if (threadIdx.x % 32 == 0) out[static_cast<long long>(r) * w.out + row] = with_bias(w, row, sum);
}

/// Which inputs of a row floating point multiplies: the `columns` of all rows, in their order.
struct OutlierColumns {
  const int* columns;
  __device__ __forceinline__ float dot(const Weight& w, int row, const float* x, int) const {
    float sum = 0;
    for (int j = 0; columns != nullptr && j < columns[0]; ++j) sum = fmaf(x[columns[1 + j]], weight_at(w, row, columns[1 + j]), sum);
    return sum;
  }
};
/// Those of the row alone: bits of `marks`, of int8_marks.
struct OutlierMarks {
  const uint32_t* marks;
  __device__ __forceinline__ float dot(const Weight& w, int row, const float* x, int token) const {
    float sum = 0;
    const int words = (w.inp + 31) / 32;
    for (int i = 0; marks != nullptr && i < words; ++i) {
      for (uint32_t left = marks[static_cast<long long>(token) * words + i]; left != 0; left &= left - 1) {
        const int k = 32 * i + __popc((left & (~left + 1)) - 1);
        sum = fmaf(x[k], weight_at(w, row, k), sum);
      }
    }
    return sum;
  }
};

/// As `int8_product`, of up to 32 of `rows` rows from `base` on, on tensor cores.
template <class Rows, class Outliers>
__device__ __forceinline__ void multiply_int8(const Weight& w, const int8_t* codes, const float* scale, const float* x, const Outliers& outliers, float* out,
                                              int rows, int base, const Rows& map, int* partial) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, quarter = lane % 4;
  const int first = blockIdx.x * kTileRows, count = min(rows - base, kTiles * 8);
  const auto word = [&](Address from, long long row, int i) {
    return i < w.row_words ? reinterpret_cast<const uint32_t*>(from)[row * w.row_words + i] : 0;
  };
  int sums[kTiles][4] = {};
  for (int i = 8 * warp + quarter; i - quarter < w.row_words; i += 8 * kWarps) {
    // Past the last row: the last again, for nothing.
    const int row = min(first + group, w.out - 1), below = min(first + group + 8, w.out - 1);
    const uint32_t mine[4] = {word(w.codes, row, i), word(w.codes, below, i), word(w.codes, row, i + 4), word(w.codes, below, i + 4)};
    LOWBIT_UNROLL
    for (int tile = 0; tile < kTiles; ++tile) {
      if (tile * 8 >= count) continue;
      const int token = map.from(base + min(tile * 8 + group, count - 1));
      const Address from = reinterpret_cast<Address>(codes);
      const uint32_t theirs[2] = {word(from, token, i), word(from, token, i + 4)};
      multiply_tile<true>(sums[tile], mine, theirs);
    }
  }
  LOWBIT_UNROLL
  for (int tile = 0; tile < kTiles; ++tile) {
    LOWBIT_UNROLL
    for (int i = 0; i < 4; ++i) partial[warp * kTileSums + (tile * 4 + i) * 32 + lane] = sums[tile][i];
  }
  __syncthreads();
  for (int at = threadIdx.x; at < kTileSums; at += blockDim.x) {
    const int of = at % 32, i = at / 32 % 4, row = first + of / 4 + (i < 2 ? 0 : 8), token = at / 128 * 8 + 2 * (of % 4) + i % 2;
    if (row >= w.out || token >= count) continue;
    int sum = 0;
    for (int other = 0; other < kWarps; ++other) sum += partial[other * kTileSums + at];
    const int from = map.from(base + token);
    const float wide = outliers.dot(w, row, x + static_cast<long long>(from) * w.inp, from);
    out[static_cast<long long>(map.to(base + token)) * w.out + row] = with_bias(w, row, int8_scaled(w, row, sum, scale[from]) + wide);
  }
}

/// Grid: (ceil(out / 16), ceil(rows / 32)); block: 128.
extern "C" __global__ void __launch_bounds__(128) mma_int8(const Weight* weight, const int8_t* codes, const float* scale, const float* x, const int* columns,
                                                           float* out, int rows) {
  LOWBIT_SHARED(int, partial, kWarps * kTileSums);
  const Weight w = *weight;
  multiply_int8(w, codes, scale, x, OutlierColumns{columns}, out, rows, blockIdx.y * kTiles * 8, AllRows(), partial);
}

/// As `expert_product`, each row with outliers of its own. Grid: (ceil(out / 4), rows); block: 128.
extern "C" __global__ void __launch_bounds__(128) int8_expert_product(const Address* weights, int experts, const int* ids, const int8_t* codes,
                                                           const float* scale, const float* x, float* out, int out_width, int top_k, int shared) {
  const int row = blockIdx.x * kWarps + threadIdx.x / 32, r = blockIdx.y, id = ids[r];
  if (row >= out_width) return;
  float sum = nan_value();
  if (id >= 0 && id < experts) {
    const Weight w = *reinterpret_cast<const Weight*>(weights[id]);
    const long long from = shared ? r / top_k : r;
    sum = with_bias(w, row, int8_dot(w, row, codes + from * w.row_words * 4, scale[from], x + from * w.inp, nullptr));
  }
  if (threadIdx.x % 32 == 0) out[static_cast<long long>(r) * out_width + row] = sum;
}

}  // namespace lowbit
