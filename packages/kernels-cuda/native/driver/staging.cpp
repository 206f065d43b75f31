#include "staging.h"

#include <algorithm>
#include <cstring>

#include "device.h"

namespace lowbit {
namespace {

constexpr size_t kPiece = size_t{4} << 20;

}  // namespace

bool Staging::make(const Driver& driver) {
  if (slots_[0].at != nullptr || refused_) return !refused_;
  for (Slot& slot : slots_) {
    refused_ = driver.cuMemHostAlloc(&slot.at, kPiece, 0) != CUDA_SUCCESS || driver.cuEventCreate(&slot.sent, CU_EVENT_DISABLE_TIMING) != CUDA_SUCCESS;
    if (refused_) break;
  }
  if (refused_) free(driver);
  return !refused_;
}

void Staging::free(const Driver& driver) {
  for (Slot& slot : slots_) {
    if (slot.sent != nullptr) driver.cuEventDestroy(slot.sent);
    if (slot.at != nullptr) driver.cuMemFreeHost(slot.at);
    slot = {};
  }
}

void Staging::send(const Device& device, CUdeviceptr to, const void* from, size_t bytes) {
  const std::lock_guard<std::mutex> mine(mutex_);
  const Driver& driver = device.driver();
  device.enter();
  const bool pinned = make(driver);
  const char* source = static_cast<const char*>(from);
  for (size_t done = 0; done < bytes; done += kPiece) {
    const size_t count = std::min(kPiece, bytes - done);
    const void* piece = source + done;
    const Slot& slot = slots_[next_];
    if (pinned) {
      // What it held before is there. An event that was never recorded is no wait.
      driver.check(driver.cuEventSynchronize(slot.sent), "a copy to the device");
      std::memcpy(slot.at, piece, count);
      piece = slot.at;
      next_ = (next_ + 1) % slots_.size();
    }
    const std::lock_guard<std::mutex> lock(device.queue());
    driver.check(driver.cuMemcpyHtoDAsync(to + done, piece, count, device.stream()), "a copy to the device");
    if (!pinned) continue;
    const CUresult recorded = driver.cuEventRecord(slot.sent, device.stream());
    if (recorded != CUDA_SUCCESS) driver.cuStreamSynchronize(device.stream());  // nobody could wait for it later
    driver.check(recorded, "a copy to the device");
  }
}

}  // namespace lowbit
