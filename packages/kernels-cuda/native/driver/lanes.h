// Work that comes to the device, is done there, and goes back, several pieces at a time: while kernels of one run, the numbers of the next come and the results
// of the one before go. Each lane has a stream of its own, room on the device, and slices of memory that the device reads and writes by itself.
#pragma once

#include <array>
#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include "driver.h"

namespace lowbit {

class Buffer;
class Device;
struct Launch;

/// One piece of work. Launches name its room as buffer 0, and memory that outlasts it, where there is any, as buffer 1.
struct Work {
  struct Upload {
    size_t to;
    const void* from;
    size_t bytes;
    bool beside;  // to the memory that outlasts the work
  };
  struct Download {
    size_t from;
    void* to;
    size_t bytes;
  };
  size_t bytes = 0;
  std::shared_ptr<Buffer> beside;
  std::vector<Upload> uploads;
  std::vector<Launch> launches;
  std::vector<Download> downloads;
};

class Lanes {
 public:
  /// Returns when the results are there. Any thread; where all lanes are busy it waits for one. Throws DeviceError, and nothing of the work is under way any more.
  void run(const Device& device, const Work& work);
  /// Bytes that are held for work to come, on the device and on the host.
  void held(size_t& room, size_t& pinned) const;
  /// Gives back what lanes that are at rest hold.
  void trim(const Device& device);
  /// The device is idle and its context that of this thread.
  void free(const Driver& driver);

 private:
  static constexpr size_t kLanes = 3;

  struct Slice {
    void* at = nullptr;
    CUevent done = nullptr;  // what was last enqueued of it
    void* to = nullptr;      // of a download: where its bytes go
    size_t bytes = 0;
  };
  struct Lane {
    bool busy = false, made = false, pinned = false;
    CUstream stream = nullptr;
    CUdeviceptr room = 0;
    size_t bytes = 0;
    std::array<Slice, 2> slices;
    size_t next = 0;
  };

  Lane& take();
  void give(Lane& lane);
  void make(const Device& device, Lane& lane);
  void make_room(const Device& device, Lane& lane, size_t bytes);
  void up(const Device& device, Lane& lane, const Work::Upload& upload, CUdeviceptr to);
  void down(const Device& device, Lane& lane, const Work::Download& download);
  /// The next slice, when what it held has gone where it belongs.
  Slice& slice(const Driver& driver, Lane& lane);
  void settle(const Driver& driver, Slice& slice);
  void drop_room(const Driver& driver, Lane& lane);
  void drop(const Driver& driver, Lane& lane);

  mutable std::mutex mutex_;
  std::condition_variable freed_;
  std::array<Lane, kLanes> lanes_;
  size_t last_ = 0;
};

}  // namespace lowbit
