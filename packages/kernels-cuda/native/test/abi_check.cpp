// driver/cuda_abi.h beside NVIDIA's own header: compiled where there is a toolkit (src/nvcc.test.ts), never run.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <type_traits>

namespace real {
#include <cuda.h>
}
namespace ours {
#include "../driver/cuda_abi.h"
}

template <class A, class B>
constexpr bool alike = sizeof(A) == sizeof(B) && std::is_pointer_v<A> == std::is_pointer_v<B>;

/// As many parameters, each of the same size.
template <class A, class B>
struct Alike : std::false_type {};
template <class R, class... P, class S, class... Q>
struct Alike<R(P...), S(Q...)> {
  static constexpr bool value() {
    if constexpr (sizeof...(P) == sizeof...(Q)) return alike<R, S> && (alike<P, Q> && ...);
    else return false;
  }
};

// cuda.h renames functions to their newest version by macros: what a name comes to is what must be looked up.
#define TEXT(name) #name
#define EXPANDED(name) TEXT(name)
#define CHECK(name, symbol, parameters)                                                        \
  static_assert(std::string_view(EXPANDED(name)) == symbol, "another version of " symbol);      \
  static_assert(Alike<decltype(real::name), ours::CUresult parameters>::value(), "other parameters of " symbol);

namespace ours {
LOWBIT_CUDA_FUNCTIONS(CHECK)
}

#define SAME(name) static_assert(static_cast<int>(real::name) == static_cast<int>(ours::name), #name);
SAME(CUDA_SUCCESS)
SAME(CUDA_ERROR_INVALID_VALUE)
SAME(CUDA_ERROR_OUT_OF_MEMORY)
SAME(CUDA_ERROR_NOT_INITIALIZED)
SAME(CUDA_ERROR_DEVICE_UNAVAILABLE)
SAME(CUDA_ERROR_NO_DEVICE)
SAME(CUDA_ERROR_INVALID_DEVICE)
SAME(CUDA_ERROR_INVALID_IMAGE)
SAME(CUDA_ERROR_INVALID_CONTEXT)
SAME(CUDA_ERROR_NO_BINARY_FOR_GPU)
SAME(CUDA_ERROR_ECC_UNCORRECTABLE)
SAME(CUDA_ERROR_UNSUPPORTED_PTX_VERSION)
SAME(CUDA_ERROR_OPERATING_SYSTEM)
SAME(CUDA_ERROR_INVALID_HANDLE)
SAME(CUDA_ERROR_NOT_FOUND)
SAME(CUDA_ERROR_ILLEGAL_ADDRESS)
SAME(CUDA_ERROR_LAUNCH_FAILED)
SAME(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)
SAME(CUDA_ERROR_EXTERNAL_DEVICE)
SAME(CUDA_ERROR_UNKNOWN)
SAME(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
SAME(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)
SAME(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)
SAME(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)
SAME(CU_STREAM_NON_BLOCKING)
SAME(CU_EVENT_DISABLE_TIMING)
SAME(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
static_assert(CU_MEMHOSTALLOC_DEVICEMAP == 2, "as cuda_abi.h has it");
