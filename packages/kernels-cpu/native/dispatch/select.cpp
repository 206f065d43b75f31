#include "select.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#define LOWBIT_AMX 1
#endif

namespace lowbit {
namespace {

#ifdef LOWBIT_AMX
/// Whether the processor has AMX for bytes and the system lets this process use its registers: they are given on request.
bool amx_granted() {
  static const bool granted = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    constexpr unsigned kTile = 1u << 24, kBytes = 1u << 25;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & kTile) == 0 || (d & kBytes) == 0) return false;
    constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
  }();
  return granted;
}
#endif

}  // namespace

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
#ifdef LOWBIT_AMX
    case Isa::amx:
      return usable_kernels(Isa::avx512) != nullptr && amx_granted() ? amx_kernels() : nullptr;
#endif
    default:
      return nullptr;
  }
}

const Kernels* best_kernels() {
  if (const Kernels* found = usable_kernels(Isa::amx)) return found;
  if (const Kernels* found = usable_kernels(Isa::avx512)) return found;
  if (const Kernels* found = usable_kernels(Isa::avx2)) return found;
  return scalar_kernels();
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::amx:
      return "amx";
    case Isa::avx512:
      return "avx512";
    case Isa::avx2:
      return "avx2";
    default:
      return "scalar";
  }
}

}  // namespace lowbit
