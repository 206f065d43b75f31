// What the kernel bodies need before the vectors are defined. No standard library: its inline functions, built with one file's instruction set,
// could be linked into another's.
#pragma once

#include "lowbit_cpu.h"

#define ALWAYS_INLINE [[gnu::always_inline]] static inline
#define ALWAYS_INLINE_LAMBDA __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

namespace lowbit {
namespace {

template <int... I>
struct ints {};

template <int N, int... I>
constexpr auto first() {
  if constexpr (N == 0) {
    return ints<I...>{};
  } else {
    return first<N - 1, N - 1, I...>();
  }
}

template <int I>
struct index_of {
  static constexpr int value = I;
};

template <class F, int... I>
[[gnu::always_inline]] inline void each_of(F&& f, ints<I...>) {
  (f(index_of<I>{}), ...);
}

/// f(index 0), f(index 1), ... f(index N - 1), each index a constant.
template <int N, class F>
[[gnu::always_inline]] inline void each(F&& f) {
  each_of(f, first<N>());
}

}  // namespace
}  // namespace lowbit
