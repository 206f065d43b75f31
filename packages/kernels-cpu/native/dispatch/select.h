// Which instruction sets this build has kernels for and this processor (and its operating system) runs.
#pragma once

#include "lowbit_cpu.h"

namespace lowbit {

/// Kernels of an instruction set; null where the build or the processor lacks it.
const Kernels* usable_kernels(Isa isa);
/// The best of the usable ones.
const Kernels* best_kernels();
const char* isa_name(Isa isa);

}  // namespace lowbit
