// Streams of the fake driver, events, recordings and graphs.
#include <algorithm>
#include <cstdio>

#include "driver.h"

namespace fake {
namespace {

Queues queues() {
  Queues all;
  for (CUstream stream : driver().streams) all.push_back(&stream->queue);
  return all;
}

/// What a context died of is what it answers from then on.
CUresult lost(CUresult result) {
  Driver& d = driver();
  if (d.lost == CUDA_SUCCESS) d.lost = result;
  if (d.lost != CUDA_SUCCESS) {
    for (CUstream stream : driver().streams) stream->queue.items.clear();
  }
  return d.lost;
}

/// Runs what a stream has before it.
CUresult drain(CUstream stream) { return lost(fake::drain(stream->queue, queues())); }

}  // namespace

bool is_stream(CUstream stream) {
  const std::vector<CUstream>& streams = driver().streams;
  return std::find(streams.begin(), streams.end(), stream) != streams.end();
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

CUresult drain_all() {
  CUresult result = driver().lost;
  for (CUstream stream : driver().streams) {
    if (const CUresult one = drain(stream); one != CUDA_SUCCESS) result = one;
  }
  return result;
}

}  // namespace fake

using namespace fake;

EXPORT CUresult cuStreamCreate(CUstream* stream, unsigned) {
  BEGIN(begin("cuStreamCreate"));
  driver().streams.push_back(*stream = new CUstream_st);
  (*stream)->queue.eager = driver().settings.eager >> driver().made_streams++ % 64 & 1;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamDestroy_v2(CUstream stream) {
  LOCKED;
  if (!is_stream(stream)) return CUDA_ERROR_INVALID_HANDLE;
  const CUresult result = drain(stream);
  std::vector<CUstream>& streams = driver().streams;
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
    for (CUstream stream : driver().streams) {
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
  for (CUstream one : driver().streams) {
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
