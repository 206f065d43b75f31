// Products of floats on tensor cores. A number is cut into two of 11 digits each, which tensor cores multiply exactly: what is left out is 2^-22 of it.
#pragma once

#include "port.cuh"

namespace lowbit {

/// The nearest number of 11 binary digits, ties away from zero: what tensor cores take (tf32).
__device__ __forceinline__ uint32_t to_tf32(float value) {
#ifdef LOWBIT_EMULATOR
  const uint32_t bits = float_to_bits(value), magnitude = bits & 0x7fffffff;
  return magnitude >= 0x7f800000 ? bits : (bits + 0x1000) & ~0x1fffu;
#else
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
#endif
}

/// A number in two: NaN in the second for NaN or infinity.
__device__ __forceinline__ void split(float value, uint32_t* high, uint32_t* low) {
  *high = to_tf32(value);
  *low = to_tf32(value - bits_to_float(*high));
}

/**
 * d [16, 8] += a [16, 8] b [8, 8] over a warp: mma.sync.m16n8k8 of tf32. A lane has, with group = lane / 4 and quarter = lane % 4, of a rows group and group + 8
 * at input quarter (a[0], a[1]) and quarter + 4 (a[2], a[3]); of b column group at the same inputs (b[0], b[1]); of d rows group (d[0], d[1]) and group + 8
 * (d[2], d[3]) at columns 2 quarter and 2 quarter + 1. Which inputs these are is the caller's choice, the same for a and b: mostly 2 quarter and 2 quarter + 1.
 *
 * The emulator is as coarse as tensor cores are known to be (doi:10.7717/peerj-cs.330): what is added is cut off below the last digit of the largest, not rounded.
 */
__device__ __forceinline__ void multiply_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef LOWBIT_EMULATOR
  uint32_t all_a[4][32], all_b[2][32];
  emulator::gather(a, 4, all_a, __LINE__);
  emulator::gather(b, 2, all_b, __LINE__);
  const int group = threadIdx.x % 32 / 4, quarter = threadIdx.x % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = group + (i < 2 ? 0 : 8), column = 2 * quarter + i % 2;
    double terms[9] = {static_cast<double>(d[i])}, largest = std::fabs(terms[0]), plain = terms[0];
    for (int k = 0; k < 8; ++k) {
      const uint32_t left = all_a[(row < 8 ? 0 : 1) + (k < 4 ? 0 : 2)][row % 8 * 4 + k % 4], right = all_b[k < 4 ? 0 : 1][column * 4 + k % 4];
      // Digits past the eleventh are not looked at.
      terms[k + 1] = static_cast<double>(bits_to_float(left & ~0x1fffu)) * static_cast<double>(bits_to_float(right & ~0x1fffu));
      largest = std::fmax(largest, std::fabs(terms[k + 1]));
      plain += terms[k + 1];
    }
    if (!(std::fabs(plain) <= 3.4028234e38) || largest == 0) {
      d[i] = static_cast<float>(plain);
      continue;
    }
    int exponent = 0;
    std::frexp(largest, &exponent);
    const double unit = std::ldexp(1.0, 24 - exponent);
    long long sum = 0;
    for (const double term : terms) sum += static_cast<long long>(term * unit);
    long long cut = 1;
    while (std::llabs(sum / cut) >= 1 << 24) cut *= 2;
    d[i] = static_cast<float>(static_cast<double>(sum / cut * cut) / unit);
  }
#else
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

/// A tile of a, or of b, in two.
template <int kCount>
struct Halves {
  uint32_t high[kCount], low[kCount];
};

__device__ __forceinline__ Halves<4> halves(float a, float b, float c, float d) {
  Halves<4> made;
  split(a, made.high, made.low);
  split(b, made.high + 1, made.low + 1);
  split(c, made.high + 2, made.low + 2);
  split(d, made.high + 3, made.low + 3);
  return made;
}
__device__ __forceinline__ Halves<2> halves(float a, float b) {
  Halves<2> made;
  split(a, made.high, made.low);
  split(b, made.high + 1, made.low + 1);
  return made;
}

/**
 * sums += a b, of numbers in two; `exact_a`, `exact_b`: the second is 0. Eight inputs are summed on tensor cores, the smaller products first, and added to the
 * others by an addition that rounds: so what tensor cores cut off does not add up (arXiv:2203.03341).
 */
__device__ __forceinline__ void multiply_halves(float (&sums)[4], const Halves<4>& a, bool exact_a, const Halves<2>& b, bool exact_b) {
  float eight[4] = {};
  if (!exact_b) multiply_tf32(eight, a.high, b.low);
  if (!exact_a) multiply_tf32(eight, a.low, b.high);
  multiply_tf32(eight, a.high, b.high);
  LOWBIT_UNROLL
  for (int i = 0; i < 4; ++i) sums[i] += eight[i];
}

}  // namespace lowbit
