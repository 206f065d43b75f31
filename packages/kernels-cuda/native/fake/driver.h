// What the functions of the fake driver share: its state, streams and what is recorded of them, and what comes before every call. driver.cpp has devices, contexts and
// modules, driver-memory.cpp memory and copies, driver-streams.cpp streams, events and graphs, driver-launch.cpp launches.
//
// As on a GPU, what is enqueued runs later (streams.h says when), a fault shows then, and after one the context is of no use. Stricter than a
// GPU: every address is checked, a context must be current, nothing but enqueueing may happen during a capture.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "../driver/cuda_abi.h"
#include "../emulator/emulator.h"
#include "memory.h"
#include "registry.h"
#include "settings.h"
#include "streams.h"

#define EXPORT extern "C" __attribute__((visibility("default")))
#define LOCKED const std::lock_guard<std::recursive_mutex> lock(fake::driver().mutex)
#define BEGIN(begin_call) \
  LOCKED;                 \
  if (const CUresult begun = begin_call; begun != CUDA_SUCCESS) return begun

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

namespace fake {

constexpr CUresult kCaptureUnsupported = 900, kUnjoined = 904, kIsolation = 905, kIllegalState = 401;

struct Driver {
  std::recursive_mutex mutex;
  bool ready = false;
  Settings settings;
  std::map<std::string, uint64_t> calls;
  std::unique_ptr<Memory> memory;
  int retained = 0;
  CUresult lost = CUDA_SUCCESS;  // what the context died of
  uint64_t launches = 0;
  unsigned made_streams = 0;  // since the context was made
  std::vector<CUstream> streams;
};

Driver& driver();

/// The context of this thread.
extern thread_local CUcontext current;

/// Before every call: the failure that the settings ask for; whether the driver and a context are there.
CUresult begin(const char* function, bool needs_context = true);
/// Before a call that may not come while a stream records.
CUresult begin_unrecorded(const char* function);

bool is_stream(CUstream stream);
CUresult enqueue(CUstream stream, Item item);
CUresult enqueue(CUstream stream, Work work);
/// Runs what every stream has before it.
CUresult drain_all();

}  // namespace fake
