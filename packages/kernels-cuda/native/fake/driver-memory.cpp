// Memory of the fake driver, and copies.
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "driver.h"

namespace {

using namespace fake;

/// A line of the file that counts copies: which way, bytes, and the stream by its number.
void log_copy(const char* way, size_t bytes, CUstream stream) {
  const std::string& name = driver().settings.copies;
  const std::vector<CUstream>& streams = driver().streams;
  if (name.empty()) return;
  if (FILE* file = std::fopen(name.c_str(), "a")) {
    const auto found = std::find(streams.begin(), streams.end(), stream);
    std::fprintf(file, "%s %zu %td\n", way, bytes, found - streams.begin());
    std::fclose(file);
  }
}

}  // namespace

EXPORT CUresult cuMemGetInfo_v2(size_t* free, size_t* total) {
  BEGIN(begin("cuMemGetInfo"));
  const fake::Memory& memory = *driver().memory;
  *total = memory.total();
  *free = memory.total() - memory.used();
  return CUDA_SUCCESS;
}

EXPORT CUresult cuMemAlloc_v2(CUdeviceptr* at, size_t bytes) {
  BEGIN(begin_unrecorded("cuMemAlloc"));
  if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  *at = driver().memory->take(bytes, true);
  return *at == 0 ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
}

EXPORT CUresult cuMemFree_v2(CUdeviceptr at) {
  BEGIN(begin_unrecorded("cuMemFree"));
  if (const CUresult result = drain_all(); result != CUDA_SUCCESS) return result;
  return driver().memory->give(at) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

EXPORT CUresult cuMemHostAlloc(void** at, size_t bytes, unsigned) {
  BEGIN(begin_unrecorded("cuMemHostAlloc"));
  *at = reinterpret_cast<void*>(driver().memory->take(bytes, false));
  return *at == nullptr ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
}

EXPORT CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr* at, void* host, unsigned) {
  BEGIN(begin("cuMemHostGetDevicePointer"));
  *at = reinterpret_cast<CUdeviceptr>(host);
  return driver().memory->holds(*at, 1) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

EXPORT CUresult cuMemFreeHost(void* at) {
  BEGIN(begin_unrecorded("cuMemFreeHost"));
  if (const CUresult result = drain_all(); result != CUDA_SUCCESS) return result;
  return driver().memory->give(reinterpret_cast<uintptr_t>(at)) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

EXPORT CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
  BEGIN(begin("cuMemcpyHtoD"));
  log_copy("up", bytes, stream);
  if (!driver().memory->holds(to, bytes)) return CUDA_ERROR_INVALID_VALUE;
  // Memory that is pinned is read when the copy runs, other memory has been read when the call returns.
  if (driver().memory->holds(reinterpret_cast<uintptr_t>(from), bytes)) {
    return enqueue(stream, [=]() -> CUresult {
      std::memcpy(reinterpret_cast<void*>(to), from, bytes);
      return CUDA_SUCCESS;
    });
  }
  const unsigned char* bytes_from = static_cast<const unsigned char*>(from);
  const auto kept = std::make_shared<std::vector<unsigned char>>(bytes_from, bytes_from + bytes);
  return enqueue(stream, [=]() -> CUresult {
    std::memcpy(reinterpret_cast<void*>(to), kept->data(), bytes);
    return CUDA_SUCCESS;
  });
}

EXPORT CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
  BEGIN(begin("cuMemcpyDtoH"));
  log_copy("down", bytes, stream);
  if (!driver().memory->holds(from, bytes)) return CUDA_ERROR_INVALID_VALUE;
  return enqueue(stream, [=]() -> CUresult {
    std::memcpy(to, reinterpret_cast<const void*>(from), bytes);
    return CUDA_SUCCESS;
  });
}

EXPORT CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  BEGIN(begin("cuMemcpyDtoD"));
  if (!driver().memory->holds(to, bytes) || !driver().memory->holds(from, bytes)) return CUDA_ERROR_INVALID_VALUE;
  return enqueue(stream, [=]() -> CUresult {
    std::memmove(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes);
    return CUDA_SUCCESS;
  });
}
