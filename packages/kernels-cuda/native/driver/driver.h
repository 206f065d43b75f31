// NVIDIA's driver, found when it is asked for: the addon links to no library of it and loads on machines without one.
#pragma once

#include <memory>
#include <stdexcept>
#include <string>

#include "cuda_abi.h"

namespace lowbit {

/// What goes wrong, by the name that JavaScript branches on: NO_DRIVER, DRIVER_TOO_OLD, NO_DEVICE, DEVICE_TOO_OLD, NO_KERNELS, OUT_OF_MEMORY, NOT_INITIALIZED, DEVICE_GONE, DEVICE_LOST,
/// DEVICE, BAD_ARGUMENT.
struct DeviceError : std::runtime_error {
  DeviceError(const char* code, const std::string& message) : std::runtime_error(message), code(code) {}
  const char* code;
};

/// The functions of a driver that was loaded.
struct Driver {
#define LOWBIT_CUDA_MEMBER(name, symbol, parameters) CUresult(*name) parameters = nullptr;
  LOWBIT_CUDA_FUNCTIONS(LOWBIT_CUDA_MEMBER)
#undef LOWBIT_CUDA_MEMBER
  std::string path;
  int version = 0;  // 1000 * major + 10 * minor of CUDA

  /// Throws DeviceError unless the call went well; `what` begins the message.
  void check(CUresult result, const std::string& what) const;
  std::string name_of(CUresult result) const;
};

/// The driver at a path, or the system's where that is empty. It stays loaded: drivers do not like to go. Throws DeviceError.
std::shared_ptr<const Driver> load_driver(const std::string& path);

}  // namespace lowbit
