// The thread pool: runs a list of stages, each cut into chunks. A thread goes through its own part of them in order, one stream through memory, and then
// takes what is left of the others' parts.
//
// A stage begins when all chunks of the one before are done; nobody waits for a thread that has taken none, so a thread that the system has put aside
// delays what runs by the chunk that it is at. A stage of one chunk is run by the thread that finishes the one before, without the others hearing of it. Waiting
// spins for a while, then sleeps on a futex.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace lowbit {

/// Most chunks of a stage: a lane has 24 bits for the next one, which must not run over when every thread takes one too many.
constexpr int kMostThreads = 4096;
constexpr uint32_t kMostChunks = (uint32_t{1} << 24) - 1 - kMostThreads;

/// run(context, chunk, thread) for every chunk in 0 .. chunks - 1, at most kMostChunks of them; thread is below Pool::threads().
struct Stage {
  void (*run)(const void* context, size_t chunk, int thread);
  const void* context;
  uint32_t chunks;
};

class Pool {
 public:
  /// `threads` in all, at most kMostThreads: the caller of `run` is one of them. Tests take a lower `most_chunks`. Throws std::system_error where no thread can
  /// be started.
  explicit Pool(int threads, uint32_t most_chunks = kMostChunks);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return threads_; }
  /// Of a stage.
  uint32_t most_chunks() const { return most_chunks_; }
  /// Runs the stages in order and returns when all are done. One caller at a time; others wait. What the first chunk that throws has thrown is thrown
  /// here: the chunks after it are passed over. Throws std::length_error for a stage of more than most_chunks, before anything runs.
  void run(const Stage* stages, size_t count);

 private:
  /// The chunks of a thread's part that nobody has taken: stage (16 bits) | end (24) | next (24). Taking one tells whose it is, so a thread that comes late
  /// takes what there is, or nothing.
  struct alignas(64) Lane {
    std::atomic<uint64_t> chunks{0};
  };

  void call(const Stage& stage, uint32_t chunk, int thread);
  void work(int thread);
  bool work_on_stage(int thread);
  bool any_chunk() const;
  void sleep_unless(const std::atomic<bool>& over);
  void open(size_t stage, int thread);
  void stop();

  const int threads_;
  const uint32_t most_chunks_;
  const std::unique_ptr<Lane[]> lanes_;
  std::vector<std::thread> workers_;
  std::mutex running_;
  const Stage* stages_ = nullptr;
  size_t count_ = 0;
  std::exception_ptr failure_;  // of the thread that set failed_; read when all is done
  std::atomic<bool> failed_{false};
  std::atomic<bool> stopping_{false};
  alignas(64) std::atomic<uint32_t> left_{0};  // chunks of the stage that are not done
  alignas(64) std::atomic<bool> finished_{true};
  alignas(64) std::atomic<uint32_t> signal_{0};
  std::atomic<uint32_t> sleeping_{0};
};

}  // namespace lowbit
