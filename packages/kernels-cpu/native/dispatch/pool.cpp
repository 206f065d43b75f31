#include "pool.h"

#include <chrono>
#include <stdexcept>
#include <utility>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace lowbit {
namespace {

constexpr uint64_t kNext = (uint64_t{1} << 24) - 1;
constexpr int kStageShift = 48;
constexpr int kEndShift = 24;

/// Whether a lane has a chunk.
inline bool available(uint64_t lane) { return (lane & kNext) < (lane >> kEndShift & kNext); }

// Longer than a stage that one thread does alone, shorter than what a waiting core costs its neighbours.
constexpr std::chrono::microseconds kPatience{50};

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// How long a thread has had nothing to do.
class Waiting {
 public:
  /// Waits a little; false once that is enough. How long a pause is differs by processor, so the clock is asked now and then.
  bool spin() {
    relax();
    if (++spins_ % 32 != 0) return true;
    const auto now = std::chrono::steady_clock::now();
    if (spins_ == 32) begin_ = now;
    return now - begin_ < kPatience;
  }
  void over() { spins_ = 0; }

 private:
  uint32_t spins_ = 0;
  std::chrono::steady_clock::time_point begin_;
};

}  // namespace

Pool::Pool(int threads, uint32_t most_chunks)
    : threads_(threads < 1 ? 1 : threads), most_chunks_(most_chunks), lanes_(std::make_unique<Lane[]>(static_cast<size_t>(threads_))) {
  if (threads_ > kMostThreads) throw std::length_error("a pool has too many threads");
  try {
    for (int i = 1; i < threads_; ++i) workers_.emplace_back([this, i] { work(i); });
  } catch (...) {
    stop();
    throw;
  }
}

Pool::~Pool() { stop(); }

void Pool::stop() {
  stopping_.store(true);
  signal_.fetch_add(1);
  signal_.notify_all();
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
}

/// Makes stage `stage` (or the end of the list) visible. Called while no chunk is out.
void Pool::open(size_t stage, int thread) {
  for (; stage < count_ && stages_[stage].chunks <= 1; ++stage) {
    if (stages_[stage].chunks == 1) call(stages_[stage], 0, thread);
  }
  if (stage == count_) {
    finished_.store(true);
  } else {
    const uint64_t chunks = stages_[stage].chunks, lanes = static_cast<uint64_t>(threads());
    left_.store(static_cast<uint32_t>(chunks), std::memory_order_relaxed);
    for (uint64_t i = 0; i < lanes; ++i) {
      const uint64_t first = chunks * i / lanes, end = chunks * (i + 1) / lanes;
      lanes_[i].chunks.store(uint64_t{stage & 0xffff} << kStageShift | end << kEndShift | first);
    }
  }
  if (sleeping_.load() == 0) return;
  signal_.fetch_add(1);
  signal_.notify_all();
}

/// Runs a chunk; an exception must not leave a thread that has no caller.
void Pool::call(const Stage& stage, uint32_t chunk, int thread) {
  if (failed_.load(std::memory_order_relaxed)) return;
  try {
    stage.run(stage.context, chunk, thread);
  } catch (...) {
    if (!failed_.exchange(true)) failure_ = std::current_exception();
  }
}

bool Pool::any_chunk() const {
  for (int i = 0; i < threads(); ++i) {
    if (available(lanes_[static_cast<size_t>(i)].chunks.load())) return true;
  }
  return false;
}

/// Runs what it gets of the open stage; false if that is nothing.
bool Pool::work_on_stage(int thread) {
  uint32_t done = 0;
  size_t stage = 0;
  const size_t lanes = static_cast<size_t>(threads());
  for (size_t i = 0; i < lanes; ++i) {
    std::atomic<uint64_t>& chunks = lanes_[(static_cast<size_t>(thread) + i) % lanes].chunks;
    while (available(chunks.load(std::memory_order_acquire))) {
      const uint64_t taken = chunks.fetch_add(1, std::memory_order_acq_rel);
      if (!available(taken)) break;
      // This chunk counts as not done until below, so the list and the stage stay as they are.
      stage = taken >> kStageShift;
      call(stages_[stage], static_cast<uint32_t>(taken & kNext), thread);
      ++done;
    }
  }
  if (done == 0) return false;
  if (left_.fetch_sub(done, std::memory_order_acq_rel) == done) open(stage + 1, thread);
  return true;
}

/// Sleeps until something is opened, unless there is something to do or `over`.
void Pool::sleep_unless(const std::atomic<bool>& over) {
  sleeping_.fetch_add(1);
  // What is opened from here on changes the signal; what was opened before is seen.
  const uint32_t seen = signal_.load();
  if (!any_chunk() && !over.load()) signal_.wait(seen);
  sleeping_.fetch_sub(1);
}

void Pool::work(int thread) {
  Waiting waiting;
  while (!stopping_.load(std::memory_order_relaxed)) {
    if (work_on_stage(thread)) {
      waiting.over();
    } else if (!waiting.spin()) {
      sleep_unless(stopping_);
      waiting.over();
    }
  }
}

void Pool::run(const Stage* stages, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    if (stages[i].chunks > most_chunks_) throw std::length_error("a stage has too many chunks");
  }
  const std::lock_guard lock(running_);
  failed_.store(false, std::memory_order_relaxed);
  // Longer lists go in parts, for the 16 bits of a ticket.
  constexpr size_t kMost = 60000;
  for (size_t from = 0; from < count; from += kMost) {
    stages_ = stages + from;
    count_ = count - from < kMost ? count - from : kMost;
    if (threads_ == 1) {
      for (size_t i = 0; i < count_; ++i) {
        for (uint32_t chunk = 0; chunk < stages_[i].chunks; ++chunk) call(stages_[i], chunk, 0);
      }
      continue;
    }
    finished_.store(false);
    open(0, 0);
    Waiting waiting;
    while (!finished_.load(std::memory_order_acquire)) {
      if (work_on_stage(0)) {
        waiting.over();
      } else if (!waiting.spin()) {
        sleep_unless(finished_);
        waiting.over();
      }
    }
  }
  if (failed_.load()) std::rethrow_exception(std::exchange(failure_, nullptr));
}

}  // namespace lowbit
