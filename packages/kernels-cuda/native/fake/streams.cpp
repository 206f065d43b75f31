#include "streams.h"

#include <map>

namespace fake {
namespace {

CUresult run_first(Queue& queue) {
  const Item item = std::move(queue.items.front());
  queue.items.pop_front();
  if (item.kind == Item::work) return item.run();
  if (item.kind == Item::record && item.event->reached < item.count) item.event->reached = item.count;
  return CUDA_SUCCESS;
}

/// Where the record is that an entry waits for.
Queue* holder(const Item& item, const Queues& queues) {
  for (Queue* queue : queues) {
    for (const Item& one : queue->items) {
      if (one.kind == Item::record && one.event == item.event && one.count >= item.count) return queue;
    }
  }
  return nullptr;
}

}  // namespace

CUresult settle(const Queues& queues) {
  for (bool went_on = true; went_on;) {
    went_on = false;
    for (Queue* queue : queues) {
      while (queue->eager && !queue->items.empty() && queue->items.front().ready()) {
        if (const CUresult result = run_first(*queue); result != CUDA_SUCCESS) return result;
        went_on = true;
      }
    }
  }
  return CUDA_SUCCESS;
}

CUresult advance(Queue& queue, const Queues& queues) {
  if (queue.items.front().ready()) return run_first(queue);
  Queue* const other = holder(queue.items.front(), queues);
  if (other == nullptr || other == &queue) return CUDA_ERROR_LAUNCH_FAILED;  // it would wait for ever
  return advance(*other, queues);
}

CUresult drain(Queue& queue, const Queues& queues) {
  CUresult result = settle(queues);
  while (result == CUDA_SUCCESS && !queue.items.empty()) {
    result = advance(queue, queues);
    if (result == CUDA_SUCCESS) result = settle(queues);
  }
  return result;
}

bool joined(const Recording& recording) {
  for (size_t b = 1; b < recording.branches.size(); ++b) {
    const Item& last = recording.branches[b].back();
    bool waited = false;
    for (size_t other = 0; other < recording.branches.size() && last.kind == Item::record; ++other) {
      for (const Item& item : recording.branches[other]) {
        waited = waited || (other != b && item.kind == Item::wait && item.event == last.event && item.count == last.count);
      }
    }
    if (!waited) return false;
  }
  return true;
}

CUresult play(const Recording& recording) {
  // Events of its own: those that were recorded may be used again meanwhile.
  std::map<const EventState*, std::shared_ptr<EventState>> events;
  std::vector<Queue> branches(recording.branches.size());
  Queues queues;
  for (size_t b = 0; b < branches.size(); ++b) {
    branches[b].eager = recording.eager[b];
    for (Item item : recording.branches[b]) {
      if (item.event != nullptr) {
        auto& mine = events[item.event.get()];
        if (mine == nullptr) mine = std::make_shared<EventState>();
        item.event = mine;
      }
      branches[b].items.push_back(std::move(item));
    }
    queues.push_back(&branches[b]);
  }
  for (Queue& branch : branches) {
    if (const CUresult result = drain(branch, queues); result != CUDA_SUCCESS) return result;
  }
  return CUDA_SUCCESS;
}

}  // namespace fake
