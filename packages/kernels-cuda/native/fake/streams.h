// Streams as a GPU has them: what is in one runs in its order, and of two either may be ahead of the other, unless an event says otherwise.
//
// A stream is lazy (its work runs when somebody waits for it) or eager (as soon as it can). Which of them is what follows from a setting, so that a test can
// have copies run late and kernels early, and the other way round: a wait that is missing shows as wrong bytes in one of them.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "../driver/cuda_abi.h"

namespace fake {

using Work = std::function<CUresult()>;

/// How often an event was recorded, and up to which of those everything before has run.
struct EventState {
  uint64_t recorded = 0, reached = 0;
};

/// One entry of a stream: work, or an event that is recorded or waited for.
struct Item {
  enum Kind { work, record, wait } kind = work;
  Work run;
  std::shared_ptr<EventState> event;
  uint64_t count = 0;

  bool ready() const { return kind != wait || event->reached >= count; }
};

struct Queue {
  std::deque<Item> items;
  bool eager = false;
};
using Queues = std::vector<Queue*>;

/// Runs what eager queues can run by themselves. The first result that is an error ends it.
CUresult settle(const Queues& queues);
/// Runs one entry of a queue, after as much of others as it waits for.
CUresult advance(Queue& queue, const Queues& queues);
/// Runs all of a queue.
CUresult drain(Queue& queue, const Queues& queues);

/// What was recorded of several streams, the first of which began.
struct Recording {
  std::vector<std::deque<Item>> branches;
  std::vector<bool> eager;
};
/// Whether every branch was waited for by another.
bool joined(const Recording& recording);
/// Runs a copy of it.
CUresult play(const Recording& recording);

}  // namespace fake
