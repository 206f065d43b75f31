#include "select.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#define LOWBIT_AMX 1
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace lowbit {
namespace {

#if defined(LOWBIT_AMX) && defined(__clang__)
/// What __builtin_cpu_supports says elsewhere: by the runtime that Zig links, no processor has any feature.
bool has(Isa isa) {
  unsigned a = 0, b = 0, c1 = 0, d = 0, b7 = 0, c7 = 0;
  constexpr unsigned kFma = 1u << 12, kSaved = 1u << 27, kF16c = 1u << 29, kAvx2 = 1u << 5;
  constexpr unsigned kF = 1u << 16, kDq = 1u << 17, kBw = 1u << 30, kVl = 1u << 31, kVbmi = 1u << 1, kVnni = 1u << 11;
  if (__get_cpuid(1, &a, &b, &c1, &d) == 0 || (c1 & kSaved) == 0 || __get_cpuid_count(7, 0, &a, &b7, &c7, &d) == 0) return false;
  unsigned saved = 0, high = 0;
  __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
  const auto all = [](unsigned found, unsigned wanted) { return (found & wanted) == wanted; };
  if (isa == Isa::avx2) return all(saved, 0x6) && all(c1, kFma | kF16c) && all(b7, kAvx2);
  return all(saved, 0xe6) && all(b7, kF | kDq | kBw | kVl) && all(c7, kVbmi | kVnni);
}
#endif

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

#if defined(__aarch64__)
namespace {

struct Features {
  bool dotprod = false;
  bool i8mm = false;
};

/// What the operating system says; without an answer the baseline of arm64 runs.
Features read_features() {
  Features features;
#if defined(__linux__)
  constexpr unsigned long kDotprod = 1ul << 20;  // HWCAP_ASIMDDP
  constexpr unsigned long kI8mm = 1ul << 13;     // HWCAP2_I8MM
  features.dotprod = (getauxval(AT_HWCAP) & kDotprod) != 0;
  features.i8mm = (getauxval(AT_HWCAP2) & kI8mm) != 0;
#elif defined(__APPLE__)
  const auto has = [](const char* name) {
    int value = 0;
    size_t bytes = sizeof(value);
    return sysctlbyname(name, &value, &bytes, nullptr, 0) == 0 && value != 0;
  };
  features.dotprod = has("hw.optional.arm.FEAT_DotProd");
  features.i8mm = has("hw.optional.arm.FEAT_I8MM");
#endif
  return features;
}

const Features& features() {
  static const Features found = read_features();
  return found;
}

}  // namespace
#endif

const Kernels* usable_kernels(Isa isa) {
  switch (isa) {
    case Isa::scalar:
      return scalar_kernels();
#if defined(LOWBIT_AMX) && defined(__clang__)
    case Isa::avx2:
      return has(isa) ? avx2_kernels() : nullptr;
    case Isa::avx512:
      return has(isa) ? avx512_kernels() : nullptr;
#elif defined(__x86_64__)
    // __builtin_cpu_supports also asks whether the operating system saves the registers.
    case Isa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") ? avx2_kernels() : nullptr;
    case Isa::avx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                     __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni") &&
                     __builtin_cpu_supports("avx512vbmi")
                 ? avx512_kernels()
                 : nullptr;
#elif defined(__aarch64__)
    case Isa::neon:
      return neon_kernels();
    case Isa::dotprod:
      return features().dotprod ? dotprod_kernels() : nullptr;
    case Isa::i8mm:
      return features().dotprod && features().i8mm ? i8mm_kernels() : nullptr;
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
  for (int isa = kIsaCount - 1; isa > 0; --isa) {
    if (const Kernels* found = usable_kernels(static_cast<Isa>(isa))) return found;
  }
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
    case Isa::neon:
      return "neon";
    case Isa::dotprod:
      return "dotprod";
    case Isa::i8mm:
      return "i8mm";
    default:
      return "scalar";
  }
}

}  // namespace lowbit
