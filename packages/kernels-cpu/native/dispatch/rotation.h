// What HIGGS does to weights, undone: numbers of rotated rows as the codec gives them.
#pragma once

#include "lowbit_cpu.h"

namespace lowbit {

/// To nearest in a dtype, ties to even; none and f32: as it is.
float round_to(Float dtype, float value);

/// Multiplies each run of `block` (a power of two) of n numbers by the normalised Hadamard matrix: sums in double, rounded once, as the codec does.
void hadamard(float* values, size_t n, size_t block);

}  // namespace lowbit
