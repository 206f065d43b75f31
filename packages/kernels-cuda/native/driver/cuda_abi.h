// The part of NVIDIA's driver interface that is used here, by its stable binary form: the addon builds without the toolkit and links to no library of it.
// Names and numbers as in cuda.h of the toolkit.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st* CUcontext;
typedef struct CUmod_st* CUmodule;
typedef struct CUfunc_st* CUfunction;
typedef struct CUstream_st* CUstream;
typedef struct CUevent_st* CUevent;
typedef struct CUgraph_st* CUgraph;
typedef struct CUgraphExec_st* CUgraphExec;

enum : CUresult {
  CUDA_SUCCESS = 0,
  CUDA_ERROR_INVALID_VALUE = 1,
  CUDA_ERROR_OUT_OF_MEMORY = 2,
  CUDA_ERROR_NOT_INITIALIZED = 3,
  CUDA_ERROR_DEVICE_UNAVAILABLE = 46,
  CUDA_ERROR_NO_DEVICE = 100,
  CUDA_ERROR_INVALID_DEVICE = 101,
  CUDA_ERROR_INVALID_IMAGE = 200,
  CUDA_ERROR_INVALID_CONTEXT = 201,
  CUDA_ERROR_NO_BINARY_FOR_GPU = 209,
  CUDA_ERROR_ECC_UNCORRECTABLE = 214,
  CUDA_ERROR_UNSUPPORTED_PTX_VERSION = 222,
  CUDA_ERROR_OPERATING_SYSTEM = 304,
  CUDA_ERROR_INVALID_HANDLE = 400,
  CUDA_ERROR_NOT_FOUND = 500,
  CUDA_ERROR_ILLEGAL_ADDRESS = 700,
  CUDA_ERROR_LAUNCH_FAILED = 719,
  CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901,
  CUDA_ERROR_EXTERNAL_DEVICE = 911,
  CUDA_ERROR_UNKNOWN = 999,
};

enum : int {
  CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16,
  CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75,
  CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76,
};

enum : int { CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8 };

enum : unsigned { CU_STREAM_NON_BLOCKING = 1, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1, CU_EVENT_DISABLE_TIMING = 2 };
// A macro in the original, too.
#ifndef CU_MEMHOSTALLOC_DEVICEMAP
#define CU_MEMHOSTALLOC_DEVICEMAP 2
#endif

}  // extern "C"

// clang-format off
/// Every function that is used: X(name without its version, exported name, parameters).
#define LOWBIT_CUDA_FUNCTIONS(X)                                                                                             \
  X(cuInit, "cuInit", (unsigned flags))                                                                                      \
  X(cuDriverGetVersion, "cuDriverGetVersion", (int* version))                                                                \
  X(cuGetErrorName, "cuGetErrorName", (CUresult error, const char** name))                                                   \
  X(cuDeviceGetCount, "cuDeviceGetCount", (int* count))                                                                      \
  X(cuDeviceGet, "cuDeviceGet", (CUdevice* device, int ordinal))                                                             \
  X(cuDeviceGetName, "cuDeviceGetName", (char* name, int length, CUdevice device))                                           \
  X(cuDeviceGetAttribute, "cuDeviceGetAttribute", (int* value, int attribute, CUdevice device))                              \
  X(cuDeviceTotalMem, "cuDeviceTotalMem_v2", (size_t* bytes, CUdevice device))                                               \
  X(cuDevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain", (CUcontext* context, CUdevice device))                             \
  X(cuDevicePrimaryCtxRelease, "cuDevicePrimaryCtxRelease_v2", (CUdevice device))                                            \
  X(cuCtxSetCurrent, "cuCtxSetCurrent", (CUcontext context))                                                                 \
  X(cuModuleLoadData, "cuModuleLoadData", (CUmodule* module, const void* image))                                             \
  X(cuModuleUnload, "cuModuleUnload", (CUmodule module))                                                                     \
  X(cuModuleGetFunction, "cuModuleGetFunction", (CUfunction* function, CUmodule module, const char* name))                   \
  X(cuFuncSetAttribute, "cuFuncSetAttribute", (CUfunction function, int attribute, int value))                               \
  X(cuMemGetInfo, "cuMemGetInfo_v2", (size_t* free, size_t* total))                                                          \
  X(cuMemAlloc, "cuMemAlloc_v2", (CUdeviceptr* at, size_t bytes))                                                            \
  X(cuMemFree, "cuMemFree_v2", (CUdeviceptr at))                                                                             \
  X(cuMemHostAlloc, "cuMemHostAlloc", (void** at, size_t bytes, unsigned flags))                                             \
  X(cuMemHostGetDevicePointer, "cuMemHostGetDevicePointer_v2", (CUdeviceptr* at, void* host, unsigned flags))                \
  X(cuMemFreeHost, "cuMemFreeHost", (void* at))                                                                              \
  X(cuMemcpyHtoDAsync, "cuMemcpyHtoDAsync_v2", (CUdeviceptr to, const void* from, size_t bytes, CUstream stream))            \
  X(cuMemcpyDtoHAsync, "cuMemcpyDtoHAsync_v2", (void* to, CUdeviceptr from, size_t bytes, CUstream stream))                  \
  X(cuMemcpyDtoDAsync, "cuMemcpyDtoDAsync_v2", (CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream))            \
  X(cuStreamCreate, "cuStreamCreate", (CUstream* stream, unsigned flags))                                                    \
  X(cuStreamDestroy, "cuStreamDestroy_v2", (CUstream stream))                                                                \
  X(cuStreamSynchronize, "cuStreamSynchronize", (CUstream stream))                                                           \
  X(cuEventCreate, "cuEventCreate", (CUevent* event, unsigned flags))                                                        \
  X(cuEventDestroy, "cuEventDestroy_v2", (CUevent event))                                                                    \
  X(cuEventRecord, "cuEventRecord", (CUevent event, CUstream stream))                                                        \
  X(cuEventSynchronize, "cuEventSynchronize", (CUevent event))                                                               \
  X(cuStreamWaitEvent, "cuStreamWaitEvent", (CUstream stream, CUevent event, unsigned flags))                                \
  X(cuStreamBeginCapture, "cuStreamBeginCapture_v2", (CUstream stream, unsigned mode))                                       \
  X(cuStreamEndCapture, "cuStreamEndCapture", (CUstream stream, CUgraph* graph))                                             \
  X(cuGraphInstantiateWithFlags, "cuGraphInstantiateWithFlags", (CUgraphExec* ready, CUgraph graph, unsigned long long flags)) \
  X(cuGraphLaunch, "cuGraphLaunch", (CUgraphExec ready, CUstream stream))                                                    \
  X(cuGraphExecDestroy, "cuGraphExecDestroy", (CUgraphExec ready))                                                           \
  X(cuGraphDestroy, "cuGraphDestroy", (CUgraph graph))                                                                       \
  X(cuLaunchKernel, "cuLaunchKernel", (CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y, \
     unsigned block_z, unsigned shared_bytes, CUstream stream, void** parameters, void** extra))
// clang-format on
