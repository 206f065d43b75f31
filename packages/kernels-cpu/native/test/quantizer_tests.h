// What tests of quantizers' routines share.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#include "pool.h"
#include "select.h"
#include "testing.h"

using namespace lowbit;

void test_quantizers();
void test_higgs();

/// Memory of exactly so many bytes, and no float lies where a float may.
struct OddBytes {
  explicit OddBytes(const void* from, size_t count) : memory(static_cast<uint8_t*>(std::malloc(count + 1))), data(memory + 1) {
    std::memcpy(data, from, count);
  }
  ~OddBytes() { std::free(memory); }
  OddBytes(const OddBytes&) = delete;
  OddBytes& operator=(const OddBytes&) = delete;
  uint8_t* memory;
  uint8_t* data;
};

/// Bell-shaped numbers, a few of them large, so that the shrinkage acts.
inline std::vector<float> weights_of(size_t count, uint32_t seed) {
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) {
    float sum = 0;
    for (int k = 0; k < 3; ++k) {
      seed = seed * 1664525u + 1013904223u;
      sum += static_cast<float>(seed >> 8) / 16777216.0f - 0.5f;
    }
    values[i] = sum * (i % 331 == 0 ? 6.0f : 0.3f);
  }
  return values;
}

/// What `run` gives must be the same for all instruction sets and 1 to 3 threads.
static inline void same_everywhere(const char* what, const std::function<std::vector<uint8_t>(const Kernels&, Pool&)>& run) {
  std::vector<uint8_t> first;
  for (int isa = 0; isa < kIsaCount; ++isa) {
    const Kernels* kernels = usable_kernels(static_cast<Isa>(isa));
    if (kernels == nullptr) continue;
    for (int threads = 1; threads <= 3; ++threads) {
      Pool pool(threads);
      const std::vector<uint8_t> got = run(*kernels, pool);
      if (first.empty()) first = got;
      expect(got == first, what, isa, threads);
    }
  }
}

template <class T>
void append(std::vector<uint8_t>& bytes, const T* values, size_t count) {
  const auto* from = reinterpret_cast<const uint8_t*>(values);
  bytes.insert(bytes.end(), from, from + count * sizeof(T));
}
