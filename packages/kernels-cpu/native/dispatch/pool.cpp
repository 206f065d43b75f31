#include "pool.h"

#include <stdexcept>
#include <utility>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace lowbit {
namespace {

constexpr uint64_t kNext = (uint64_t{1} << 24) - 1;
constexpr int kStageShift = 48;
constexpr int kChunkShift = 24;

// About 10 us on current machines: longer than the gap between two stages, shorter than what a waiting core costs its neighbours.
constexpr int kSpins = 4000;

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

Pool::Pool(int threads, uint32_t most_chunks) : most_chunks_(most_chunks) {
  try {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
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
void Pool::open(size_t stage) {
  while (stage < count_ && stages_[stage].chunks == 0) ++stage;
  if (stage == count_) {
    finished_.store(true);
  } else {
    done_.store(0, std::memory_order_relaxed);
    ticket_.store(uint64_t{stage & 0xffff} << kStageShift | uint64_t{stages_[stage].chunks} << kChunkShift);
  }
  signal_.fetch_add(1);
  if (sleeping_.load() > 0) signal_.notify_all();
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

/// Takes and runs one chunk, if there is one.
bool Pool::take(int thread) {
  uint64_t ticket = ticket_.load(std::memory_order_acquire);
  if ((ticket & kNext) >= (ticket >> kChunkShift & kNext)) return false;
  ticket = ticket_.fetch_add(1, std::memory_order_acq_rel);
  const uint32_t chunk = static_cast<uint32_t>(ticket & kNext);
  const uint32_t chunks = static_cast<uint32_t>(ticket >> kChunkShift & kNext);
  if (chunk >= chunks) return false;
  // This chunk is not done, so the list stays as it is until below.
  const size_t index = ticket >> kStageShift;
  const Stage& stage = stages_[index];
  call(stage, chunk, thread);
  if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == chunks) open(index + 1);
  return true;
}

void Pool::work(int thread) {
  int spins = 0;
  while (!stopping_.load(std::memory_order_relaxed)) {
    const uint32_t seen = signal_.load();
    if (take(thread)) {
      spins = 0;
    } else if (++spins < kSpins) {
      relax();
    } else {
      sleeping_.fetch_add(1);
      // What came between is seen: every opening changes the signal first.
      const uint64_t ticket = ticket_.load();
      if ((ticket & kNext) >= (ticket >> kChunkShift & kNext) && !stopping_.load()) signal_.wait(seen);
      sleeping_.fetch_sub(1);
      spins = 0;
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
    if (workers_.empty()) {
      for (size_t i = 0; i < count_; ++i) {
        for (uint32_t chunk = 0; chunk < stages_[i].chunks; ++chunk) call(stages_[i], chunk, 0);
      }
      continue;
    }
    finished_.store(false);
    open(0);
    int spins = 0;
    while (!finished_.load(std::memory_order_acquire)) {
      const uint32_t seen = signal_.load();
      if (take(0)) {
        spins = 0;
      } else if (++spins < kSpins) {
        relax();
      } else {
        sleeping_.fetch_add(1);
        if (!finished_.load()) {
          const uint64_t ticket = ticket_.load();
          if ((ticket & kNext) >= (ticket >> kChunkShift & kNext)) signal_.wait(seen);
        }
        sleeping_.fetch_sub(1);
        spins = 0;
      }
    }
  }
  if (failed_.load()) std::rethrow_exception(std::exchange(failure_, nullptr));
}

}  // namespace lowbit
