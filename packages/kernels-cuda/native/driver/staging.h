// Bytes on their way to the device through memory that it reads by itself: while one piece is copied over the bus the next is fetched, from the pages of a
// file for instance.
#pragma once

#include <array>
#include <cstddef>
#include <mutex>

#include "driver.h"

namespace lowbit {

class Device;

class Staging {
 public:
  /// Enqueues; `from` has been read when it returns. Throws DeviceError. Any thread, one at a time.
  void send(const Device& device, CUdeviceptr to, const void* from, size_t bytes);
  /// The device is idle and its context that of this thread.
  void free(const Driver& driver);

 private:
  struct Slot {
    void* at = nullptr;
    CUevent sent = nullptr;
  };
  bool make(const Driver& driver);

  std::mutex mutex_;
  std::array<Slot, 2> slots_;
  size_t next_ = 0;
  bool refused_ = false;  // there was no such memory: copies go without
};

}  // namespace lowbit
