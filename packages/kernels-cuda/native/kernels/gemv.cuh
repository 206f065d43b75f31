// Products of one or two rows of x with 4-bit weights: the weights' bytes should set the pace, so little is done for each. Four codes and four bytes of a
// plane are one dot product; sums of a block are exact.
#pragma once

#include "linear.cuh"
#include "planes.cuh"

namespace lowbit {

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
 * Sums of rows `first` and `first` + 1 of a weight of 4-bit codes whose groups are multiples of 32 inputs within rows, times one row of x: over a warp, the
 * same in each lane. Planes of x (natural for tables) have `stride` words a block.
 */
template <bool kTable>
__device__ __forceinline__ void dot_rows(const Weight& w, const QuickTable& table, int first, const uint32_t* planes, int stride,
                                         const BlockNumbers* numbers, float (&sums)[kGemvRows]) {
  const int lane = threadIdx.x % 32, blocks = w.inp / kBlock;
  LOWBIT_UNROLL
  for (int r = 0; r < kGemvRows; ++r) sums[r] = 0;
  for (int block = lane; block < blocks; block += 32) {
    uint32_t x[3][kPlaneWords];
    LOWBIT_UNROLL
    for (int i = 0; i < 3 * kPlaneWords / 4; ++i) {
      const Word4 four = reinterpret_cast<const Word4*>(planes + static_cast<long long>(block) * stride)[i];
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
  for (int r = 0; r < kGemvRows; ++r) sums[r] = warp_sum(sums[r]);
}

/// As `product`; planes from `activation_planes`. Grid: (ceil(out / 8), rows); block: 128.
template <bool kTable>
__device__ __forceinline__ void gemv(const Weight& w, const uint32_t* planes, const BlockNumbers* numbers, float* out) {
  const int first = (blockIdx.x * kWarps + threadIdx.x / 32) * kGemvRows, blocks = w.inp / kBlock;
  if (first >= w.out) return;
  QuickTable table = {};
  if (kTable) table = *reinterpret_cast<const QuickTable*>(w.quick);
  const long long at = static_cast<long long>(blockIdx.y) * blocks;
  float sums[kGemvRows];
  dot_rows<kTable>(w, table, first, planes + at * kBlockWords, kBlockWords, numbers + at, sums);
  LOWBIT_UNROLL
  for (int r = 0; r < kGemvRows; ++r) {
    if (threadIdx.x % 32 == 0 && first + r < w.out) out[static_cast<long long>(blockIdx.y) * w.out + first + r] = with_bias(w, first + r, sums[r]);
  }
}

extern "C" __global__ void __launch_bounds__(128) gemv_affine4(const Weight* weight, const uint32_t* planes, const BlockNumbers* numbers, float* out) {
  gemv<false>(*weight, planes, numbers, out);
}

extern "C" __global__ void __launch_bounds__(128) gemv_table4(const Weight* weight, const uint32_t* planes, const BlockNumbers* numbers, float* out) {
  gemv<true>(*weight, planes, numbers, out);
}

}  // namespace lowbit
