// A libcuda for machines without a GPU: the functions of driver/cuda_abi.h, with kernels that run in the emulator. For tests: it is never loaded unless
// its path is given.
//
// As on a GPU, what is enqueued runs later (streams.h says when), a fault shows then, and after one the context is of no use. Stricter than a
// GPU: every address is checked, a context must be current, nothing but enqueueing may happen during a capture.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>

#include "../driver/cuda_abi.h"
#include "../emulator/emulator.h"
#include "memory.h"
#include "registry.h"
#include "settings.h"
#include "streams.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using fake::Item;
using fake::Work;

constexpr CUresult kCaptureUnsupported = 900, kUnjoined = 904, kIsolation = 905, kIllegalState = 401;

struct Driver {
  std::recursive_mutex mutex;
  bool ready = false;
  fake::Settings settings;
  std::map<std::string, uint64_t> calls;
  std::unique_ptr<fake::Memory> memory;
  int retained = 0;
  CUresult lost = CUDA_SUCCESS;  // what the context died of
  uint64_t launches = 0;
  unsigned made_streams = 0;  // since the context was made
};

Driver& driver() {
  static Driver* const one = new Driver;  // outlives whoever unloads late
  return *one;
}

thread_local CUcontext current = nullptr;
const CUcontext kContext = reinterpret_cast<CUcontext>(uintptr_t{0xc0});

}  // namespace

struct CUstream_st {
  fake::Queue queue;
  /// The stream whose recording this one is a part of, and which branch of it; nullptr: none.
  CUstream recorded_by = nullptr;
  size_t branch = 0;
  bool broken = false;  // of its own recording
  fake::Recording recording;
};
struct CUevent_st {
  std::shared_ptr<fake::EventState> state = std::make_shared<fake::EventState>();
  /// The stream whose recording has its last record; nullptr: it was recorded by nobody.
  CUstream recorded_by = nullptr;
};
struct CUgraph_st {
  fake::Recording recording;
};
struct CUgraphExec_st {
  fake::Recording recording;
};
struct CUmod_st {
  int unused;
};
struct CUfunc_st {
  const fake::Kernel* kernel;
  unsigned most_shared = emulator::kMostShared;  // bytes that a launch may ask for
};

namespace {

std::vector<CUstream> streams;

/// Before every call: the failure that the settings ask for; whether the driver and a context are there.
CUresult begin(const char* function, bool needs_context = true) {
  Driver& d = driver();
  const uint64_t call = ++d.calls[function];
  for (const fake::Failure& failure : d.settings.failures) {
    if (failure.function == function && failure.call == call) return failure.result;
  }
  if (!d.ready) return CUDA_ERROR_NOT_INITIALIZED;
  if (needs_context && (current == nullptr || d.retained == 0)) return CUDA_ERROR_INVALID_CONTEXT;
  return needs_context ? d.lost : CUDA_SUCCESS;
}

/// Before a call that may not come while a stream records.
CUresult begin_unrecorded(const char* function) {
  const CUresult result = begin(function);
  if (result != CUDA_SUCCESS) return result;
  for (CUstream stream : streams) {
    if (stream->recorded_by == nullptr) continue;
    stream->recorded_by->broken = true;
    return kCaptureUnsupported;
  }
  return CUDA_SUCCESS;
}

bool is_stream(CUstream stream) { return std::find(streams.begin(), streams.end(), stream) != streams.end(); }

fake::Queues queues() {
  fake::Queues all;
  for (CUstream stream : streams) all.push_back(&stream->queue);
  return all;
}

/// What a context died of is what it answers from then on.
CUresult lost(CUresult result) {
  Driver& d = driver();
  if (d.lost == CUDA_SUCCESS) d.lost = result;
  if (d.lost != CUDA_SUCCESS) {
    for (CUstream stream : streams) stream->queue.items.clear();
  }
  return d.lost;
}

CUresult enqueue(CUstream stream, Item item) {
  if (!is_stream(stream)) return CUDA_ERROR_INVALID_HANDLE;
  if (stream->recorded_by != nullptr) {
    stream->recorded_by->recording.branches[stream->branch].push_back(std::move(item));
    return CUDA_SUCCESS;
  }
  stream->queue.items.push_back(std::move(item));
  lost(fake::settle(queues()));  // a failure shows at the next call
  return CUDA_SUCCESS;
}

CUresult enqueue(CUstream stream, Work work) { return enqueue(stream, Item{Item::work, std::move(work), nullptr, 0}); }

/// Runs what a stream has before it.
CUresult drain(CUstream stream) { return lost(fake::drain(stream->queue, queues())); }

CUresult drain_all() {
  CUresult result = driver().lost;
  for (CUstream stream : streams) {
    if (const CUresult one = drain(stream); one != CUDA_SUCCESS) result = one;
  }
  return result;
}

/// A launch with copies of its arguments.
struct Launch {
  const fake::Kernel* kernel;
  emulator::Launch shape;
  std::vector<uint64_t> values;
  std::string fault;
};

void run_launch(void* data) {
  Launch& launch = *static_cast<Launch*>(data);
  std::vector<void*> arguments;
  for (uint64_t& value : launch.values) arguments.push_back(&value);
  try {
    emulator::run(launch.shape, launch.kernel->call, arguments.data());
  } catch (const emulator::Fault& fault) {
    launch.fault = fault.what();
  }
}

CUresult run_kernel(Launch launch) {
  Driver& d = driver();
  launch.shape.seed = d.settings.seed * 1000003 + ++d.launches;
  if (!d.settings.log.empty()) {
    if (FILE* file = std::fopen(d.settings.log.c_str(), "a")) {
      std::fprintf(file, "%s %u %u %u %u\n", launch.kernel->name, launch.shape.grid.x, launch.shape.grid.y, launch.shape.grid.z, launch.shape.block.x);
      std::fclose(file);
    }
  }
  if (d.settings.wild == launch.kernel->name) {
    for (size_t i = 0; i < launch.values.size(); ++i) {
      if (launch.kernel->parameters[i] == 'p') launch.values[i] = 64;
    }
  }
  if (!fake::guarded(run_launch, &launch)) {
    std::fprintf(stderr, "fake CUDA: kernel %s touched memory that is not its own\n", launch.kernel->name);
    return CUDA_ERROR_ILLEGAL_ADDRESS;
  }
  if (launch.fault.empty()) return CUDA_SUCCESS;
  std::fprintf(stderr, "fake CUDA: kernel %s: %s\n", launch.kernel->name, launch.fault.c_str());
  return CUDA_ERROR_LAUNCH_FAILED;
}

/// A line of the file that counts copies: which way, bytes, and the stream by its number.
void log_copy(const char* way, size_t bytes, CUstream stream) {
  const std::string& name = driver().settings.copies;
  if (name.empty()) return;
  if (FILE* file = std::fopen(name.c_str(), "a")) {
    const auto found = std::find(streams.begin(), streams.end(), stream);
    std::fprintf(file, "%s %zu %td\n", way, bytes, found - streams.begin());
    std::fclose(file);
  }
}

bool is_device(int ordinal) { return ordinal >= 0 && ordinal < driver().settings.devices; }

}  // namespace

#define LOCKED const std::lock_guard<std::recursive_mutex> lock(driver().mutex)
#define BEGIN(begin_call) \
  LOCKED;                 \
  if (const CUresult begun = begin_call; begun != CUDA_SUCCESS) return begun

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

EXPORT CUresult cuStreamCreate(CUstream* stream, unsigned) {
  BEGIN(begin("cuStreamCreate"));
  streams.push_back(*stream = new CUstream_st);
  (*stream)->queue.eager = driver().settings.eager >> driver().made_streams++ % 64 & 1;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamDestroy_v2(CUstream stream) {
  LOCKED;
  if (!is_stream(stream)) return CUDA_ERROR_INVALID_HANDLE;
  const CUresult result = drain(stream);
  streams.erase(std::find(streams.begin(), streams.end(), stream));
  delete stream;
  return result;
}

EXPORT CUresult cuStreamSynchronize(CUstream stream) {
  BEGIN(begin_unrecorded("cuStreamSynchronize"));
  return is_stream(stream) ? drain(stream) : CUDA_ERROR_INVALID_HANDLE;
}

EXPORT CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned) {
  BEGIN(begin("cuStreamWaitEvent"));
  if (!is_stream(stream) || event == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (event->state->recorded == 0 || driver().settings.deaf) return CUDA_SUCCESS;  // never recorded: no wait
  if (event->recorded_by != nullptr) {
    if (stream->recorded_by == nullptr) {
      // It becomes a part of what is being recorded.
      stream->recorded_by = event->recorded_by;
      stream->branch = stream->recorded_by->recording.branches.size();
      stream->recorded_by->recording.branches.emplace_back();
      stream->recorded_by->recording.eager.push_back(stream->queue.eager);
    } else if (stream->recorded_by != event->recorded_by) {
      return kIsolation;
    }
  } else if (stream->recorded_by != nullptr) {
    stream->recorded_by->broken = true;
    return kIsolation;  // on what runs outside of the recording
  }
  return enqueue(stream, Item{Item::wait, nullptr, event->state, event->state->recorded});
}

EXPORT CUresult cuEventCreate(CUevent* event, unsigned) {
  BEGIN(begin("cuEventCreate"));
  *event = new CUevent_st;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuEventDestroy_v2(CUevent event) {
  LOCKED;
  delete event;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuEventRecord(CUevent event, CUstream stream) {
  BEGIN(begin("cuEventRecord"));
  if (!is_stream(stream)) return CUDA_ERROR_INVALID_HANDLE;
  // One that was recorded for a graph and is now used outside of it begins anew, and the other way round.
  if (event->recorded_by != stream->recorded_by) event->state = std::make_shared<fake::EventState>();
  event->recorded_by = stream->recorded_by;
  return enqueue(stream, Item{Item::record, nullptr, event->state, ++event->state->recorded});
}

EXPORT CUresult cuEventSynchronize(CUevent event) {
  BEGIN(begin("cuEventSynchronize"));
  if (event->recorded_by != nullptr) return kCaptureUnsupported;
  const uint64_t wanted = event->state->recorded;
  CUresult result = lost(fake::settle(queues()));
  while (result == CUDA_SUCCESS && event->state->reached < wanted) {
    for (CUstream stream : streams) {
      const auto& items = stream->queue.items;
      const auto mine = [&](const Item& item) { return item.kind == Item::record && item.event == event->state; };
      if (std::none_of(items.begin(), items.end(), mine)) continue;
      result = lost(fake::advance(stream->queue, queues()));
      break;
    }
    if (result == CUDA_SUCCESS) result = lost(fake::settle(queues()));
  }
  return result;
}

EXPORT CUresult cuStreamBeginCapture_v2(CUstream stream, unsigned) {
  BEGIN(begin("cuStreamBeginCapture"));
  if (stream->recorded_by != nullptr) return kIllegalState;
  stream->recorded_by = stream;
  stream->branch = 0;
  stream->broken = false;
  stream->recording = {{{}}, {stream->queue.eager}};
  return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamEndCapture(CUstream stream, CUgraph* graph) {
  LOCKED;
  if (stream->recorded_by != stream) return kIllegalState;
  // Whatever else is wrong.
  for (CUstream one : streams) {
    if (one->recorded_by == stream) one->recorded_by = nullptr;
  }
  *graph = nullptr;
  if (const CUresult begun = begin("cuStreamEndCapture"); begun != CUDA_SUCCESS) return begun;
  if (stream->broken) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  if (!fake::joined(stream->recording)) return kUnjoined;
  *graph = new CUgraph_st{std::move(stream->recording)};
  stream->recording = {};
  return CUDA_SUCCESS;
}

EXPORT CUresult cuGraphInstantiateWithFlags(CUgraphExec* ready, CUgraph graph, unsigned long long) {
  BEGIN(begin("cuGraphInstantiate"));
  *ready = new CUgraphExec_st{graph->recording};
  return CUDA_SUCCESS;
}

EXPORT CUresult cuGraphLaunch(CUgraphExec ready, CUstream stream) {
  BEGIN(begin("cuGraphLaunch"));
  return enqueue(stream, [recording = ready->recording]() -> CUresult { return fake::play(recording); });
}

EXPORT CUresult cuGraphExecDestroy(CUgraphExec ready) {
  LOCKED;
  if (current == nullptr) std::fprintf(stderr, "fake CUDA: a graph is destroyed without a context\n");
  delete ready;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuGraphDestroy(CUgraph graph) {
  LOCKED;
  delete graph;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                               unsigned block_z, unsigned shared_bytes, CUstream stream, void** parameters, void**) {
  BEGIN(begin("cuLaunchKernel"));
  if (function == nullptr || parameters == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (grid_x == 0 || grid_y == 0 || grid_z == 0 || grid_y > 65535 || grid_z > 65535 || block_x == 0 || block_y == 0 || block_z == 0 ||
      block_x * block_y * block_z > emulator::kMostThreads || shared_bytes > function->most_shared)
    return CUDA_ERROR_INVALID_VALUE;
  Launch launch{function->kernel, {{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes, 0}, {}, {}};
  for (size_t i = 0; function->kernel->parameters[i] != 0; ++i) {
    uint64_t value = 0;
    std::memcpy(&value, parameters[i], fake::parameter_bytes(function->kernel->parameters[i]));
    launch.values.push_back(value);
  }
  return enqueue(stream, [launch] { return run_kernel(launch); });
}
