#include "lanes.h"

#include <algorithm>
#include <cstring>

#include "plan.h"

namespace lowbit {
namespace {

constexpr size_t kSlice = size_t{1} << 20;
/// Room is taken in multiples of this, and kept for the next work up to that.
constexpr size_t kStep = size_t{1} << 20, kKept = size_t{64} << 20;

}  // namespace

Lanes::Lane& Lanes::take() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    // In turn: the one before may still be taking its results back.
    for (size_t i = 1; i <= kLanes; ++i) {
      Lane& lane = lanes_[(last_ + i) % kLanes];
      if (lane.busy) continue;
      lane.busy = true;
      last_ = (last_ + i) % kLanes;
      return lane;
    }
    freed_.wait(lock);
  }
}

void Lanes::give(Lane& lane) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    lane.busy = false;
  }
  freed_.notify_one();
}

void Lanes::make(const Device& device, Lane& lane) {
  if (lane.made) return;
  const Driver& driver = device.driver();
  const std::lock_guard<std::mutex> lock(device.queue());
  driver.check(driver.cuStreamCreate(&lane.stream, CU_STREAM_NON_BLOCKING), "no stream can be made");
  lane.made = true;
  lane.pinned = true;
  for (Slice& slice : lane.slices) {
    driver.check(driver.cuEventCreate(&slice.done, CU_EVENT_DISABLE_TIMING), "no event can be made");
    // Without such memory copies are slower, and as right.
    if (lane.pinned && driver.cuMemHostAlloc(&slice.at, kSlice, 0) != CUDA_SUCCESS) {
      slice.at = nullptr;
      lane.pinned = false;
    }
  }
}

void Lanes::make_room(const Device& device, Lane& lane, size_t bytes) {
  if (lane.bytes >= bytes) return;
  const Driver& driver = device.driver();
  const size_t wanted = (bytes + kStep - 1) / kStep * kStep;
  CUdeviceptr room = 0;
  size_t had = 0;
  CUresult made = CUDA_SUCCESS;
  {
    const std::lock_guard<std::mutex> mine(mutex_);
    const std::lock_guard<std::mutex> lock(device.queue());
    drop_room(driver, lane);
    made = driver.cuMemAlloc(&room, wanted);
    if (made == CUDA_ERROR_OUT_OF_MEMORY) {
      for (Lane& other : lanes_) {
        if (other.busy || other.bytes == 0) continue;
        had += other.bytes;
        drop_room(driver, other);
      }
      if (had > 0) made = driver.cuMemAlloc(&room, wanted);
    }
    if (made == CUDA_SUCCESS) {
      lane.room = room;
      lane.bytes = wanted;
    }
  }
  driver.check(made, "no room for " + std::to_string(bytes) + " bytes on the device");
}

void Lanes::settle(const Driver& driver, Slice& slice) {
  // An event that was never recorded is no wait.
  driver.check(driver.cuEventSynchronize(slice.done), "a copy to or from the device");
  if (slice.to != nullptr) std::memcpy(slice.to, slice.at, slice.bytes);
  slice.to = nullptr;
}

Lanes::Slice& Lanes::slice(const Driver& driver, Lane& lane) {
  Slice& slice = lane.slices[lane.next];
  lane.next = (lane.next + 1) % lane.slices.size();
  settle(driver, slice);
  return slice;
}

void Lanes::up(const Device& device, Lane& lane, const Work::Upload& upload, CUdeviceptr to) {
  const Driver& driver = device.driver();
  const char* from = static_cast<const char*>(upload.from);
  for (size_t done = 0; done < upload.bytes; done += kSlice) {
    const size_t count = std::min(kSlice, upload.bytes - done);
    Slice* slice = lane.pinned ? &this->slice(driver, lane) : nullptr;
    if (slice != nullptr) std::memcpy(slice->at, from + done, count);
    const std::lock_guard<std::mutex> lock(device.queue());
    const void* source = slice != nullptr ? slice->at : from + done;
    driver.check(driver.cuMemcpyHtoDAsync(to + upload.to + done, source, count, lane.stream), "a copy to the device");
    if (slice != nullptr) driver.check(driver.cuEventRecord(slice->done, lane.stream), "a copy to the device");
  }
}

void Lanes::down(const Device& device, Lane& lane, const Work::Download& download) {
  const Driver& driver = device.driver();
  char* to = static_cast<char*>(download.to);
  for (size_t done = 0; done < download.bytes; done += kSlice) {
    const size_t count = std::min(kSlice, download.bytes - done);
    Slice* slice = lane.pinned ? &this->slice(driver, lane) : nullptr;
    const std::lock_guard<std::mutex> lock(device.queue());
    void* target = slice != nullptr ? slice->at : to + done;
    driver.check(driver.cuMemcpyDtoHAsync(target, lane.room + download.from + done, count, lane.stream), "a copy from the device");
    if (slice == nullptr) continue;
    driver.check(driver.cuEventRecord(slice->done, lane.stream), "a copy from the device");
    slice->to = to + done;
    slice->bytes = count;
  }
}

void Lanes::run(const Device& device, const Work& work) {
  const Driver& driver = device.driver();
  device.enter();
  Lane& lane = take();
  try {
    make(device, lane);
    make_room(device, lane, work.bytes);
    const CUdeviceptr beside = work.beside ? work.beside->at() : 0;
    for (const Work::Upload& upload : work.uploads) up(device, lane, upload, upload.beside ? beside : lane.room);
    {
      const std::lock_guard<std::mutex> lock(device.queue());
      for (const Launch& launch : work.launches) launch_in_room(device, lane.stream, launch, lane.room, beside);
    }
    for (const Work::Download& download : work.downloads) down(device, lane, download);
    if (lane.pinned) {
      for (Slice& slice : lane.slices) settle(driver, slice);
    }
    // Also where nothing comes back: the room is the next work's.
    {
      const std::lock_guard<std::mutex> lock(device.queue());
      driver.check(driver.cuEventRecord(lane.slices[0].done, lane.stream), "what was enqueued");
    }
    driver.check(driver.cuEventSynchronize(lane.slices[0].done), "what was enqueued failed");
  } catch (...) {
    const std::lock_guard<std::mutex> mine(mutex_);
    const std::lock_guard<std::mutex> lock(device.queue());  // not while another thread records
    // Nobody may read or write the caller's arrays any more, whatever failed.
    if (lane.stream != nullptr) driver.cuStreamSynchronize(lane.stream);
    for (Slice& slice : lane.slices) slice.to = nullptr;
    drop(driver, lane);
    lane.busy = false;
    freed_.notify_one();
    throw;
  }
  if (lane.bytes > kKept) {
    const std::lock_guard<std::mutex> mine(mutex_);
    const std::lock_guard<std::mutex> lock(device.queue());
    drop_room(driver, lane);
  }
  give(lane);
}

void Lanes::held(size_t& room, size_t& pinned) const {
  const std::lock_guard<std::mutex> mine(mutex_);
  room = pinned = 0;
  for (const Lane& lane : lanes_) {
    room += lane.bytes;
    for (const Slice& slice : lane.slices) pinned += slice.at != nullptr ? kSlice : 0;
  }
}

void Lanes::drop_room(const Driver& driver, Lane& lane) {
  if (lane.bytes > 0) driver.cuMemFree(lane.room);
  lane.room = 0;
  lane.bytes = 0;
}

void Lanes::drop(const Driver& driver, Lane& lane) {
  drop_room(driver, lane);
  for (Slice& slice : lane.slices) {
    if (slice.done != nullptr) driver.cuEventDestroy(slice.done);
    if (slice.at != nullptr) driver.cuMemFreeHost(slice.at);
    slice = {};
  }
  if (lane.stream != nullptr) driver.cuStreamDestroy(lane.stream);
  lane.stream = nullptr;
  lane.made = lane.pinned = false;
  lane.next = 0;
}

void Lanes::trim(const Device& device) {
  const std::lock_guard<std::mutex> mine(mutex_);
  for (Lane& lane : lanes_) {
    if (lane.busy || !lane.made) continue;
    // Of a device that was lost nothing can be given back.
    if (!device.try_enter()) return;
    const std::lock_guard<std::mutex> lock(device.queue());
    drop(device.driver(), lane);
  }
}

void Lanes::free(const Driver& driver) {
  for (Lane& lane : lanes_) drop(driver, lane);
}

}  // namespace lowbit
