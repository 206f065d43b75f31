// See extremes.cpp.
#pragma once

#include "lowbit_cpu.h"

namespace lowbit {

/// How many kernels give other numbers than the portable ones do; for int8, than a plain loop does.
int wrong_extremes(const Kernels& kernels);

}  // namespace lowbit
