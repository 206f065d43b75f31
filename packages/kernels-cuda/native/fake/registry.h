// The kernels, compiled as C++, by name.
#pragma once

#include <cstdint>
#include <string>

namespace fake {

struct Kernel {
  const char* name;
  const char* parameters;  // as kernels.def lists them
  void (*call)(void** arguments);
};

/// nullptr: there is none of that name.
const Kernel* kernel(const std::string& name);

inline size_t parameter_bytes(char kind) { return kind == 'p' ? 8 : 4; }

}  // namespace fake
