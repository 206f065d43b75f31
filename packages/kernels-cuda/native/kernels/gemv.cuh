// Products of one or two rows of x with 4-bit weights: the weights' bytes should set the pace, so little is done for each.
//
// Activations are integers of 24 bits in blocks of 32 that share a scale, cut into three planes of signed bytes: q = 2^16 p0 + 2^8 p1 + p2. Four codes and
// four bytes of a plane are one dot product; sums of a block are exact. docs/decisions/013 has the reasons, for processors.
#pragma once

#include "linear.cuh"

namespace lowbit {

constexpr int kBlock = 32;                // inputs that share a scale: what a lane reads at once
constexpr int kPlaneWords = kBlock / 4;   // of one plane
constexpr int kLargest = 0x7f7f7f;        // each of its bytes can have either sign

/// Scale of a block, and the sum of its quantized activations.
struct BlockNumbers {
  float scale, sum;
};

/**
 * Rows of x [rows, inp] as planes [rows][inp / 32][3][8 words] and numbers [rows][inp / 32]. In each 8 inputs, bytes of a word are inputs 0 2 4 6 and
 * 1 3 5 7, as the low and high halves of the bytes of codes are; with `natural` 0 1 2 3 and 4 5 6 7. A block with NaN or infinity has NaN for its scale.
 * Grid: (ceil(inp / 32 / 4), rows); block: 128: a warp for a block.
 */
extern "C" __global__ void activation_planes(const float* x, int inp, int natural, uint32_t* planes, BlockNumbers* numbers) {
  const int lane = threadIdx.x % 32, block = blockIdx.x * 4 + threadIdx.x / 32, blocks = inp / kBlock;
  if (block >= blocks) return;
  const float value = x[static_cast<long long>(blockIdx.y) * inp + block * kBlock + lane];
  const float largest = warp_max(fabsf(value));
  const bool finite = largest <= 3.4028234e38f;
  const float scale = largest / static_cast<float>(kLargest);
  // The quotient of the largest may come out one step too far: its first byte would change its sign.
  const int q = finite && scale > 0 ? min(max(to_integer(value / scale), -kLargest), kLargest) : 0;
  int sum = q;
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(kAll, sum, offset);
  const int low = ((q + 128) & 255) - 128, rest = (q - low) / 256, middle = ((rest + 128) & 255) - 128, high = (rest - middle) / 256;
  const long long at = static_cast<long long>(blockIdx.y) * blocks + block;
  const int eighth = lane / 8, within = lane % 8;
  const int word = eighth * 2 + (natural ? within / 4 : within % 2), byte = natural ? within % 4 : within / 2;
  int8_t* to = reinterpret_cast<int8_t*>(planes + at * 3 * kPlaneWords) + word * 4 + byte;
  to[0] = static_cast<int8_t>(high);
  to[kPlaneWords * 4] = static_cast<int8_t>(middle);
  to[2 * kPlaneWords * 4] = static_cast<int8_t>(low);
  if (lane == 0) numbers[at] = {finite ? scale : nan_value(), finite ? static_cast<float>(sum) * scale : nan_value()};
}

/// A table of 16 numbers as integers of 16 bits, in bytes: number i is step * (256 high[i] + low[i]).
struct QuickTable {
  uint32_t high[4], low[4];
  float step;
};

/// Bytes of a table for the four codes in the lower half of `codes`.
__device__ __forceinline__ uint32_t looked_up(const uint32_t* table, uint32_t select, uint32_t upper) {
  const uint32_t low = __byte_perm(table[0], table[1], select), high = __byte_perm(table[2], table[3], select);
  return (low & ~upper) | (high & upper);
}

constexpr int kGemvRows = 2;  // of the weight, to a warp: what a lane has loaded of x serves both

/**
 * As `product` for 4-bit codes whose groups are multiples of 32 inputs within rows; planes of x from `activation_planes` (natural for tables).
 * Grid: (ceil(out / 8), rows); block: 128.
 */
template <bool kTable>
__device__ __forceinline__ void gemv(const Weight& w, const uint32_t* planes, const BlockNumbers* numbers, float* out) {
  const int lane = threadIdx.x % 32, first = (blockIdx.x * kWarps + threadIdx.x / 32) * kGemvRows, blocks = w.inp / kBlock;
  if (first >= w.out) return;
  planes += static_cast<long long>(blockIdx.y) * blocks * 3 * kPlaneWords;
  numbers += static_cast<long long>(blockIdx.y) * blocks;
  QuickTable table = {};
  if (kTable) table = *reinterpret_cast<const QuickTable*>(w.quick);
  float sums[kGemvRows] = {};
  for (int block = lane; block < blocks; block += 32) {
    uint32_t x[3][kPlaneWords];
    LOWBIT_UNROLL
    for (int i = 0; i < 3 * kPlaneWords / 4; ++i) {
      const Word4 four = reinterpret_cast<const Word4*>(planes + static_cast<long long>(block) * 3 * kPlaneWords)[i];
      x[i / 2][i % 2 * 4] = four.x;
      x[i / 2][i % 2 * 4 + 1] = four.y;
      x[i / 2][i % 2 * 4 + 2] = four.z;
      x[i / 2][i % 2 * 4 + 3] = four.w;
    }
    const BlockNumbers block_numbers = numbers[block];
    LOWBIT_UNROLL
    for (int r = 0; r < kGemvRows; ++r) {
      const int row = min(first + r, w.out - 1);
      const Word4 four = reinterpret_cast<const Word4*>(reinterpret_cast<const uint32_t*>(w.codes) + static_cast<long long>(row) * w.row_words)[block];
      const uint32_t codes[4] = {four.x, four.y, four.z, four.w};
      const int g = row * w.per_row + block * kBlock / w.group;
      const float scale = stored_float(w.scale, g, w.meta);
      int high[3] = {}, low[2] = {};
      LOWBIT_UNROLL
      for (int i = 0; i < 4; ++i) {
        LOWBIT_UNROLL
        for (int half = 0; half < 2; ++half) {
          const int word = 2 * i + half;
          if (kTable) {
            const uint32_t four_codes = codes[i] >> (16 * half), select = four_codes & 0x7777, upper = __byte_perm(0xff00, 0, four_codes >> 3 & 0x1111);
            const int bytes = static_cast<int>(looked_up(table.high, select, upper)), more = static_cast<int>(looked_up(table.low, select, upper));
            LOWBIT_UNROLL
            for (int p = 0; p < 3; ++p) high[p] = __dp4a(bytes, static_cast<int>(x[p][word]), high[p]);
            // The last of the six products would be 2^-24 of the largest at most.
            LOWBIT_UNROLL
            for (int p = 0; p < 2; ++p) low[p] = __dp4a(more, static_cast<int>(x[p][word]), low[p]);
          } else {
            const int bytes = static_cast<int>(codes[i] >> (4 * half) & 0x0f0f0f0f);
            LOWBIT_UNROLL
            for (int p = 0; p < 3; ++p) high[p] = __dp4a(bytes, static_cast<int>(x[p][word]), high[p]);
          }
        }
      }
      const float upper_sum = fmaf(static_cast<float>(high[0]), 65536.0f, fmaf(static_cast<float>(high[1]), 256.0f, static_cast<float>(high[2])));
      if (kTable) {
        const float lower_sum = fmaf(static_cast<float>(low[0]), 65536.0f, static_cast<float>(low[1]) * 256.0f);
        sums[r] = fmaf(fmaf(upper_sum, 256.0f, lower_sum) * table.step, block_numbers.scale * scale, sums[r]);
      } else {
        const float zero = w.zero != 0 ? stored_float(w.zero, g, w.meta) : w.fixed_zero;
        sums[r] = fmaf(fmaf(upper_sum, block_numbers.scale, -zero * block_numbers.sum), scale, sums[r]);
      }
    }
  }
  LOWBIT_UNROLL
  for (int r = 0; r < kGemvRows; ++r) {
    const float sum = warp_sum(sums[r]);
    if (lane == 0 && first + r < w.out) out[static_cast<long long>(blockIdx.y) * w.out + first + r] = with_bias(w, first + r, sum);
  }
}

extern "C" __global__ void __launch_bounds__(128) gemv_affine4(const Weight* weight, const uint32_t* planes, const BlockNumbers* numbers, float* out) {
  gemv<false>(*weight, planes, numbers, out);
}

extern "C" __global__ void __launch_bounds__(128) gemv_table4(const Weight* weight, const uint32_t* planes, const BlockNumbers* numbers, float* out) {
  gemv<true>(*weight, planes, numbers, out);
}

}  // namespace lowbit
