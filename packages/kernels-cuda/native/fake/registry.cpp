#include "registry.h"

#include "../emulator/emulator.h"
#include "../kernels/all.cuh"

namespace fake {
namespace {

template <class T>
constexpr char kind_of() {
  if constexpr (std::is_same_v<T, float>) return 'f';
  else if constexpr (std::is_same_v<T, int>) return 'i';
  else {
    static_assert(std::is_pointer_v<T>, "parameters are addresses, ints and floats");
    return 'p';
  }
}

template <class... Parameters>
constexpr bool fits(void (*)(Parameters...), const char* kinds) {
  size_t i = 0;
  bool ok = true;
  ((ok = ok && kinds[i++] == kind_of<Parameters>()), ...);
  return ok && kinds[i] == 0;
}

template <auto function>
struct Call;
template <class... Parameters, void (*function)(Parameters...)>
struct Call<function> {
  static void call(void** arguments) { apply(arguments, std::index_sequence_for<Parameters...>()); }
  template <size_t... I>
  static void apply([[maybe_unused]] void** arguments, std::index_sequence<I...>) {
    function(*static_cast<Parameters*>(arguments[I])...);
  }
};

#define KERNEL(name, kinds) static_assert(fits(&lowbit::name, kinds), "kernels.def says otherwise of " #name);
#include "../kernels/kernels.def"
#undef KERNEL

constexpr Kernel kKernels[] = {
#define KERNEL(name, kinds) {#name, kinds, Call<&lowbit::name>::call},
#include "../kernels/kernels.def"
#undef KERNEL
};

}  // namespace

const Kernel* kernel(const std::string& name) {
  for (const Kernel& one : kKernels) {
    if (name == one.name) return &one;
  }
  return nullptr;
}

}  // namespace fake
