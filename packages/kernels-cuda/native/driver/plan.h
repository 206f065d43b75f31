// A list of launches that is run once per step, with other numbers of rows each time. Tensors have places in one arena; launches name them.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "device.h"

namespace lowbit {

constexpr int kDomains = 5;  // as Rows in kernels/step.cuh
using RowCounts = std::array<uint32_t, kDomains>;

/// An argument of a kernel.
struct Argument {
  enum Kind { integer, real, buffer, tensor, step, rows, nothing } kind = nothing;
  double number = 0;  // of integer and real; offset into a buffer
  int index = 0;      // of a buffer, tensor or domain
};

/// ceil(rows[domain] * times / per), or `times` where domain is -1.
struct Extent {
  int domain = -1;
  uint32_t times = 1, per = 1;
};

struct Launch {
  const Function* function = nullptr;
  std::string name;
  Extent grid[3];
  uint32_t block = 1, shared_bytes = 0;
  std::vector<Argument> arguments;
  int domain = -1;  // runs where rows[domain] is from `least` to `most`
  uint32_t least = 0, most = 0xffffffffu;
};

struct TensorPlace {
  int domain;
  size_t width, offset;  // numbers of 4 bytes; tensor t of n rows begins at domain's start + offset * n
};

/// Bytes of a weight that is kept on the host, brought to the device beside the launches before those that need them.
struct Prefetch {
  int from, to;  // buffers: of the host, and of the device
  size_t from_offset, to_offset, bytes;
  size_t ready;  // the first launch that reads them
  size_t last;   // and the last: a step in which none of them runs does without
  int after;     // the last launch that reads what they replace; -1: nothing
};

/// Rows of a tensor, or of each row the `largest` numbers: all values, after them all places.
struct Read {
  int tensor;
  void* to;
  size_t bytes;
  uint32_t largest = 0;
};

/// Fills in an argument list. Throws DeviceError for one that does not fit the kernel.
void check_arguments(const Launch& launch, size_t buffers, size_t tensors);

/// Bytes of a step: its tensors, what it brings, and how much of both stays when it is over.
struct StepRoom {
  size_t arena, step, kept;
};
StepRoom step_room(const std::array<size_t, kDomains>& widths, const RowCounts& rows, size_t step_bytes);

class Plan {
 public:
  explicit Plan(std::shared_ptr<Device> device) : device_(std::move(device)) {}
  ~Plan();

  std::vector<std::shared_ptr<Buffer>> buffers;  // weights and constants
  std::vector<TensorPlace> tensors;
  std::array<size_t, kDomains> widths{};
  std::vector<Launch> launches;
  /// Throws DeviceError for copies whose order cannot be kept. Once, when buffers and launches are there.
  void prefetch(std::vector<Prefetch> list);

  /// Runs a step and waits for its end. Throws DeviceError, also for a tensor read that is shorter than what is asked of it.
  void run(const RowCounts& rows, const void* step, size_t step_bytes, const std::vector<Read>& reads);
  size_t scratch_bytes() const;
  /// Gives back the room of a long step.
  void trim();
  /// Steps that were recorded once and played again.
  uint64_t replays() const { return replays_; }

 private:
  CUdeviceptr tensor_at(const RowCounts& rows, int tensor) const;
  void enqueue(const RowCounts& rows) const;
  void enqueue_step(const RowCounts& rows, const void* step, size_t step_bytes, const std::vector<Read>& reads);
  std::vector<bool> wanted(const RowCounts& rows) const;
  void enqueue_copies(size_t launch, bool before, const std::vector<bool>& wanted) const;
  void send(size_t k) const;
  void forget_graphs();
  void make_room(const RowCounts& rows, size_t step_bytes);
  CUdeviceptr enqueue_largest(const RowCounts& rows, const Read& read, CUdeviceptr scratch) const;

  std::shared_ptr<Device> device_;
  std::unique_ptr<Buffer> arena_, step_, chosen_;
  std::map<RowCounts, uint32_t> seen_;
  std::map<RowCounts, CUgraphExec> graphs_;
  uint64_t replays_ = 0;
  std::vector<Prefetch> prefetches_;
  CUevent begun_ = nullptr;
  std::vector<CUevent> brought_, freed_;  // of each copy: it is there; it may begin
};

/// How the largest numbers of rows are found: parts of a row that are looked at by themselves, and bytes of room for what is found on the way.
struct LargestShape {
  uint32_t part, parts;
  size_t bytes;
};
LargestShape largest_shape(size_t width, size_t rows, uint32_t count);

/// Enqueues a launch whose only buffer is at `room`.
void launch_in_room(const Device& device, CUstream stream, const Launch& launch, CUdeviceptr room, CUdeviceptr beside);

/// Enqueues one launch outside of a plan.
void launch_once(const Device& device, const Launch& launch, const std::vector<std::shared_ptr<Buffer>>& buffers, const RowCounts& rows);

}  // namespace lowbit
