// What kernels need beyond CUDA's own functions, for nvcc and for the emulator.
#pragma once

#include <cstdint>

#ifdef LOWBIT_EMULATOR
#include <cmath>
#include <cstdlib>
#include <cstring>
#define LOWBIT_UNROLL
#define LOWBIT_ROLLED
#define LOWBIT_SHARED(type, name, count) type* name = static_cast<type*>(emulator::shared_array(sizeof(type) * (count)))
#define LOWBIT_DYNAMIC_SHARED(type, name) type* name = static_cast<type*>(emulator::dynamic_shared())
#else
#define LOWBIT_UNROLL _Pragma("unroll")
#define LOWBIT_ROLLED _Pragma("unroll 1")
#define LOWBIT_SHARED(type, name, count) __shared__ type name[count]
#define LOWBIT_DYNAMIC_SHARED(type, name)                                \
  extern __shared__ __align__(128) unsigned char lowbit_dynamic_shared[]; \
  type* name = reinterpret_cast<type*>(lowbit_dynamic_shared)
#endif

namespace lowbit {

typedef unsigned long long Address;  // of device memory

constexpr unsigned kAll = 0xffffffffu;

// Read at once, which needs their alignment.
struct alignas(8) Word2 {
  uint32_t x, y;
};
struct alignas(16) Word4 {
  uint32_t x, y, z, w;
};

__device__ __forceinline__ float bits_to_float(uint32_t bits) {
#ifdef LOWBIT_EMULATOR
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
#else
  return __uint_as_float(bits);
#endif
}
__device__ __forceinline__ uint32_t float_to_bits(float value) {
#ifdef LOWBIT_EMULATOR
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
#else
  return __float_as_uint(value);
#endif
}

__device__ __forceinline__ float from_bf16(uint16_t bits) { return bits_to_float(static_cast<uint32_t>(bits) << 16); }

__device__ __forceinline__ uint16_t to_bf16(float value) {
#ifdef LOWBIT_EMULATOR
  const uint32_t bits = float_to_bits(value);
  if (value != value) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
#else
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
#endif
}

__device__ __forceinline__ float from_f16(uint16_t bits) {
#ifdef LOWBIT_EMULATOR
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16, exponent = bits >> 10 & 31, fraction = bits & 0x3ff;
  if (exponent == 31) return bits_to_float(sign | 0x7f800000u | fraction << 13);
  if (exponent > 0) return bits_to_float(sign | (exponent + 112) << 23 | fraction << 13);
  const float small = static_cast<float>(fraction) * 5.9604644775390625e-8f;  // 2^-24
  return sign ? -small : small;
#else
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
#endif
}

__device__ __forceinline__ uint16_t to_f16(float value) {
#ifdef LOWBIT_EMULATOR
  const uint32_t bits = float_to_bits(value);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return 0x7fff;
  if (magnitude >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);  // 65520 and more
  if (magnitude < 0x38800000) {
    // Subnormal, in steps of 2^-24: the addition rounds to even.
    const float scaled = bits_to_float(magnitude) * 16777216.0f;
    return static_cast<uint16_t>(sign | static_cast<uint16_t>(std::nearbyint(scaled)));
  }
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13));
#else
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
#endif
}

/// The nearest integer, ties to even, of a value of few digits.
__device__ __forceinline__ int to_integer(float value) {
#ifdef LOWBIT_EMULATOR
  return static_cast<int>(std::nearbyint(value));
#else
  return __float2int_rn(value);
#endif
}

/// Sine and cosine of pi * x, |x| <= 1.
__device__ __forceinline__ void sine_cosine_pi(float x, float* sine, float* cosine) {
#ifdef LOWBIT_EMULATOR
  *sine = static_cast<float>(std::sin(3.14159265358979323846 * x));
  *cosine = static_cast<float>(std::cos(3.14159265358979323846 * x));
#else
  sincospif(x, sine, cosine);
#endif
}

__device__ __forceinline__ float nan_value() { return bits_to_float(0x7fc00000u); }

__device__ __forceinline__ float warp_sum(float value) {
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(kAll, value, offset);
  return value;
}
__device__ __forceinline__ float warp_max(float value) {
  for (int offset = 16; offset > 0; offset /= 2) {
    const float other = __shfl_xor_sync(kAll, value, offset);
    // A NaN stays one.
    value = value != value || value >= other ? value : other;
  }
  return value;
}

/// The sum over a block of up to 1,024 threads, the same in each; `scratch` has room for a float of each warp.
__device__ __forceinline__ float block_sum(float value, float* scratch) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = (blockDim.x + 31) / 32;
  value = warp_sum(value);
  if (lane == 0) scratch[warp] = value;
  __syncthreads();
  float sum = 0;
  for (int i = 0; i < warps; ++i) sum += scratch[i];
  __syncthreads();
  return sum;
}

}  // namespace lowbit
