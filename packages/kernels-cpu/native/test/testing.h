// What the C++ tests share: what was expected and was not, random numbers, memory of exactly the size that is asked for.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

inline int failures = 0;

inline void expect(bool condition, const char* what, long a = 0, long b = 0, long c = 0) {
  if (condition) return;
  std::fprintf(stderr, "FAILED: %s (%ld, %ld, %ld)\n", what, a, b, c);
  ++failures;
}

inline uint32_t seed = 1;
inline uint32_t next() { return seed = seed * 1664525u + 1013904223u; }
inline float number() { return static_cast<float>(next() >> 8) / 8388608.0f - 1.0f; }

/// Memory of exactly so many elements.
template <class T>
struct Exact {
  explicit Exact(size_t n) : data(static_cast<T*>(std::malloc(std::max<size_t>(1, n * sizeof(T))))), count(n) {}
  ~Exact() { std::free(data); }
  Exact(const Exact&) = delete;
  Exact& operator=(const Exact&) = delete;
  T* data;
  size_t count;
};

inline std::vector<uint8_t> random_codes(size_t count, int below) {
  std::vector<uint8_t> codes(count);
  for (uint8_t& code : codes) code = static_cast<uint8_t>((next() >> 16) % static_cast<uint32_t>(below));
  return codes;
}

inline std::vector<float> random_floats(size_t count, float low, float span) {
  std::vector<float> values(count);
  for (float& value : values) value = low + span * (number() * 0.5f + 0.5f);
  return values;
}
