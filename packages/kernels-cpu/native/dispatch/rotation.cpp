#include "rotation.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "layout.h"

namespace lowbit {

float round_to(Float dtype, float value) {
  if (dtype == Float::f16) return from_f16(to_f16(value));
  if (dtype != Float::bf16 || std::isnan(value)) return value;
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  bits = (bits + (bits >> 16 & 1) + 0x7fff) & 0xffff0000;
  std::memcpy(&value, &bits, 4);
  return value;
}

void hadamard(float* values, size_t n, size_t block) {
  std::vector<double> sums(block);
  const double norm = 1 / std::sqrt(static_cast<double>(block));
  for (size_t start = 0; start < n; start += block) {
    for (size_t i = 0; i < block; ++i) sums[i] = static_cast<double>(values[start + i]);
    for (size_t half = 1; half < block; half *= 2) {
      for (size_t pair = 0; pair < block; pair += 2 * half) {
        for (size_t i = pair; i < pair + half; ++i) {
          const double a = sums[i], b = sums[i + half];
          sums[i] = a + b;
          sums[i + half] = a - b;
        }
      }
    }
    for (size_t i = 0; i < block; ++i) values[start + i] = static_cast<float>(sums[i] * norm);
  }
}

}  // namespace lowbit
