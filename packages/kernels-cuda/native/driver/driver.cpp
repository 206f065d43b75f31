#include "driver.h"

#include <map>
#include <mutex>

#ifdef _WIN32
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace lowbit {
namespace {

#ifdef _WIN32
const char* const kNames[] = {"nvcuda.dll"};
void* open_library(const char* path) { return reinterpret_cast<void*>(LoadLibraryA(path)); }
void* symbol_of(void* library, const char* name) { return reinterpret_cast<void*>(GetProcAddress(static_cast<HMODULE>(library), name)); }
std::string why() { return "error " + std::to_string(GetLastError()); }
#else
const char* const kNames[] = {"libcuda.so.1", "libcuda.so"};
void* open_library(const char* path) { return dlopen(path, RTLD_NOW | RTLD_LOCAL); }
void* symbol_of(void* library, const char* name) { return dlsym(library, name); }
std::string why() {
  const char* text = dlerror();
  return text == nullptr ? "unknown reason" : text;
}
#endif

/// A library and the path that led to it.
std::pair<void*, std::string> found(const std::string& path) {
  if (!path.empty()) {
    if (void* library = open_library(path.c_str())) return {library, path};
    throw DeviceError("NO_DRIVER", "the driver " + path + " cannot be loaded: " + why());
  }
  std::string first;
  for (const char* name : kNames) {
    if (void* library = open_library(name)) return {library, name};
    if (first.empty()) first = why();
  }
  throw DeviceError("NO_DRIVER", "there is no NVIDIA driver: " + first);
}

}  // namespace

std::string Driver::name_of(CUresult result) const {
  const char* name = nullptr;
  const bool known = cuGetErrorName != nullptr && cuGetErrorName(result, &name) == CUDA_SUCCESS && name != nullptr;
  return known ? name : "error " + std::to_string(result);
}

void Driver::check(CUresult result, const std::string& what) const {
  if (result == CUDA_SUCCESS) return;
  const std::string message = what + ": " + name_of(result);
  switch (result) {
    case CUDA_ERROR_OUT_OF_MEMORY:
      throw DeviceError("OUT_OF_MEMORY", message);
    case CUDA_ERROR_NO_DEVICE:
    case CUDA_ERROR_INVALID_DEVICE:
      throw DeviceError("NO_DEVICE", message);
    case CUDA_ERROR_INVALID_IMAGE:
    case CUDA_ERROR_NO_BINARY_FOR_GPU:
    case CUDA_ERROR_UNSUPPORTED_PTX_VERSION:
      throw DeviceError("NO_KERNELS", message);
    case CUDA_ERROR_NOT_INITIALIZED:
      throw DeviceError("NOT_INITIALIZED", message);
    // A device that fell off the bus, was taken away or has broken memory answers with one of these.
    case CUDA_ERROR_DEVICE_UNAVAILABLE:
    case CUDA_ERROR_ECC_UNCORRECTABLE:
    case CUDA_ERROR_OPERATING_SYSTEM:
    case CUDA_ERROR_EXTERNAL_DEVICE:
    case CUDA_ERROR_UNKNOWN:
      throw DeviceError("DEVICE_GONE", message);
    default:
      // From 700 on a context is of no more use: CUDA_ERROR_ILLEGAL_ADDRESS and its like.
      throw DeviceError(result >= 700 && result < 800 ? "DEVICE_LOST" : "DEVICE", message);
  }
}

std::shared_ptr<const Driver> load_driver(const std::string& path) {
  static std::mutex mutex;
  static std::map<std::string, std::shared_ptr<const Driver>> loaded;
  const std::lock_guard<std::mutex> lock(mutex);
  auto& known = loaded[path];
  if (known == nullptr) {
    const auto [library, name] = found(path);
    const auto driver = std::make_shared<Driver>();
    driver->path = name;
#define LOWBIT_CUDA_RESOLVE(function, symbol, parameters)                                                                            \
  driver->function = reinterpret_cast<decltype(driver->function)>(symbol_of(library, symbol));                                       \
  if (driver->function == nullptr) throw DeviceError("DRIVER_TOO_OLD", "the driver " + name + " has no function " + std::string(symbol));
    LOWBIT_CUDA_FUNCTIONS(LOWBIT_CUDA_RESOLVE)
#undef LOWBIT_CUDA_RESOLVE
    known = driver;
  }
  // Asked each time: a driver may not be ready at first, and a version is told before it is.
  const auto fresh = std::make_shared<Driver>(*known);
  fresh->check(fresh->cuInit(0), "the driver cannot be started");
  fresh->check(fresh->cuDriverGetVersion(&fresh->version), "the driver tells no version");
  return fresh;
}

}  // namespace lowbit
