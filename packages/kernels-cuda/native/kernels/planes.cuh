// Activations for products of integers: 24 bits in blocks of 32 that share a scale, cut into three planes of signed bytes: q = 2^16 p0 + 2^8 p1 + p2.
// docs/decisions/013 has the reasons, for processors.
#pragma once

#include "port.cuh"

namespace lowbit {

constexpr int kBlock = 32;               // inputs that share a scale: what a lane reads at once
constexpr int kPlaneWords = kBlock / 4;  // of one plane
constexpr int kBlockWords = 3 * kPlaneWords;
constexpr int kLargest = 0x7f7f7f;       // each of its bytes can have either sign

/// Scale of a block, and the sum of its quantized activations.
struct alignas(8) BlockNumbers {
  float scale, sum;
};

/**
 * A block, a lane an input: its planes, one after another, and its numbers. In each 8 inputs, bytes of a word are inputs 0 2 4 6 and 1 3 5 7, as the low and
 * high halves of the bytes of codes are; with `natural` 0 1 2 3 and 4 5 6 7. A block with NaN or infinity has NaN for its scale.
 */
__device__ __forceinline__ void store_block(float value, int natural, uint32_t* planes, BlockNumbers* numbers) {
  const int lane = threadIdx.x % 32;
  const float largest = warp_max(fabsf(value));
  const bool finite = largest <= 3.4028234e38f;
  const float scale = largest / static_cast<float>(kLargest);
  // The quotient of the largest may come out one step too far: its first byte would change its sign.
  const int q = finite && scale > 0 ? min(max(to_integer(value / scale), -kLargest), kLargest) : 0;
  int sum = q;
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(kAll, sum, offset);
  const int low = ((q + 128) & 255) - 128, rest = (q - low) / 256, middle = ((rest + 128) & 255) - 128, high = (rest - middle) / 256;
  const int eighth = lane / 8, within = lane % 8;
  const int word = eighth * 2 + (natural ? within / 4 : within % 2), byte = natural ? within % 4 : within / 2;
  int8_t* to = reinterpret_cast<int8_t*>(planes) + word * 4 + byte;
  to[0] = static_cast<int8_t>(high);
  to[kPlaneWords * 4] = static_cast<int8_t>(middle);
  to[2 * kPlaneWords * 4] = static_cast<int8_t>(low);
  if (lane == 0) *numbers = {finite ? scale : nan_value(), finite ? static_cast<float>(sum) * scale : nan_value()};
}

/// Rows of x [rows, inp] as planes [rows][inp / 32][3][8 words] and numbers [rows][inp / 32]. Grid: (ceil(inp / 32 / 4), rows); block: 128: a warp for a block.
extern "C" __global__ void activation_planes(const float* x, int inp, int natural, uint32_t* planes, BlockNumbers* numbers) {
  const int block = blockIdx.x * 4 + threadIdx.x / 32, blocks = inp / kBlock;
  if (block >= blocks) return;
  const long long at = static_cast<long long>(blockIdx.y) * blocks + block;
  store_block(x[static_cast<long long>(blockIdx.y) * inp + block * kBlock + threadIdx.x % 32], natural, planes + at * kBlockWords, numbers + at);
}

}  // namespace lowbit
