// Routines of packages/hqq/src/grid.ts, solvers/proximal-step.ts and finish-block.ts, operation by operation. Sums of a group are doubles added in the order of its
// elements, so groups, not elements, are the threads; what they add up lies in shared memory, where a warp put it side by side.
#pragma once

#include "weight.cuh"

namespace lowbit {

constexpr int kGroupsAtOnce = 32;  // of a block, a thread each
constexpr int kGroupPiece = 256;        // elements of each group that are there at a time

/// Up to 32 groups of weights in shared memory, piece by piece. All threads of the block take part in what brings a piece.
struct GroupPieces {
  Address from;
  long long at;  // the first element of the first group
  int dtype, size, count, pitch, begun;
  float* numbers;

  __device__ __forceinline__ GroupPieces(const unsigned char* weights, int stored, int groups, int group_size, float* room)
      : from(reinterpret_cast<Address>(weights)),
        at(static_cast<long long>(blockIdx.x) * kGroupsAtOnce * group_size),
        dtype(stored),
        size(group_size),
        count(min(kGroupsAtOnce, groups - static_cast<int>(blockIdx.x) * kGroupsAtOnce)),
        pitch(min(group_size, kGroupPiece) | 1),  // odd: threads read the same element of their groups from banks of their own
        begun(-1),
        numbers(room) {}

  __device__ __forceinline__ int length(int begin) const { return min(kGroupPiece, size - begin); }
  /// Elements from `begin`, a multiple of kGroupPiece, of all groups.
  __device__ __forceinline__ void bring(int begin) {
    if (begun == begin) return;
    begun = begin;
    const int wide = length(begin);
    __syncthreads();  // what was there has been read
    for (int g = threadIdx.x / wide, j = threadIdx.x % wide; g < count;) {
      numbers[g * pitch + j] = stored_float(from, at + static_cast<long long>(g) * size + begin + j, dtype);
      for (j += kGroupsAtOnce; j >= wide; j -= wide) ++g;
    }
    __syncthreads();
  }
  /// Element `begin` + i of this thread's group.
  __device__ __forceinline__ float operator[](int i) const { return numbers[threadIdx.x * pitch + i]; }
};

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

/// Inverse scales and zeros of groups of weights [groups, size]; an inverse scale of NaN where a group has NaN or infinity. Grid: ceil(groups / 32); block: 32.
extern "C" __global__ void hqq_min_max(const unsigned char* weights, int dtype, int groups, int size, int levels, int round_zero, int small_range,
                                       float* inverse, float* zero) {
  LOWBIT_SHARED(float, numbers, kGroupsAtOnce * (kGroupPiece + 1));
  GroupPieces pieces(weights, dtype, groups, size, numbers);
  const int g = blockIdx.x * kGroupsAtOnce + threadIdx.x;
  float low = 0, high = 0;
  bool finite = true;
  for (int begin = 0; begin < size; begin += kGroupPiece) {
    pieces.bring(begin);
    if (g >= groups) continue;
    if (begin == 0) low = high = pieces[0];
    for (int i = 0; i < pieces.length(begin); ++i) {
      const float w = pieces[i];
      finite = finite && fabsf(w) <= 3.4028235e38f;
      if (w < low) low = w;
      if (w > high) high = w;
    }
  }
  if (g >= groups) return;
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

/// sign(x) max(|x| - |x|^(p-1) / beta, 0), every operation rounded to f32.
__device__ __forceinline__ float shrunk(float off, double norm, double inverse_beta) {
  const float magnitude = fabsf(off);
  if (!(magnitude > 0)) return 0;
  const double cut = norm == 1 ? inverse_beta
                               : static_cast<double>(static_cast<float>(
                                     inverse_beta * static_cast<double>(static_cast<float>(power(static_cast<double>(magnitude), norm - 1)))));
  const float rest = static_cast<float>(static_cast<double>(magnitude) - cut);
  return rest > 0 ? (off < 0 ? -rest : rest) : 0;
}

/**
 * `steps` half-quadratic steps of groups of weights [groups, size]. settings: p of the norm, the largest that beta will become, beta of each step. zeros [steps,
 * groups] after each step; settled [groups], 1 where no further step changes anything; errors [groups][steps][3]: of a group that moves, of one that stops, and
 * whether it is left.
 * Grid: ceil(groups / 32); block: 32.
 */
extern "C" __global__ void hqq_proximal(const unsigned char* weights, int dtype, int groups, int size, int levels, int steps, const double* settings,
                                        const float* inverse, const float* zero, float* zeros, unsigned char* settled, double* errors) {
  LOWBIT_SHARED(float, numbers, kGroupsAtOnce * (kGroupPiece + 1));
  GroupPieces pieces(weights, dtype, groups, size, numbers);
  const int g = blockIdx.x * kGroupsAtOnce + threadIdx.x;
  const bool there = g < groups;
  const double norm = settings[0], last_beta = settings[1];
  const float s = there ? inverse[g] : 0, top = static_cast<float>(levels - 1);
  const double quiet_to_the_end = dead_zone(norm, last_beta);
  float z = there ? zero[g] : 0;
  bool still = there ? settled[g] != 0 : true;
  for (int step = 0; step < steps; ++step) {
    const double beta = settings[2 + step];
    double error = 0, zero_sum = 0, largest = 0;
    if (__ballot_sync(kAll, !still) != 0) {
      for (int begin = 0; begin < size; begin += kGroupPiece) {
        pieces.bring(begin);
        if (still) continue;
        for (int i = 0; i < pieces.length(begin); ++i) {
          const float w = pieces[i], scaled = w * s, q = nearest_code(w, s, z, top);
          const double residual = static_cast<double>(fabsf(w - (q - z) / s));
          error += residual;
          if (residual > quiet_to_the_end && residual > largest) largest = residual;
          zero_sum += static_cast<double>(q - scaled);
        }
      }
    }
    const bool acts = !still && largest > dead_zone(norm, beta);  // the shrinkage
    if (__ballot_sync(kAll, acts) != 0) {
      const double inverse_beta = 1 / beta;
      if (acts) zero_sum = 0;
      for (int begin = 0; begin < size; begin += kGroupPiece) {
        pieces.bring(begin);
        if (!acts) continue;
        for (int i = 0; i < pieces.length(begin); ++i) {
          const float w = pieces[i], q = nearest_code(w, s, z, top);
          zero_sum += static_cast<double>(q - (w - shrunk(w - (q - z) / s, norm, inverse_beta)) * s);
        }
      }
    }
    if (!there) continue;
    double* const of_step = errors + (static_cast<long long>(g) * steps + step) * 3;
    of_step[0] = of_step[1] = of_step[2] = 0;
    if (!still) {
      const float found = static_cast<float>(zero_sum / static_cast<double>(size));
      still = found == z && (largest == 0 || beta == last_beta);
      of_step[still ? 1 : 0] = error;
      of_step[2] = still ? 0 : 1;
      z = found;
    }
    zeros[static_cast<long long>(step) * groups + g] = z;
  }
  if (there) settled[g] = still ? 1 : 0;
}

/**
 * Of columns of numbers [rows, columns] the sums, each in the order of rows; from column `summed` on the largest, at least 0. One warp adds up rows in shared
 * memory while the others bring the next. Grid: ceil(columns / 32); block: 128.
 */
extern "C" __global__ void sum_columns(const double* numbers, int rows, int columns, int summed, double* sums) {
  constexpr int kRows = 64, kColumns = 32;
  LOWBIT_SHARED(double, room, 2 * kRows * kColumns);
  const int first = blockIdx.x * kColumns, wide = min(kColumns, columns - first), thread = static_cast<int>(threadIdx.x);
  double sum = 0;
  for (int chunk = -1; chunk * kRows < rows; ++chunk) {
    const int next = (chunk + 1) * kRows;
    if (thread >= 32) {
      const int count = max(0, min(kRows, rows - next)) * wide;
      double* const to = room + (chunk + 1) % 2 * kRows * kColumns;
      for (int i = thread - 32; i < count; i += 96) to[i] = numbers[static_cast<long long>(next + i / wide) * columns + first + i % wide];
    } else if (chunk >= 0 && thread < wide) {
      const double* from = room + chunk % 2 * kRows * kColumns + thread;
      const int count = min(kRows, rows - chunk * kRows);
      for (int row = 0; row < count; ++row) {
        const double one = from[row * wide];
        if (first + thread < summed) sum += one;
        else if (one > sum) sum = one;
      }
    }
    __syncthreads();
  }
  if (thread < wide) sums[first + thread] = sum;
}

/**
 * Codes of groups and what they lose, as packages/hqq/src/finish-block.ts: by the solved grid (`inverse` and `zero`; none: the nearest to what is stored).
 * errors [groups, 3]: squared errors, squared weights, largest error. Grid: ceil(groups / 32); block: 32.
 */
extern "C" __global__ void hqq_finish(const unsigned char* weights, int dtype, int groups, int size, int levels, const float* stored_scale,
                                      const float* stored_zero, const float* inverse, const float* zero, unsigned char* codes, double* errors) {
  constexpr int kCodePitch = kGroupPiece + 4;  // an odd number of words
  LOWBIT_SHARED(float, numbers, kGroupsAtOnce * (kGroupPiece + 1));
  LOWBIT_SHARED(unsigned char, found, kGroupsAtOnce * kCodePitch);
  GroupPieces pieces(weights, dtype, groups, size, numbers);
  const int g = blockIdx.x * kGroupsAtOnce + threadIdx.x;
  const bool there = g < groups, solved = inverse != nullptr;
  const float scale = there ? stored_scale[g] : 1, mine = there ? stored_zero[g] : 0, s = there && solved ? inverse[g] : 0, z = there && solved ? zero[g] : 0;
  const double exact_inverse = 1 / static_cast<double>(scale);
  double squares = 0, squared_weights = 0, most = 0;
  for (int begin = 0; begin < size; begin += kGroupPiece) {
    const int wide = pieces.length(begin);
    pieces.bring(begin);
    for (int i = 0; there && i < wide; ++i) {
      const float w = pieces[i];
      const double x = solved ? static_cast<double>(rintf(w * s + z)) : rint(static_cast<double>(w) * exact_inverse + static_cast<double>(mine));
      // NaN is 0.
      const int q = x > levels - 1 ? levels - 1 : x > 0 ? static_cast<int>(x) : 0;
      found[threadIdx.x * kCodePitch + i] = static_cast<unsigned char>(q);
      const double error = static_cast<double>(w) - static_cast<double>((static_cast<float>(q) - mine) * scale);
      squares += error * error;
      squared_weights += static_cast<double>(w) * static_cast<double>(w);
      if (fabs(error) > most) most = fabs(error);
    }
    __syncthreads();
    for (int row = threadIdx.x / wide, j = threadIdx.x % wide; row < pieces.count;) {
      codes[pieces.at + static_cast<long long>(row) * size + begin + j] = found[row * kCodePitch + j];
      for (j += kGroupsAtOnce; j >= wide; j -= wide) ++row;
    }
    __syncthreads();  // before the codes of the next piece
  }
  if (!there) return;
  errors[3 * static_cast<long long>(g)] = squares;
  errors[3 * static_cast<long long>(g) + 1] = squared_weights;
  errors[3 * static_cast<long long>(g) + 2] = most;
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

}  // namespace lowbit
