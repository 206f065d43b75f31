// Routines of quantizers: packages/hqq/src/grid.ts and solvers/proximal-step.ts, packages/bnb/src/blocks.ts and double-quant.ts, operation by operation. Sums of
// a group are doubles added in the order of its elements, so groups, not elements, are the threads.
#pragma once

#include "weight.cuh"

namespace lowbit {

/// x^y of a positive f32 number x, y from -1 to 1: as packages/hqq/src/solvers/power.ts has it.
__device__ __forceinline__ double power(double x, double y) {
  uint64_t bits;
  memcpy(&bits, &x, 8);
  const uint32_t high = static_cast<uint32_t>(bits >> 32);
  const uint32_t carry = ((high & 0xfffff) + 0x95f61) >> 20;  // 1 from the root of 2 on
  const double n = static_cast<int>(high >> 20) - 1023 + static_cast<int>(carry);
  bits = (bits & 0xfffffffffffffull) | static_cast<uint64_t>(1023 - carry) << 52;
  double a;
  memcpy(&a, &bits, 8);
  const double s = (a - 1) / (a + 1);
  double series = 0;
  for (int k = 23; k > 0; k -= 2) series = series * s * s + 1.0 / k;
  const double log2 = y * (n + s * series * (2 * 1.4426950408889634));
  const double whole = floor(log2 + 0.5);
  const double z = (log2 - whole) * 0.6931471805599453;
  series = 1;
  for (int k = 16; k > 0; --k) series = series * z * (1.0 / k) + 1;
  const uint64_t two = static_cast<uint64_t>(static_cast<int>(whole) + 1023) << 52;
  double scale;
  memcpy(&scale, &two, 8);
  return series * scale;
}

/// Inverse scales and zeros of groups of weights [groups, size]; an inverse scale of NaN where a group has NaN or infinity. Grid: ceil(groups / 128); block: 128.
extern "C" __global__ void hqq_min_max(const unsigned char* weights, int dtype, int groups, int size, int levels, int round_zero, int small_range,
                                       float* inverse, float* zero) {
  const int g = blockIdx.x * blockDim.x + threadIdx.x;
  if (g >= groups) return;
  const Address from = reinterpret_cast<Address>(weights);
  const long long at = static_cast<long long>(g) * size;
  float low = stored_float(from, at, dtype), high = low;
  bool finite = fabsf(low) <= 3.4028235e38f;
  for (int i = 1; i < size; ++i) {
    const float w = stored_float(from, at + i, dtype);
    finite = finite && fabsf(w) <= 3.4028235e38f;
    if (w < low) low = w;
    if (w > high) high = w;
  }
  const float range = high - low;
  float s = small_range && static_cast<double>(range) <= 1e-4 ? 1.0f : 1.0f / range * static_cast<float>(levels - 1);
  if (s > 2e4f) s = 2e4f;
  const float z = -low * s;
  inverse[g] = finite ? s : nan_value();
  zero[g] = !finite ? nan_value() : round_zero ? rintf(z) + 0.0f : z;
}

__device__ __forceinline__ double dead_zone(double norm, double beta) { return norm == 1 ? 0.99 / beta : 0.99 * power(beta, -1 / (2 - norm)); }

__device__ __forceinline__ float nearest_code(float w, float s, float z, float top) {
  const float q = rintf(w * s + z);
  return q < 0 ? 0 : q > top ? top : q;
}

/**
 * `steps` half-quadratic steps of groups of weights [groups, size]. settings: p of the norm, the largest that beta will become, beta of each step. zeros [steps,
 * groups] after each step; settled [groups], 1 where no further step changes anything; errors [groups][steps][3]: of a group that moves, of one that stops, and
 * whether it is left.
 * Grid: ceil(groups / 128); block: 128.
 */
extern "C" __global__ void hqq_proximal(const unsigned char* weights, int dtype, int groups, int size, int levels, int steps, const double* settings,
                                        const float* inverse, const float* zero, float* zeros, unsigned char* settled, double* errors) {
  const int g = blockIdx.x * blockDim.x + threadIdx.x;
  if (g >= groups) return;
  const Address from = reinterpret_cast<Address>(weights);
  const long long at = static_cast<long long>(g) * size;
  const double norm = settings[0], last_beta = settings[1];
  const float s = inverse[g], top = static_cast<float>(levels - 1);
  const double quiet_to_the_end = dead_zone(norm, last_beta);
  float z = zero[g];
  bool still = settled[g] != 0;
  for (int step = 0; step < steps; ++step) {
    double* const of_step = errors + (static_cast<long long>(g) * steps + step) * 3;
    of_step[0] = of_step[1] = of_step[2] = 0;
    if (!still) {
      const double beta = settings[2 + step];
      double error = 0, zero_sum = 0, largest = 0;
      for (int i = 0; i < size; ++i) {
        const float w = stored_float(from, at + i, dtype), scaled = w * s, q = nearest_code(w, s, z, top);
        const double residual = static_cast<double>(fabsf(w - (q - z) / s));
        error += residual;
        if (residual > quiet_to_the_end && residual > largest) largest = residual;
        zero_sum += static_cast<double>(q - scaled);
      }
      if (largest > dead_zone(norm, beta)) {
        const double inverse_beta = 1 / beta;
        zero_sum = 0;
        for (int i = 0; i < size; ++i) {
          const float w = stored_float(from, at + i, dtype), q = nearest_code(w, s, z, top), off = w - (q - z) / s, magnitude = fabsf(off);
          // sign(x) max(|x| - |x|^(p-1) / beta, 0), every operation rounded to f32
          float rest = 0;
          if (magnitude > 0) {
            const double cut = norm == 1 ? inverse_beta
                                         : static_cast<double>(static_cast<float>(inverse_beta * static_cast<double>(static_cast<float>(
                                               power(static_cast<double>(magnitude), norm - 1)))));
            rest = static_cast<float>(static_cast<double>(magnitude) - cut);
            rest = rest > 0 ? (off < 0 ? -rest : rest) : 0;
          }
          zero_sum += static_cast<double>(q - (w - rest) * s);
        }
      }
      const float found = static_cast<float>(zero_sum / static_cast<double>(size));
      still = found == z && (largest == 0 || beta == last_beta);
      of_step[still ? 1 : 0] = error;
      of_step[2] = still ? 0 : 1;
      z = found;
    }
    zeros[static_cast<long long>(step) * groups + g] = z;
  }
  settled[g] = still ? 1 : 0;
}

/// Sums of columns of numbers [rows, columns], each in the order of rows. Grid: ceil(columns / 32); block: 32.
extern "C" __global__ void sum_columns(const double* numbers, int rows, int columns, double* sums) {
  const int column = blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= columns) return;
  double sum = 0;
  for (int row = 0; row < rows; ++row) sum += numbers[static_cast<long long>(row) * columns + column];
  sums[column] = sum;
}

/**
 * Codes of groups and what they lose, as packages/hqq/src/finish-block.ts: by the solved grid (`inverse` and `zero`; none: the nearest to what is stored).
 * errors [groups, 3]: squared errors, squared weights, largest error. Grid: ceil(groups / 128); block: 128.
 */
extern "C" __global__ void hqq_finish(const unsigned char* weights, int dtype, int groups, int size, int levels, const float* stored_scale,
                                      const float* stored_zero, const float* inverse, const float* zero, unsigned char* codes, double* errors) {
  const int g = blockIdx.x * blockDim.x + threadIdx.x;
  if (g >= groups) return;
  const Address from = reinterpret_cast<Address>(weights);
  const long long at = static_cast<long long>(g) * size;
  const float scale = stored_scale[g], mine = stored_zero[g], s = inverse != nullptr ? inverse[g] : 0, z = inverse != nullptr ? zero[g] : 0;
  const double exact_inverse = 1 / static_cast<double>(scale);
  double squares = 0, squared_weights = 0, most = 0;
  for (int i = 0; i < size; ++i) {
    const float w = stored_float(from, at + i, dtype);
    const double x = inverse != nullptr ? static_cast<double>(rintf(w * s + z)) : rint(static_cast<double>(w) * exact_inverse + static_cast<double>(mine));
    // NaN is 0.
    const int q = x > levels - 1 ? levels - 1 : x > 0 ? static_cast<int>(x) : 0;
    codes[at + i] = static_cast<unsigned char>(q);
    const double error = static_cast<double>(w) - static_cast<double>((static_cast<float>(q) - mine) * scale);
    squares += error * error;
    squared_weights += static_cast<double>(w) * static_cast<double>(w);
    if (fabs(error) > most) most = fabs(error);
  }
  errors[3 * static_cast<long long>(g)] = squares;
  errors[3 * static_cast<long long>(g) + 1] = squared_weights;
  errors[3 * static_cast<long long>(g) + 2] = most;
}

/// Of errors [groups, 3] the sums of the first two, in the order of groups, and the largest of the third. Grid: 1; block: 32.
extern "C" __global__ void hqq_error_sums(const double* errors, int groups, double* sums) {
  const int column = threadIdx.x;
  if (column >= 3) return;
  double sum = 0;
  for (int g = 0; g < groups; ++g) {
    const double one = errors[3 * static_cast<long long>(g) + column];
    if (column < 2) sum += one;
    else if (one > sum) sum = one;
  }
  sums[column] = sum;
}

/**
 * Codes of groups as words of a byte or four, a field of `bits` for each lane, the first in the highest bits: packages/hqq/src/tiles.ts. On axis 1 a lane is
 * groups [starts[lane], starts[lane + 1]) one after another; on axis 0 groups are columns, and a lane is `word_rows` rows of them.
 * Grid: ceil(words / 256); block: 256.
 */
extern "C" __global__ void hqq_pack(const unsigned char* codes, int axis, int size, int word_rows, int extent, int lanes, int bits, int word_bytes,
                                    const int* starts, int words, unsigned char* packed) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= words) return;
  uint32_t word = 0;
  for (int lane = 0; lane < lanes; ++lane) {
    uint32_t code = 0;
    if (axis == 1) {
      const long long at = static_cast<long long>(starts[lane]) * size + i;
      if (at < static_cast<long long>(starts[lane + 1]) * size) code = codes[at];
    } else {
      const int row = lane * word_rows + i / extent;
      if (row < size) code = codes[static_cast<long long>(i % extent) * size + row];
    }
    word |= code << (bits * (lanes - 1 - lane));
  }
  if (word_bytes == 1) packed[i] = static_cast<unsigned char>(word);
  else reinterpret_cast<uint32_t*>(packed)[i] = word;
}

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
