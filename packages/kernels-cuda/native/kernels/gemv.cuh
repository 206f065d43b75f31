// Products of one or two rows of x with weights of codes: the weights' bytes should set the pace, so little is done for each. Four codes and four bytes of a
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

/// Codes k .. k + 3 of a row, a byte each; k is a multiple of 4.
__device__ __forceinline__ uint32_t four_codes(const uint32_t* words, int k, int bits) {
  if (bits == 8) return words[k / 4];
  const int bit = k * bits, word = bit / 32, shift = bit % 32;
  const uint32_t high = shift + 4 * bits > 32 ? words[word + 1] : 0;
  const uint32_t packed = __funnelshift_r(words[word], high, shift), mask = (1u << bits) - 1;
  return (packed & mask) | (packed >> bits & mask) << 8 | (packed >> 2 * bits & mask) << 16 | (packed >> 3 * bits & mask) << 24;
}

/// c plus the products of the four bytes of a and the four signed bytes of b.
__device__ __forceinline__ int dot_unsigned(uint32_t a, uint32_t b, int c) {
#ifdef LOWBIT_EMULATOR
  for (int i = 0; i < 4; ++i) c += static_cast<uint8_t>(a >> (8 * i)) * static_cast<int8_t>(b >> (8 * i));
#else
  asm("dp4a.u32.s32 %0, %1, %2, %0;" : "+r"(c) : "r"(a), "r"(b));
#endif
  return c;
}

/// Codes of a weight: of 4 bits, of any other number of them, or of 4 bits that stand for the numbers of a table.
enum Codes : int { kFour, kAny, kTable };

constexpr int kGemvRows = 2;  // of the weight, to a warp: what a lane has loaded of x serves both

/**
 * Sums of rows `first` and `first` + 1 of a weight of codes whose groups are multiples of 32 inputs within rows, times one row of x: over a warp, the
 * same in each lane. Planes of x (natural but for affine codes of 4 bits) have `stride` words a block.
 */
template <Codes kCodes>
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
      const uint32_t* words = reinterpret_cast<const uint32_t*>(w.codes) + static_cast<long long>(row) * w.row_words;
      Word4 four = {};
      if (kCodes != kAny) four = reinterpret_cast<const Word4*>(words)[block];
      const uint32_t codes[4] = {four.x, four.y, four.z, four.w};
      const int g = row * w.per_row + block * kBlock / w.group;
      const float scale = stored_float(w.scale, g, w.meta);
      int high[3] = {}, low[2] = {};
      LOWBIT_UNROLL
      for (int i = 0; i < 4; ++i) {
        LOWBIT_UNROLL
        for (int half = 0; half < 2; ++half) {
          const int word = 2 * i + half;
          if (kCodes == kTable) {
            const uint32_t nibbles = codes[i] >> (16 * half), select = nibbles & 0x7777, upper = __byte_perm(0xff00, 0, nibbles >> 3 & 0x1111);
            const int bytes = static_cast<int>(looked_up(table.high, select, upper)), more = static_cast<int>(looked_up(table.low, select, upper));
            LOWBIT_UNROLL
            for (int p = 0; p < 3; ++p) high[p] = __dp4a(bytes, static_cast<int>(x[p][word]), high[p]);
            // The last of the six products would be 2^-24 of the largest at most.
            LOWBIT_UNROLL
            for (int p = 0; p < 2; ++p) low[p] = __dp4a(more, static_cast<int>(x[p][word]), low[p]);
          } else {
            const uint32_t bytes = kCodes == kFour ? codes[i] >> (4 * half) & 0x0f0f0f0f : four_codes(words, block * kBlock + 4 * word, w.bits);
            LOWBIT_UNROLL
            for (int p = 0; p < 3; ++p) high[p] = dot_unsigned(bytes, x[p][word], high[p]);
          }
        }
      }
      const float upper_sum = fmaf(static_cast<float>(high[0]), 65536.0f, fmaf(static_cast<float>(high[1]), 256.0f, static_cast<float>(high[2])));
      if (kCodes == kTable) {
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

/// Two rows of a weight of codes of any kind, with bias.
__device__ __forceinline__ void dot_either(const Weight& w, int first, const uint32_t* planes, int stride, const BlockNumbers* numbers,
                                           float (&sums)[kGemvRows]) {
  QuickTable table = {};
  if (w.quick != 0) {
    table = *reinterpret_cast<const QuickTable*>(w.quick);
    dot_rows<kTable>(w, table, first, planes, stride, numbers, sums);
  } else if (w.bits == 4) {
    dot_rows<kFour>(w, table, first, planes, stride, numbers, sums);
  } else {
    dot_rows<kAny>(w, table, first, planes, stride, numbers, sums);
  }
  LOWBIT_UNROLL
  for (int r = 0; r < kGemvRows; ++r) sums[r] = with_bias(w, min(first + r, w.out - 1), sums[r]);
}

/// As `product`; planes from `activation_planes`. Grid: (ceil(out / 8), rows); block: 128.
template <Codes kCodes>
__device__ __forceinline__ void gemv(const Weight& w, const uint32_t* planes, const BlockNumbers* numbers, float* out) {
  const int first = (blockIdx.x * kWarps + threadIdx.x / 32) * kGemvRows, blocks = w.inp / kBlock;
  if (first >= w.out) return;
  QuickTable table = {};
  if (kCodes == kTable) table = *reinterpret_cast<const QuickTable*>(w.quick);
  const long long at = static_cast<long long>(blockIdx.y) * blocks;
  float sums[kGemvRows];
  dot_rows<kCodes>(w, table, first, planes + at * kBlockWords, kBlockWords, numbers + at, sums);
  LOWBIT_UNROLL
  for (int r = 0; r < kGemvRows; ++r) {
    if (threadIdx.x % 32 == 0 && first + r < w.out) out[static_cast<long long>(blockIdx.y) * w.out + first + r] = with_bias(w, first + r, sums[r]);
  }
}

extern "C" __global__ void __launch_bounds__(128) gemv_affine(const Weight* weight, const uint32_t* planes, const BlockNumbers* numbers, float* out) {
  gemv<kAny>(*weight, planes, numbers, out);
}

extern "C" __global__ void __launch_bounds__(128) gemv_affine4(const Weight* weight, const uint32_t* planes, const BlockNumbers* numbers, float* out) {
  gemv<kFour>(*weight, planes, numbers, out);
}

extern "C" __global__ void __launch_bounds__(128) gemv_table4(const Weight* weight, const uint32_t* planes, const BlockNumbers* numbers, float* out) {
  gemv<kTable>(*weight, planes, numbers, out);
}

/**
 * Row r of out is weights[ids[r]] times row r / top_k (shared != 0) or r of x, whose planes are given; an id outside of the experts gives NaN.
 * Grid: (ceil(out / 8), rows); block: 128.
 */
extern "C" __global__ void __launch_bounds__(128) gemv_experts(const Address* weights, int experts, const int* ids, const uint32_t* planes,
                                                               const BlockNumbers* numbers, float* out, int out_width, int top_k, int shared) {
  const int first = (blockIdx.x * kWarps + threadIdx.x / 32) * kGemvRows, row = blockIdx.y, id = ids[row];
  if (first >= out_width) return;
  float sums[kGemvRows] = {nan_value(), nan_value()};
  if (id >= 0 && id < experts) {
    const Weight w = *reinterpret_cast<const Weight*>(weights[id]);
    const long long at = static_cast<long long>(shared ? row / top_k : row) * (w.inp / kBlock);
    dot_either(w, first, planes + at * kBlockWords, kBlockWords, numbers + at, sums);
  }
  LOWBIT_UNROLL
  for (int r = 0; r < kGemvRows; ++r) {
    if (threadIdx.x % 32 == 0 && first + r < out_width) out[static_cast<long long>(row) * out_width + first + r] = sums[r];
  }
}

}  // namespace lowbit
