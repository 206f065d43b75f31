// A libcuda for machines without a GPU: the functions of driver/cuda_abi.h, with kernels that run in the emulator. For tests: it is never loaded unless
// its path is given. Here: devices, contexts, modules; driver.h says where the others are.
#include "driver.h"

#include <cstdio>

namespace fake {

Driver& driver() {
  static Driver* const one = new Driver;  // outlives whoever unloads late
  return *one;
}

thread_local CUcontext current = nullptr;

CUresult begin(const char* function, bool needs_context) {
  Driver& d = driver();
  const uint64_t call = ++d.calls[function];
  for (const Failure& failure : d.settings.failures) {
    if (failure.function == function && failure.call == call) return failure.result;
  }
  if (!d.ready) return CUDA_ERROR_NOT_INITIALIZED;
  if (needs_context && (current == nullptr || d.retained == 0)) return CUDA_ERROR_INVALID_CONTEXT;
  return needs_context ? d.lost : CUDA_SUCCESS;
}

CUresult begin_unrecorded(const char* function) {
  const CUresult result = begin(function);
  if (result != CUDA_SUCCESS) return result;
  for (CUstream stream : driver().streams) {
    if (stream->recorded_by == nullptr) continue;
    stream->recorded_by->broken = true;
    return kCaptureUnsupported;
  }
  return CUDA_SUCCESS;
}

}  // namespace fake

namespace {

using namespace fake;

const CUcontext kContext = reinterpret_cast<CUcontext>(uintptr_t{0xc0});

bool is_device(int ordinal) { return ordinal >= 0 && ordinal < driver().settings.devices; }

}  // namespace

EXPORT CUresult cuInit(unsigned) {
  LOCKED;
  Driver& d = driver();
  if (d.retained == 0) {
    d.settings = fake::read_settings();
    d.calls.clear();
    d.lost = CUDA_SUCCESS;
  }
  d.ready = true;
  if (const CUresult result = begin("cuInit", false); result != CUDA_SUCCESS) {
    d.ready = false;
    return result;
  }
  return d.settings.devices == 0 ? CUDA_ERROR_NO_DEVICE : CUDA_SUCCESS;
}

EXPORT CUresult cuDriverGetVersion(int* version) {
  LOCKED;
  *version = (driver().ready ? driver().settings : fake::read_settings()).version;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuGetErrorName(CUresult error, const char** name) {
  static const std::map<CUresult, const char*> names = {{CUDA_SUCCESS, "CUDA_SUCCESS"},
                                                        {CUDA_ERROR_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"},
                                                        {CUDA_ERROR_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
                                                        {CUDA_ERROR_NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED"},
                                                        {CUDA_ERROR_DEVICE_UNAVAILABLE, "CUDA_ERROR_DEVICE_UNAVAILABLE"},
                                                        {CUDA_ERROR_ECC_UNCORRECTABLE, "CUDA_ERROR_ECC_UNCORRECTABLE"},
                                                        {CUDA_ERROR_UNKNOWN, "CUDA_ERROR_UNKNOWN"},
                                                        {CUDA_ERROR_NO_DEVICE, "CUDA_ERROR_NO_DEVICE"},
                                                        {CUDA_ERROR_INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE"},
                                                        {CUDA_ERROR_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"},
                                                        {CUDA_ERROR_NO_BINARY_FOR_GPU, "CUDA_ERROR_NO_BINARY_FOR_GPU"},
                                                        {CUDA_ERROR_INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE"},
                                                        {CUDA_ERROR_NOT_FOUND, "CUDA_ERROR_NOT_FOUND"},
                                                        {CUDA_ERROR_ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS"},
                                                        {CUDA_ERROR_LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED"},
                                                        {kCaptureUnsupported, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"},
                                                        {kUnjoined, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED"},
                                                        {kIsolation, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION"},
                                                        {CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"}};
  const auto found = names.find(error);
  *name = found == names.end() ? nullptr : found->second;
  return found == names.end() ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetCount(int* count) {
  BEGIN(begin("cuDeviceGetCount", false));
  *count = driver().settings.devices;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  BEGIN(begin("cuDeviceGet", false));
  if (!is_device(ordinal)) return CUDA_ERROR_INVALID_DEVICE;
  *device = ordinal;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetName(char* name, int length, CUdevice device) {
  BEGIN(begin("cuDeviceGetName", false));
  if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
  std::snprintf(name, static_cast<size_t>(length), "emulated GPU %d", device);
  return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetAttribute(int* value, int attribute, CUdevice device) {
  BEGIN(begin("cuDeviceGetAttribute", false));
  if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
  const int capability = driver().settings.capability;
  if (attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) *value = capability / 10;
  else if (attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR) *value = capability % 10;
  else if (attribute == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT) *value = 1;
  else return CUDA_ERROR_INVALID_VALUE;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceTotalMem_v2(size_t* bytes, CUdevice device) {
  BEGIN(begin("cuDeviceTotalMem", false));
  if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
  *bytes = driver().settings.memory;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  BEGIN(begin("cuDevicePrimaryCtxRetain", false));
  if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
  Driver& d = driver();
  if (d.retained++ == 0) {
    d.memory = std::make_unique<fake::Memory>(d.settings.memory);
    d.made_streams = 0;
  }
  *context = kContext;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  BEGIN(begin("cuDevicePrimaryCtxRelease", false));
  Driver& d = driver();
  if (!is_device(device) || d.retained == 0) return CUDA_ERROR_INVALID_CONTEXT;
  if (--d.retained == 0) {
    if (d.memory->count() > 0) std::fprintf(stderr, "fake CUDA: %zu allocations are left\n", d.memory->count());
    d.memory.reset();
  }
  return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxSetCurrent(CUcontext context) {
  BEGIN(begin("cuCtxSetCurrent", false));
  if (context != nullptr && context != kContext) return CUDA_ERROR_INVALID_CONTEXT;
  current = context;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  BEGIN(begin_unrecorded("cuModuleLoadData"));
  if (image == nullptr) return CUDA_ERROR_INVALID_IMAGE;
  *module = new CUmod_st{};
  return CUDA_SUCCESS;
}

EXPORT CUresult cuModuleUnload(CUmodule module) {
  BEGIN(begin("cuModuleUnload"));
  delete module;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  BEGIN(begin("cuModuleGetFunction"));
  static std::map<std::string, CUfunc_st> functions;
  const fake::Kernel* kernel = module == nullptr ? nullptr : fake::kernel(name);
  if (kernel == nullptr) return CUDA_ERROR_NOT_FOUND;
  *function = &functions.try_emplace(name, CUfunc_st{kernel, emulator::kMostShared}).first->second;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuFuncSetAttribute(CUfunction function, int attribute, int value) {
  BEGIN(begin("cuFuncSetAttribute"));
  if (function == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || value < 0 || static_cast<size_t>(value) > emulator::kMostAsked)
    return CUDA_ERROR_INVALID_VALUE;
  function->most_shared = static_cast<unsigned>(value);
  return CUDA_SUCCESS;
}
