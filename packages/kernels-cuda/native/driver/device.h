// One GPU: its context, the kernels in it, memory, and what is enqueued. What is enqueued runs in that order.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "driver.h"
#include "lanes.h"
#include "staging.h"

namespace lowbit {

/// The kernels that nvcc made when the addon was built.
struct Image {
  const unsigned char* data;  // without nvcc a text that says so
  size_t bytes;               // 0: built without nvcc
  const char* targets;        // such as "sm_80 sm_90 compute_80"
  int version;                // of the toolkit, 1000 * major + 10 * minor
};
extern const Image kImage;

struct Function {
  CUfunction handle = nullptr;
  const char* parameters = "";
};

struct DeviceFacts {
  std::string name;
  int capability = 0;  // 10 * major + minor
  int version = 0;     // of the driver, as of Image
  int multiprocessors = 0;
  size_t total = 0, free = 0;
  std::string driver;
};

class Device {
 public:
  /// Throws DeviceError, with everything given back.
  Device(const std::string& path, int ordinal);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  /// What is there, without loading kernels. Throws DeviceError.
  static DeviceFacts probe(const std::string& path, int ordinal);

  const DeviceFacts& facts() const { return facts_; }
  const Driver& driver() const { return *driver_; }
  CUstream stream() const { return stream_; }
  /// Of copies that run beside it: what needs them waits for their events.
  CUstream copies() const { return copies_; }
  const Function& function(const std::string& name) const;
  /// Makes the context that of this thread.
  void enter() const;
  /// For what gives things back and cannot throw.
  bool try_enter() const;
  void memory(size_t& free, size_t& total) const;

  /// Held by whoever enqueues: nothing of another thread's may get into what is being recorded.
  std::mutex& queue() const { return queue_; }
  /// Waits for everything enqueued before.
  void wait() const;
  Staging& staging() const { return staging_; }
  Lanes& lanes() const { return lanes_; }

 private:
  std::shared_ptr<const Driver> driver_;
  DeviceFacts facts_;
  CUdevice device_ = 0;
  CUcontext context_ = nullptr;
  CUmodule module_ = nullptr;
  CUstream stream_ = nullptr, copies_ = nullptr;
  std::map<std::string, Function> functions_;
  mutable std::mutex queue_;
  mutable Staging staging_;
  mutable Lanes lanes_;
};

/// Device memory, or host memory that kernels read over the bus; given back with its last owner.
class Buffer {
 public:
  Buffer(std::shared_ptr<Device> device, size_t bytes, bool on_host = false);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  CUdeviceptr at() const { return at_; }
  size_t bytes() const { return bytes_; }
  bool on_host() const { return host_ != nullptr; }
  /// nullptr for memory of the device.
  const void* host() const { return host_; }
  const std::shared_ptr<Device>& device() const { return device_; }

  /// Enqueues; memory of the host is written at once, before anything reads it. Throw DeviceError for what lies outside.
  void write(size_t to, const void* from, size_t bytes) const;
  /// As `write` of many bytes, through memory that the device reads by itself. Any thread.
  void upload(size_t to, const void* from, size_t bytes) const;
  void copy(size_t to, const Buffer& from, size_t at, size_t bytes) const;
  /// Waits until it is there.
  void read(size_t from, void* to, size_t bytes) const;

 private:
  void check(size_t at, size_t bytes) const;

  std::shared_ptr<Device> device_;
  size_t bytes_;
  CUdeviceptr at_ = 0;
  void* host_ = nullptr;
};

}  // namespace lowbit
