#include "plan.h"

#include <algorithm>
#include <cstring>

namespace lowbit {
namespace {

/// Recordings that are kept: a few batch sizes of decoding.
constexpr size_t kMostGraphs = 16;
constexpr size_t kMostSeen = 64;
/// Room that is kept between steps.
constexpr size_t kKept = size_t{64} << 20;
constexpr size_t kStart = 256;  // where the tensors of a domain begin is a multiple

uint64_t extent(const Extent& one, const RowCounts& rows) {
  if (one.domain < 0) return one.times;
  return (uint64_t{rows[static_cast<size_t>(one.domain)]} * one.times + one.per - 1) / one.per;
}

bool runs_for(const Launch& launch, const RowCounts& rows) {
  if (launch.domain >= 0) {
    const uint32_t count = rows[static_cast<size_t>(launch.domain)];
    if (count < launch.least || count > launch.most) return false;
  }
  return std::all_of(std::begin(launch.grid), std::end(launch.grid), [&](const Extent& one) { return extent(one, rows) > 0; });
}

template <class T>
uint64_t bits_of(T value) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}

void launch_values(const Device& device, CUstream stream, const Function& function, const std::string& name, const std::array<unsigned, 3>& grid, unsigned block,
                   unsigned shared_bytes, std::vector<uint64_t>& values) {
  std::vector<void*> pointers;
  for (uint64_t& value : values) pointers.push_back(&value);
  device.driver().check(device.driver().cuLaunchKernel(function.handle, grid[0], grid[1], grid[2], block, 1, 1, shared_bytes, stream,
                                                       pointers.data(), nullptr),
                        "kernel " + name);
}

/// The launch with these addresses; false where there is nothing to do.
template <class BufferAt, class TensorAt>
bool enqueue_one(const Device& device, CUstream stream, const Launch& launch, BufferAt&& buffer_at, const RowCounts& rows, CUdeviceptr step,
                 TensorAt&& tensor_at) {
  if (!runs_for(launch, rows)) return false;
  uint64_t grid[3];
  for (int i = 0; i < 3; ++i) {
    grid[i] = extent(launch.grid[i], rows);
    if (grid[i] > (i == 0 ? 0x7fffffffu : 65535u)) throw DeviceError("BAD_ARGUMENT", "kernel " + launch.name + ": too many rows at once");
  }
  std::vector<uint64_t> values;
  for (const Argument& argument : launch.arguments) {
    switch (argument.kind) {
      case Argument::integer: values.push_back(bits_of(static_cast<int>(argument.number))); break;
      case Argument::real: values.push_back(bits_of(static_cast<float>(argument.number))); break;
      case Argument::buffer: values.push_back(buffer_at(argument.index) + static_cast<uint64_t>(argument.number)); break;
      case Argument::tensor: values.push_back(tensor_at(argument.index)); break;
      case Argument::step: values.push_back(step); break;
      case Argument::rows: values.push_back(rows[static_cast<size_t>(argument.index)]); break;
      case Argument::nothing: values.push_back(0); break;
    }
  }
  const auto size = [&](int i) { return static_cast<unsigned>(grid[i]); };
  launch_values(device, stream, *launch.function, launch.name, {size(0), size(1), size(2)}, launch.block, launch.shared_bytes, values);
  return true;
}

}  // namespace

void check_arguments(const Launch& launch, size_t buffers, size_t tensors) {
  const std::string wanted = launch.function->parameters;
  const auto bad = [&](const std::string& why) { throw DeviceError("BAD_ARGUMENT", "kernel " + launch.name + ": " + why); };
  if (wanted.size() != launch.arguments.size()) bad(std::to_string(launch.arguments.size()) + " arguments");
  for (size_t i = 0; i < wanted.size(); ++i) {
    const Argument& argument = launch.arguments[i];
    const auto below = [&](size_t count) { return argument.index >= 0 && static_cast<size_t>(argument.index) < count; };
    char kind = 'p';
    switch (argument.kind) {
      case Argument::integer:
        kind = 'i';
        if (!(argument.number >= -2147483648.0 && argument.number <= 2147483647.0)) bad("a number is out of range");
        break;
      case Argument::real: kind = 'f'; break;
      case Argument::rows:
        kind = 'i';
        if (!below(kDomains)) bad("no such rows");
        break;
      case Argument::buffer:
        if (!below(buffers)) bad("no such buffer");
        break;
      case Argument::tensor:
        if (!below(tensors)) bad("no such tensor");
        break;
      default: break;
    }
    if (wanted[i] != kind) bad("argument " + std::to_string(i) + " is of another kind");
  }
  for (const Extent& one : launch.grid) {
    if (one.domain >= kDomains || one.per == 0) bad("a grid that cannot be");
  }
  if (launch.domain >= kDomains) bad("no such rows");
}

void launch_once(const Device& device, const Launch& launch, const std::vector<std::shared_ptr<Buffer>>& buffers, const RowCounts& rows) {
  device.enter();
  const std::lock_guard<std::mutex> lock(device.queue());
  const auto buffer_at = [&](int index) { return buffers[static_cast<size_t>(index)]->at(); };
  enqueue_one(device, device.stream(), launch, buffer_at, rows, 0, [](int) { return CUdeviceptr{0}; });
}

void launch_in_room(const Device& device, CUstream stream, const Launch& launch, CUdeviceptr room, CUdeviceptr beside) {
  enqueue_one(device, stream, launch, [=](int buffer) { return buffer == 0 ? room : beside; }, {}, 0, [](int) { return CUdeviceptr{0}; });
}

Plan::~Plan() {
  forget_graphs();
  if (begun_ == nullptr || !device_->try_enter()) return;
  device_->driver().cuEventDestroy(begun_);
  for (const auto& list : {brought_, freed_}) {
    for (CUevent event : list) device_->driver().cuEventDestroy(event);
  }
}

void Plan::prefetch(std::vector<Prefetch> list) {
  if (list.empty()) return;
  const auto bad = [](const char* why) { throw DeviceError("BAD_ARGUMENT", std::string("a weight that is brought: ") + why); };
  const auto in = [&](int index) -> const Buffer& {
    if (index < 0 || static_cast<size_t>(index) >= buffers.size()) bad("no such buffer");
    return *buffers[static_cast<size_t>(index)];
  };
  const auto within = [](const Buffer& buffer, size_t at, size_t bytes) { return at <= buffer.bytes() && bytes <= buffer.bytes() - at; };
  for (size_t k = 0; k < list.size(); ++k) {
    const Prefetch& one = list[k];
    if (!in(one.from).on_host() || in(one.to).on_host()) bad("it goes from the host to the device");
    if (!within(in(one.from), one.from_offset, one.bytes) || !within(in(one.to), one.to_offset, one.bytes)) bad("bytes outside of a buffer");
    if (one.ready > one.last || one.last >= launches.size() || one.after < -1 || one.after >= static_cast<int>(one.ready)) bad("a launch that cannot be");
    // Copies run one after another: none may wait for a launch that waits for one behind it.
    if (k > 0 && (one.ready < list[k - 1].ready || one.after < list[k - 1].after)) bad("it is out of order");
  }
  device_->enter();
  const Driver& driver = device_->driver();
  const auto make = [&](CUevent& event) { driver.check(driver.cuEventCreate(&event, CU_EVENT_DISABLE_TIMING), "no event can be made"); };
  make(begun_);
  for (size_t k = 0; k < list.size(); ++k) {
    brought_.push_back(nullptr);
    freed_.push_back(nullptr);
    make(brought_.back());
    make(freed_.back());
  }
  prefetches_ = std::move(list);
}

/// Of each weight that is brought, whether anything of the step reads it: a step that asks for no outputs has no use for the largest.
std::vector<bool> Plan::wanted(const RowCounts& rows) const {
  std::vector<bool> all;
  for (const Prefetch& one : prefetches_) {
    const auto from = launches.begin() + static_cast<std::ptrdiff_t>(one.ready), to = launches.begin() + static_cast<std::ptrdiff_t>(one.last) + 1;
    all.push_back(std::any_of(from, to, [&](const Launch& launch) { return runs_for(launch, rows); }));
  }
  return all;
}

/// Before a launch: it waits for what it needs. After it: copies into what it was the last to read may begin.
void Plan::enqueue_copies(size_t launch, bool before, const std::vector<bool>& wanted) const {
  const Driver& driver = device_->driver();
  const char* const what = "a weight that is brought";
  for (size_t k = 0; k < prefetches_.size(); ++k) {
    if (!wanted[k]) continue;
    const Prefetch& one = prefetches_[k];
    if (before && one.ready == launch) driver.check(driver.cuStreamWaitEvent(device_->stream(), brought_[k], 0), what);
    if (before || one.after != static_cast<int>(launch)) continue;
    driver.check(driver.cuEventRecord(freed_[k], device_->stream()), what);
    driver.check(driver.cuStreamWaitEvent(device_->copies(), freed_[k], 0), what);
    send(k);
  }
}

void Plan::send(size_t k) const {
  const Driver& driver = device_->driver();
  const Prefetch& one = prefetches_[k];
  const char* const from = static_cast<const char*>(buffers[static_cast<size_t>(one.from)]->host()) + one.from_offset;
  const CUdeviceptr to = buffers[static_cast<size_t>(one.to)]->at() + one.to_offset;
  driver.check(driver.cuMemcpyHtoDAsync(to, from, one.bytes, device_->copies()), "a weight that is brought");
  driver.check(driver.cuEventRecord(brought_[k], device_->copies()), "a weight that is brought");
}

namespace {

size_t domain_bytes(size_t width, uint32_t rows) { return (width * rows * 4 + kStart - 1) / kStart * kStart; }

size_t kept_of(size_t scratch) { return scratch > kKept ? 0 : scratch; }

}  // namespace

StepRoom step_room(const std::array<size_t, kDomains>& widths, const RowCounts& rows, size_t step_bytes) {
  size_t arena = 0;
  for (size_t i = 0; i < kDomains; ++i) arena += domain_bytes(widths[i], rows[i]);
  if (arena == 0) arena = kStart;
  // With some room for a batch that is a little larger, and its graphs.
  const size_t step = step_bytes + step_bytes / 2;
  return {arena, step, kept_of(arena + step)};
}

void Plan::forget_graphs() {
  if (graphs_.empty() || !device_->try_enter()) return;
  for (const auto& [rows, graph] : graphs_) device_->driver().cuGraphExecDestroy(graph);
  graphs_.clear();
}

size_t Plan::scratch_bytes() const {
  return (arena_ ? arena_->bytes() : 0) + (step_ ? step_->bytes() : 0) + (chosen_ ? chosen_->bytes() : 0);
}

void Plan::trim() {
  if (kept_of(scratch_bytes()) > 0) return;
  forget_graphs();
  arena_.reset();
  step_.reset();
  chosen_.reset();
}

CUdeviceptr Plan::tensor_at(const RowCounts& rows, int tensor) const {
  const TensorPlace& place = tensors[static_cast<size_t>(tensor)];
  size_t at = 0;
  for (int i = 0; i < place.domain; ++i) at += domain_bytes(widths[static_cast<size_t>(i)], rows[static_cast<size_t>(i)]);
  return arena_->at() + at + place.offset * rows[static_cast<size_t>(place.domain)] * 4;
}

void Plan::make_room(const RowCounts& rows, size_t step_bytes) {
  const StepRoom room = step_room(widths, rows, step_bytes);
  const auto grow = [&](std::unique_ptr<Buffer>& buffer, size_t wanted) {
    if (buffer && buffer->bytes() >= wanted) return;
    forget_graphs();
    seen_.clear();
    buffer.reset();  // first, so that both need not fit
    buffer = std::make_unique<Buffer>(device_, wanted);
  };
  grow(arena_, room.arena);
  if (!step_ || step_->bytes() < step_bytes) grow(step_, room.step);
}

void Plan::enqueue(const RowCounts& rows) const {
  const Driver& driver = device_->driver();
  const std::vector<bool> wanted = this->wanted(rows);
  // A stream that brings nothing is left out of what is recorded: nobody would wait for it.
  if (std::find(wanted.begin(), wanted.end(), true) != wanted.end()) {
    // Not before what is enqueued already, which may read the same memory; and as a part of what is being recorded.
    driver.check(driver.cuEventRecord(begun_, device_->stream()), "a weight that is brought");
    driver.check(driver.cuStreamWaitEvent(device_->copies(), begun_, 0), "a weight that is brought");
    for (size_t k = 0; k < prefetches_.size() && prefetches_[k].after < 0; ++k) {
      if (wanted[k]) send(k);
    }
  }
  const auto buffer_at = [&](int index) { return buffers[static_cast<size_t>(index)]->at(); };
  for (size_t i = 0; i < launches.size(); ++i) {
    enqueue_copies(i, true, wanted);
    enqueue_one(*device_, device_->stream(), launches[i], buffer_at, rows, step_->at(), [&](int tensor) { return tensor_at(rows, tensor); });
    enqueue_copies(i, false, wanted);
  }
}

LargestShape largest_shape(size_t width, size_t rows, uint32_t count) {
  constexpr size_t kPart = 2048, kMostParts = 1024;  // as kernels/largest.cuh has room for
  const size_t part = std::max(kPart, (width + kMostParts - 1) / kMostParts), parts = (width + part - 1) / part;
  return {static_cast<uint32_t>(part), static_cast<uint32_t>(parts), rows * (parts + 1) * count * 8};
}

/// Where the result is, in `scratch`, after what was found on the way.
CUdeviceptr Plan::enqueue_largest(const RowCounts& rows, const Read& read, CUdeviceptr scratch) const {
  const TensorPlace& place = tensors[static_cast<size_t>(read.tensor)];
  const uint32_t count = rows[static_cast<size_t>(place.domain)];
  const LargestShape shape = largest_shape(place.width, count, read.largest);
  const CUdeviceptr out = scratch + size_t{count} * shape.parts * read.largest * 8;
  std::vector<uint64_t> of_parts{tensor_at(rows, read.tensor), place.width, shape.part, read.largest, scratch};
  launch_values(*device_, device_->stream(), device_->function("largest_of_parts"), "largest_of_parts", {shape.parts, count, 1}, 256, 0, of_parts);
  std::vector<uint64_t> of_rows{scratch, shape.parts, shape.part, read.largest, out};
  launch_values(*device_, device_->stream(), device_->function("largest_of_rows"), "largest_of_rows", {count, 1, 1}, 256, 0, of_rows);
  return out;
}

void Plan::run(const RowCounts& rows, const void* step, size_t step_bytes, const std::vector<Read>& reads) {
  device_->enter();
  try {
    enqueue_step(rows, step, step_bytes, reads);
    device_->wait();
  } catch (...) {
    // What was enqueued before it failed writes the caller's arrays, and slots that the next step may bring weights into by another stream.
    const std::lock_guard<std::mutex> lock(device_->queue());
    device_->driver().cuStreamSynchronize(device_->copies());
    device_->driver().cuStreamSynchronize(device_->stream());
    throw;
  }
}

void Plan::enqueue_step(const RowCounts& rows, const void* step, size_t step_bytes, const std::vector<Read>& reads) {
  const Driver& driver = device_->driver();
  make_room(rows, step_bytes);
  const auto rows_of = [&](const Read& read) { return rows[static_cast<size_t>(tensors[static_cast<size_t>(read.tensor)].domain)]; };
  size_t chosen = 0;
  for (const Read& read : reads) {
    const size_t width = tensors[static_cast<size_t>(read.tensor)].width;
    const size_t most = size_t{rows_of(read)} * (read.largest > 0 ? size_t{read.largest} * 8 : width * 4);
    if (read.largest > width || read.bytes > most) throw DeviceError("BAD_ARGUMENT", "a tensor is shorter than that");
    if (read.largest > 0) chosen += largest_shape(width, rows_of(read), read.largest).bytes;
  }
  if (chosen > 0 && (!chosen_ || chosen_->bytes() < chosen)) {
    chosen_.reset();
    chosen_ = std::make_unique<Buffer>(device_, chosen);
  }
  step_->write(0, step, step_bytes);
  const std::lock_guard<std::mutex> lock(device_->queue());
  CUgraphExec graph = nullptr;
  if (const auto known = graphs_.find(rows); known != graphs_.end()) graph = known->second;
  // What comes a second time is worth a recording: decoding does, a prompt of some length does not. Full lists begin anew.
  if (seen_.size() >= kMostSeen) seen_.clear();
  if (graph == nullptr && ++seen_[rows] >= 2) {
    if (graphs_.size() >= kMostGraphs) forget_graphs();
    driver.check(driver.cuStreamBeginCapture(device_->stream(), CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), "a step cannot be recorded");
    CUgraph recorded = nullptr;
    try {
      enqueue(rows);
    } catch (...) {
      driver.cuStreamEndCapture(device_->stream(), &recorded);
      if (recorded != nullptr) driver.cuGraphDestroy(recorded);
      throw;
    }
    driver.check(driver.cuStreamEndCapture(device_->stream(), &recorded), "a step cannot be recorded");
    const CUresult made = driver.cuGraphInstantiateWithFlags(&graph, recorded, 0);
    driver.cuGraphDestroy(recorded);
    driver.check(made, "a recorded step cannot be made ready");
    graphs_[rows] = graph;
  }
  if (graph != nullptr) {
    driver.check(driver.cuGraphLaunch(graph, device_->stream()), "a recorded step");
    ++replays_;
  } else {
    enqueue(rows);
  }
  CUdeviceptr scratch = chosen_ ? chosen_->at() : 0;
  for (const Read& read : reads) {
    if (read.bytes == 0) continue;
    CUdeviceptr from = 0;
    if (read.largest > 0) {
      from = enqueue_largest(rows, read, scratch);
      scratch += largest_shape(tensors[static_cast<size_t>(read.tensor)].width, rows_of(read), read.largest).bytes;
    } else {
      from = tensor_at(rows, read.tensor);
    }
    driver.check(driver.cuMemcpyDtoHAsync(read.to, from, read.bytes, device_->stream()), "a copy from the device");
  }
}

}  // namespace lowbit
