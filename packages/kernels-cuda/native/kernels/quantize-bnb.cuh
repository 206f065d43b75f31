// Routines of packages/bnb/src/blocks.ts, double-quant.ts and int8-row.ts, operation by operation. Sums of a block are doubles added in the order of its elements,
// so blocks, not elements, are the threads.
#pragma once

#include "weight.cuh"

namespace lowbit {

constexpr float kLeastAbsmax = 1e-38f;

/// The largest magnitude of each block of `size` of `count` weights; NaN if one is. A short last block that is divided has at least 1e-38. Grid: ceil(blocks /
/// 128); block: 128.
extern "C" __global__ void bnb_absmax(const unsigned char* weights, int dtype, int count, int size, int divide_short, float* absmax) {
  const int block = blockIdx.x * blockDim.x + threadIdx.x, blocks = count / size + (count % size != 0 ? 1 : 0);
  if (block >= blocks) return;
  const int begin = block * size, end = count - begin < size ? count : begin + size;
  float largest = 0;
  for (int i = begin; i < end; ++i) {
    const float magnitude = fabsf(stored_float(reinterpret_cast<Address>(weights), i, dtype));
    if (!(magnitude <= largest)) largest = largest != largest ? largest : magnitude;
  }
  if (divide_short != 0 && end - begin < size && largest < kLeastAbsmax) largest = kLeastAbsmax;
  absmax[block] = largest != largest ? nan_value() : largest;
}

/// Of magnitudes of blocks from `first` of `blocks`: codes in a map of 256 numbers between 255 bounds, and the scales that a reader makes of them. `magnitudes`
/// has one for each 256 blocks. Grid: ceil(count / 128); block: 128.
extern "C" __global__ void bnb_nested(const float* absmax, int count, int first, int blocks, float offset, const float* magnitudes, const float* map,
                                      const float* bounds, unsigned char* codes, float* scale) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  if (!(fabsf(offset) <= 3.4028235e38f)) {
    codes[i] = 0;
    scale[i] = nan_value();
    return;
  }
  const int group = (first + i) / 256;
  const float largest = magnitudes[group], least = largest < kLeastAbsmax ? kLeastAbsmax : largest, distance = absmax[i] - offset;
  // The last 256 divide if they are fewer.
  const float value = group + 1 > blocks / 256 ? distance / least : distance * (1.0f / least);
  int code = 0;
  for (int step = 128; step > 0; step /= 2) {
    if (value > bounds[code + step - 1]) code += step;
  }
  codes[i] = static_cast<unsigned char>(code);
  scale[i] = map[code] * largest + offset;
}

/**
 * Codes of blocks, two a byte, the first in the high half, by 15 bounds, the codes of 16 cells and what they stand for. errors [3, blocks]: squared errors,
 * squared weights and the largest error, 0 where the scale is not finite. Grid: ceil(blocks / 128); block: 128.
 */
extern "C" __global__ void bnb_four_bit(const unsigned char* weights, int dtype, int count, int size, int divide_short, const float* absmax,
                                        const float* scale, const float* cuts, const unsigned char* codes, const float* values, unsigned char* packed,
                                        double* errors) {
  const int block = blockIdx.x * blockDim.x + threadIdx.x, blocks = count / size + (count % size != 0 ? 1 : 0);
  if (block >= blocks) return;
  const int begin = block * size, end = count - begin < size ? count : begin + size;
  const bool divide = divide_short != 0 && end - begin < size;
  const float largest = absmax[block], s = scale[block];
  const float factor = divide ? largest : 1.0f / (largest < kLeastAbsmax ? kLeastAbsmax : largest);
  const bool finite = fabsf(s) <= 3.4028235e38f;
  double squared_error = 0, squared_weight = 0, most = 0;
  for (int i = begin; i < end; i += 2) {
    int cells[2];
    double off[2], w[2];
    LOWBIT_UNROLL
    for (int half = 0; half < 2; ++half) {
      // Past the end: the code of 0, which is 0 whatever the block's scale.
      const bool there = i + half < count;
      const float x = there ? stored_float(reinterpret_cast<Address>(weights), i + half, dtype) : 0;
      float u = divide ? x / factor : x * factor;
      if (!there && !finite) u = 0;
      int cell = 0;
      for (int c = 0; c < 15; ++c) cell += u > cuts[c] ? 1 : 0;
      if (u != u) cell = finite ? 0 : 15;  // what scales to NaN is behind all numbers
      cells[half] = cell;
      w[half] = static_cast<double>(x);
      off[half] = there ? fabs(static_cast<double>(x) - static_cast<double>(values[cell] * s)) : 0;
      if (off[half] > most) most = off[half];
    }
    packed[i / 2] = static_cast<unsigned char>(codes[cells[0]] << 4 | codes[cells[1]]);
    squared_error += off[0] * off[0] + off[1] * off[1];
    squared_weight += w[0] * w[0] + w[1] * w[1];
  }
  errors[block] = finite ? squared_error : 0;
  errors[blocks + block] = finite ? squared_weight : 0;
  errors[2 * static_cast<long long>(blocks) + block] = finite ? most : 0;
}

/// What is lost of a row: squared errors, squared weights, largest error.
struct RowError {
  double squares, squared_weights, most;
};

/// A row's numbers: what float16 weights are multiplied by, and what a reader multiplies codes by.
struct RowScale {
  float factor;
  double step;
};

__device__ __forceinline__ int int8_code(float w, float factor) { return static_cast<int>(rintf(from_f16(to_f16(w)) * factor)); }
__device__ __forceinline__ double int8_error(float w, int code, double step) {
  return fabs(static_cast<double>(w) - static_cast<double>(static_cast<float>(code * step)));
}

constexpr int kInt8Span = 4096, kInt8One = 1 << 15;
constexpr int kInt8Terms = kInt8Span / 4;

/// Shared memory of the warp that has a row: what is summed in its order, and a number of each lane.
struct RowScratch {
  double* terms;  // kInt8Terms
  double* lanes;  // 32
};

/// The largest over a warp, the same in each lane.
__device__ __forceinline__ double row_most(double value, const RowScratch& scratch) {
  scratch.lanes[threadIdx.x] = value;
  __syncthreads();
  for (int i = 0; i < 32; ++i) value = fmax(value, scratch.lanes[i]);
  __syncthreads();
  return value;
}
/// The sum over a warp of integers, exact in any order.
__device__ __forceinline__ double row_sum(double value, const RowScratch& scratch) {
  scratch.lanes[threadIdx.x] = value;
  __syncthreads();
  double sum = 0;
  for (int i = 0; i < 32; ++i) sum += scratch.lanes[i];
  __syncthreads();
  return sum;
}

/// Weights [begin, end) by the rule of the format; sums are in the order of the weights.
__device__ __forceinline__ void int8_by_rule(Address from, long long at, int begin, int end, int dtype, const RowScale& scale, int8_t* codes,
                                             const RowScratch& scratch, RowError* lost) {
  constexpr int kAtOnce = kInt8Terms / 2;
  double most = lost->most;
  for (int base = begin; base < end; base += kAtOnce) {
    const int count = min(kAtOnce, end - base);
    for (int j = threadIdx.x; j < count; j += 32) {
      const float w = stored_float(from, at + base + j, dtype);
      const int code = int8_code(w, scale.factor);
      codes[at + base + j] = static_cast<int8_t>(code);
      const double error = int8_error(w, code, scale.step);
      if (error > most) most = error;
      scratch.terms[j] = error * error;
      scratch.terms[kAtOnce + j] = static_cast<double>(w) * static_cast<double>(w);
    }
    __syncthreads();
    for (int j = 0; j < count; ++j) {
      lost->squares += scratch.terms[j];
      lost->squared_weights += scratch.terms[kAtOnce + j];
    }
    __syncthreads();
  }
  lost->most = row_most(most, scratch);
}

/**
 * Up to 4,096 weights, a multiple of 4, in fixed point as packages/bnb/src/int8-row.ts; those near the middle of two codes by the rule. How many those were.
 * Sums of squared errors are of integers, exact in any order; those of squared weights have an order.
 */
__device__ __forceinline__ double int8_span(Address from, long long at, int begin, int end, int dtype, const RowScale& row, double margin, int8_t* codes,
                                            const RowScratch& scratch, RowError* lost) {
  const double scale = kInt8One / row.step, bound = (0.5 - margin) * kInt8One, bias = 256 * kInt8One + kInt8One / 2 + 0.5;
  const int limit = static_cast<int>(floor(bound * bound)), fours = (end - begin) / 4;
  double listed = 0, squares = 0, squared_weights = 0, most = lost->most;
  for (int four = threadIdx.x; four < fours; four += 32) {
    double x[4];
    for (int j = 0; j < 4; ++j) {
      const long long i = at + begin + 4 * four + j;
      const float w = stored_float(from, i, dtype);
      x[j] = static_cast<double>(w) * scale;
      const int fixed = static_cast<int>(x[j] + bias), off = (fixed & (kInt8One - 1)) - kInt8One / 2;
      int code = fixed >> 15, square = off * off;
      if (square > limit) {
        ++listed;
        code = int8_code(w, row.factor);
        const double error = int8_error(w, code, row.step);
        if (error > most) most = error;
        const double again = static_cast<double>(fixed - 256 * kInt8One - kInt8One / 2) - static_cast<double>(code) * kInt8One;
        squares += again * again;
      } else {
        squares += square;
      }
      codes[i] = static_cast<int8_t>(code);
    }
    scratch.terms[four] = x[0] * x[0] + x[1] * x[1] + (x[2] * x[2] + x[3] * x[3]);
  }
  __syncthreads();
  for (int four = 0; four < fours; ++four) squared_weights += scratch.terms[four];
  const double unit = row.step / kInt8One;
  lost->squares += row_sum(squares, scratch) * unit * unit;
  lost->squared_weights += squared_weights * unit * unit;
  lost->most = row_most(most, scratch);
  return row_sum(listed, scratch);
}

/**
 * Rows of LLM.int8: largest magnitudes (NaN where there is one), codes, and errors [3, rows]; codes and errors are 0 in a row whose magnitude float16 does not
 * have. `few`: the weight has so few elements that all go by the rule; `narrow`: numbers of 16 bits. Grid: rows; block: 32.
 */
extern "C" __global__ void bnb_int8(const unsigned char* weights, int dtype, int rows, int inp, int few, int narrow, float* magnitudes, int8_t* codes,
                                    double* errors) {
  LOWBIT_SHARED(double, terms, kInt8Terms);
  LOWBIT_SHARED(double, lanes, 32);
  const RowScratch scratch = {terms, lanes};
  const int r = blockIdx.x;
  const Address from = reinterpret_cast<Address>(weights);
  const long long at = static_cast<long long>(r) * inp;
  uint32_t bits = 0;
  for (int i = threadIdx.x; i < inp; i += 32) bits = max(bits, float_to_bits(stored_float(from, at + i, dtype)) & 0x7fffffffu);
  for (int offset = 16; offset > 0; offset /= 2) bits = max(bits, __shfl_xor_sync(kAll, bits, offset));
  const float magnitude = bits_to_float(bits), largest = from_f16(to_f16(magnitude));
  if (threadIdx.x == 0) magnitudes[r] = magnitude != magnitude ? nan_value() : magnitude;
  RowError lost = {0, 0, 0};
  if (largest <= 65504.0f) {
    const RowScale scale = {largest == 0 ? 0 : 1.0f / largest * 127.0f, static_cast<double>(largest) * static_cast<double>(1.0f / 127.0f)};
    // Of float16 numbers near the largest, and near 0.
    const int exponent = max(static_cast<int>(float_to_bits(largest) >> 23) - 127, -14);
    const double unit = narrow != 0 ? 5.9604644775390625e-8 : static_cast<double>(bits_to_float(static_cast<uint32_t>(exponent - 10 + 127) << 23));
    const double margin = fmax(127 * unit / 2 / static_cast<double>(largest) + 0.000244140625, 0.00390625);
    if (few != 0 || !(margin < 0.5)) {
      int8_by_rule(from, at, 0, inp, dtype, scale, codes, scratch, &lost);
    } else {
      const int whole = inp - inp % 4;
      double listed = 0;
      for (int i = 0; i < whole; i += kInt8Span) listed += int8_span(from, at, i, min(i + kInt8Span, whole), dtype, scale, margin, codes, scratch, &lost);
      if (listed == 0) {
        for (int i = threadIdx.x; i < whole; i += 32) lost.most = fmax(lost.most, int8_error(stored_float(from, at + i, dtype), codes[at + i], scale.step));
        lost.most = row_most(lost.most, scratch);
      }
      int8_by_rule(from, at, whole, inp, dtype, scale, codes, scratch, &lost);
    }
  } else {
    for (int i = threadIdx.x; i < inp; i += 32) codes[at + i] = 0;
  }
  if (threadIdx.x > 0) return;
  errors[r] = lost.squares;
  errors[rows + r] = lost.squared_weights;
  errors[2 * static_cast<long long>(rows) + r] = lost.most;
}

}  // namespace lowbit
