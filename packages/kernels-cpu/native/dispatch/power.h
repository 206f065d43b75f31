// x^y as packages/hqq/src/solvers/power.ts has it, operation by operation: pow of fdlibm (e_pow.c, Sun Microsystems 1993, freely granted).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace lowbit {

namespace power_parts {

inline uint32_t high_word(double x) {
  uint64_t bits;
  std::memcpy(&bits, &x, 8);
  return static_cast<uint32_t>(bits >> 32);
}

inline double of_words(uint32_t high, uint64_t low = 0) {
  const uint64_t bits = uint64_t{high} << 32 | low;
  double x;
  std::memcpy(&x, &bits, 8);
  return x;
}

inline double upper(double x) { return of_words(high_word(x)); }

}  // namespace power_parts

/// Of a positive f32 number x, and y from -1 to 1.
inline double power(double x, double y) {
  using namespace power_parts;
  uint64_t bits;
  std::memcpy(&bits, &x, 8);
  uint32_t high = high_word(x);
  int n = static_cast<int>(high >> 20) - 1023;
  const uint32_t fraction = high & 0xfffff;
  high = fraction | 0x3ff00000;
  const bool third = fraction > 0x3988e && fraction < 0xbb67a;
  if (fraction >= 0xbb67a) {
    n += 1;
    high -= 0x100000;
  }
  const double a = of_words(high, bits & 0xffffffff);
  const double near = third ? 1.5 : 1;
  const double log_high = third ? 5.849624872207642e-1 : 0;
  const double log_low = third ? 1.350039202129749e-8 : 0;
  const double difference = a - near;
  const double inverse = 1 / (a + near);
  const double s = difference * inverse;
  const double s_high = upper(s);
  const double sum_high = of_words((high >> 1 | 0x20000000) + 0x80000 + (third ? 0x40000 : 0));
  const double sum_low = a - (sum_high - near);
  const double s_low = inverse * (difference - s_high * sum_high - s_high * sum_low);
  const double s2 = s * s;
  const double l45 = 2.3066074577556175e-1 + s2 * 2.0697501780033842e-1;
  const double l25 = 4.285714285785502e-1 + s2 * (3.3333332981837743e-1 + s2 * (2.72728123808534e-1 + s2 * l45));
  const double rest = s2 * s2 * (5.999999999999946e-1 + s2 * l25) + s_low * (s_high + s);
  const double square = s_high * s_high;
  const double t_high = upper(3 + square + rest);
  const double t_low = rest - (t_high - 3 - square);
  const double u = s_high * t_high;
  const double v = s_low * t_high + t_low * s;
  const double p_high = upper(u + v);
  const double p_low = v - (p_high - u);
  const double z_high = 9.617967009544373e-1 * p_high;
  const double z_low = -7.028461650952758e-9 * p_high + p_low * 9.617966939259756e-1 + log_low;
  const double log = upper(z_high + z_low + log_high + n);
  const double log_rest = z_low - (log - n - log_high - z_high);
  const double y_high = upper(y);
  const double low = (y - y_high) * log + y * log_rest;
  double most = y_high * log;
  const double whole = std::floor(low + most + 0.5);
  most -= whole;
  const double t = upper(low + most);
  const double w = t * 6.931471824645996e-1;
  const double e = (low - (t - most)) * 6.931471805599453e-1 + t * -1.904654299957768e-9;
  const double z = w + e;
  const double error = e - (z - w);
  const double z2 = z * z;
  const double p35 = 6.613756321437934e-5 + z2 * (-1.6533902205465252e-6 + z2 * 4.1381367970572385e-8);
  const double c = z - z2 * (1.6666666666666602e-1 + z2 * (-2.7777777777015593e-3 + z2 * p35));
  return (1 - ((z * c) / (c - 2) - (error + z * error) - z)) * std::exp2(whole);
}

}  // namespace lowbit
