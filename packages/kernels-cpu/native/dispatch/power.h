// x^y as packages/hqq/src/solvers/power.ts has it, operation by operation.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace lowbit {

/// Of a positive f32 number x, and y from -1 to 1.
inline double power(double x, double y) {
  uint64_t bits;
  std::memcpy(&bits, &x, 8);
  const uint32_t high = static_cast<uint32_t>(bits >> 32);
  const uint32_t carry = ((high & 0xfffff) + 0x95f61) >> 20;  // 1 from the root of 2 on
  const double n = static_cast<int>(high >> 20) - 1023 + static_cast<int>(carry);
  bits = (bits & 0xfffffffff'ffffull) | uint64_t{1023 - carry} << 52;
  double a;
  std::memcpy(&a, &bits, 8);
  const double s = (a - 1) / (a + 1);
  double series = 0;
  for (int k = 23; k > 0; k -= 2) series = series * s * s + 1.0 / k;
  const double log2 = y * (n + s * series * (2 * 1.4426950408889634));
  const double whole = std::floor(log2 + 0.5);
  const double z = (log2 - whole) * 0.6931471805599453;
  series = 1;
  for (int k = 16; k > 0; --k) series = series * z * (1.0 / k) + 1;
  return series * std::exp2(whole);
}

}  // namespace lowbit
