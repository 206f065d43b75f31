// Activations for products of many rows on tensor cores: in blocks of 64 that share a scale, as whole numbers of 23 bits, cut into two of 12 and 11 that a half
// holds exactly: q = 2^11 high + low. In one plane they are whole numbers of 12 bits: off by a 4,094th of the largest of their block at most, for half of the products.
// docs/decisions has the reasons.
#pragma once

#include "port.cuh"

namespace lowbit {

constexpr int kDepth = 64;                                  // inputs of a block
constexpr int kLowDigits = 11;                              // of the second half
constexpr int kMostHigh = 2047;
constexpr int kMostPlane = kMostHigh * 2048 + 1023;
constexpr float kLowUnit = 1.0f / (1 << kLowDigits);
constexpr int kPlaneBytes = kDepth * 2;                     // of one half of a block
constexpr int kPairBytes = 2 * kPlaneBytes;

/// What high + low / 2^11 (of one plane: high) is to be multiplied by, and the sum of a block's activations as they are coded.
struct alignas(8) PairNumbers {
  float scale, sum;
};

/**
 * Rows of x [rows, inp] as halves [rows][ceil(inp / 64)][count: high, low][64] and numbers [rows][ceil(inp / 64)]; past the inputs are zeros. A block with NaN or
 * infinity has NaN for its scale. Grid: (ceil(blocks / 4), rows); block: 128: a warp for a block.
 */
extern "C" __global__ void gemm_planes(const float* x, int inp, int count, uint32_t* planes, PairNumbers* numbers) {
  const int block = blockIdx.x * 4 + threadIdx.x / 32, blocks = (inp + kDepth - 1) / kDepth, lane = threadIdx.x % 32;
  if (block >= blocks) return;
  const long long at = static_cast<long long>(blockIdx.y) * blocks + block;
  const float* from = x + static_cast<long long>(blockIdx.y) * inp;
  float values[2];
  LOWBIT_UNROLL
  for (int i = 0; i < 2; ++i) {
    const int k = block * kDepth + 2 * lane + i;
    values[i] = k < inp ? from[k] : 0;
  }
  // A NaN in either stays one.
  const float mine = fabsf(values[0]), other = fabsf(values[1]);
  const float largest = warp_max(mine != mine || mine >= other ? mine : other);
  const bool finite = largest <= 3.4028234e38f;
  const int most = count == 1 ? kMostHigh : kMostPlane;
  const float scale = largest / static_cast<float>(most);
  uint32_t high = 0, low = 0;
  int sum = 0;
  LOWBIT_UNROLL
  for (int i = 0; i < 2; ++i) {
    // The quotient of the largest may come out one step too far.
    const int q = finite && scale > 0 ? min(max(to_integer(values[i] / scale), -most), most) : 0;
    const int rest = ((q + 1024) & 2047) - 1024, upper = count == 1 ? q : (q - rest) / 2048;
    high |= static_cast<uint32_t>(to_f16(static_cast<float>(upper))) << (16 * i);
    low |= static_cast<uint32_t>(to_f16(static_cast<float>(rest))) << (16 * i);
    sum += q;
  }
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(kAll, sum, offset);
  uint32_t* to = planes + at * (count * kPlaneBytes / 4);
  to[lane] = high;
  if (count == 2) to[kPlaneBytes / 4 + lane] = low;
  if (lane == 0) numbers[at] = {finite ? (count == 1 ? scale : scale * 2048.0f) : nan_value(), finite ? static_cast<float>(sum) * scale : nan_value()};
}

}  // namespace lowbit
