#include "select.h"

namespace lowbit {

const Kernels* usable_kernels(Isa isa) {
  switch (isa) {
    case Isa::scalar:
      return scalar_kernels();
#if defined(__x86_64__)
    // __builtin_cpu_supports also asks whether the operating system saves the registers.
    case Isa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") ? avx2_kernels() : nullptr;
    case Isa::avx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                     __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni") &&
                     __builtin_cpu_supports("avx512vbmi")
                 ? avx512_kernels()
                 : nullptr;
#endif
    default:
      return nullptr;
  }
}

const Kernels* best_kernels() {
  if (const Kernels* found = usable_kernels(Isa::avx512)) return found;
  if (const Kernels* found = usable_kernels(Isa::avx2)) return found;
  return scalar_kernels();
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx512:
      return "avx512";
    case Isa::avx2:
      return "avx2";
    default:
      return "scalar";
  }
}

}  // namespace lowbit
