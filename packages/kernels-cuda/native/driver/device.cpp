#include "device.h"

#include <cstring>

namespace lowbit {
namespace {

constexpr int kLeastCapability = 80;
/// Bytes that a block can ask for on every GPU of that capability and later.
constexpr int kMostShared = 99 << 10;

struct Listed {
  const char* name;
  const char* parameters;
};
constexpr Listed kKernels[] = {
#define KERNEL(name, parameters) {#name, parameters},
#include "../kernels/kernels.def"
#undef KERNEL
};

std::string version_text(int version) { return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10); }

/// A device that the kernels run on. Throws DeviceError.
CUdevice chosen(const Driver& driver, int ordinal, DeviceFacts& facts) {
  facts.driver = driver.path;
  facts.version = driver.version;
  int count = 0;
  driver.check(driver.cuDeviceGetCount(&count), "devices cannot be counted");
  if (count == 0) throw DeviceError("NO_DEVICE", "the driver sees no GPU");
  if (ordinal >= count) throw DeviceError("NO_DEVICE", "there is no device " + std::to_string(ordinal) + ": the driver sees " + std::to_string(count));
  CUdevice device = 0;
  driver.check(driver.cuDeviceGet(&device, ordinal), "device " + std::to_string(ordinal));
  char name[256] = {};
  driver.check(driver.cuDeviceGetName(name, sizeof name - 1, device), "the device has no name");
  facts.name = name;
  int major = 0, minor = 0;
  driver.check(driver.cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device), "the device tells nothing of itself");
  driver.check(driver.cuDeviceGetAttribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device), "the device tells nothing of itself");
  driver.check(driver.cuDeviceGetAttribute(&facts.multiprocessors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device),
               "the device tells nothing of itself");
  facts.capability = 10 * major + minor;
  driver.check(driver.cuDeviceTotalMem(&facts.total, device), "the device does not tell its memory");
  // Cubins of a toolkit run on drivers of its major version and later.
  if (const int least = kImage.bytes > 0 ? kImage.version / 1000 * 1000 : 11000; driver.version < least)
    throw DeviceError("DRIVER_TOO_OLD", "the driver is of CUDA " + version_text(driver.version) + ", the kernels need " + version_text(least) + " or later");
  if (facts.capability < kLeastCapability)
    throw DeviceError("DEVICE_TOO_OLD", facts.name + " has compute capability " + std::to_string(major) + "." + std::to_string(minor) +
                                            ", the kernels need 8.0 or later");
  return device;
}

/// A primary context, given back at the end.
class Retained {
 public:
  Retained(const Driver& driver, CUdevice device) : driver_(driver), device_(device) {
    driver_.check(driver_.cuDevicePrimaryCtxRetain(&context, device_), "no context can be made");
  }
  ~Retained() {
    if (context == nullptr) return;
    driver_.cuCtxSetCurrent(nullptr);
    driver_.cuDevicePrimaryCtxRelease(device_);
  }
  Retained(const Retained&) = delete;
  CUcontext release() {
    CUcontext mine = context;
    context = nullptr;
    return mine;
  }
  CUcontext context = nullptr;

 private:
  const Driver& driver_;
  CUdevice device_;
};

/// Throws DeviceError.
CUmodule load_kernels(const Driver& driver) {
  CUmodule module = nullptr;
  const CUresult loaded = driver.cuModuleLoadData(&module, kImage.data);
  if (loaded != CUDA_SUCCESS && kImage.bytes == 0) throw DeviceError("NO_KERNELS", "this addon was built without nvcc and has no kernels");
  driver.check(loaded, "the kernels cannot be loaded");
  return module;
}

}  // namespace

DeviceFacts Device::probe(const std::string& path, int ordinal) {
  const auto driver = load_driver(path);
  DeviceFacts facts;
  const CUdevice device = chosen(*driver, ordinal, facts);
  const Retained context(*driver, device);
  driver->check(driver->cuCtxSetCurrent(context.context), "the context cannot be used");
  driver->check(driver->cuMemGetInfo(&facts.free, &facts.total), "the device does not tell its memory");
  if (kImage.bytes == 0) driver->cuModuleUnload(load_kernels(*driver));
  return facts;
}

Device::Device(const std::string& path, int ordinal) : driver_(load_driver(path)) {
  device_ = chosen(*driver_, ordinal, facts_);
  Retained context(*driver_, device_);
  driver_->check(driver_->cuCtxSetCurrent(context.context), "the context cannot be used");
  driver_->check(driver_->cuMemGetInfo(&facts_.free, &facts_.total), "the device does not tell its memory");
  module_ = load_kernels(*driver_);
  try {
    for (const Listed& listed : kKernels) {
      Function& function = functions_[listed.name];
      function.parameters = listed.parameters;
      driver_->check(driver_->cuModuleGetFunction(&function.handle, module_, listed.name), std::string("kernel ") + listed.name);
      // What blocks have without asking is too little for tiles; more than a launch takes is not taken.
      if (std::strncmp(listed.name, "gemm_", 5) == 0) {
        driver_->check(driver_->cuFuncSetAttribute(function.handle, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, kMostShared),
                       std::string("shared memory of kernel ") + listed.name);
      }
    }
    driver_->check(driver_->cuStreamCreate(&stream_, CU_STREAM_NON_BLOCKING), "no stream can be made");
    driver_->check(driver_->cuStreamCreate(&copies_, CU_STREAM_NON_BLOCKING), "no stream can be made");
  } catch (...) {
    if (stream_ != nullptr) driver_->cuStreamDestroy(stream_);
    driver_->cuModuleUnload(module_);
    throw;
  }
  context_ = context.release();
}

Device::~Device() {
  driver_->cuCtxSetCurrent(context_);
  driver_->cuStreamSynchronize(stream_);
  driver_->cuStreamSynchronize(copies_);
  staging_.free(*driver_);
  lanes_.free(*driver_);
  driver_->cuStreamDestroy(copies_);
  driver_->cuStreamDestroy(stream_);
  driver_->cuModuleUnload(module_);
  driver_->cuCtxSetCurrent(nullptr);
  driver_->cuDevicePrimaryCtxRelease(device_);
}

const Function& Device::function(const std::string& name) const {
  const auto found = functions_.find(name);
  if (found == functions_.end()) throw DeviceError("BAD_ARGUMENT", "there is no kernel " + name);
  return found->second;
}

void Device::enter() const { driver_->check(driver_->cuCtxSetCurrent(context_), "the context cannot be used"); }

bool Device::try_enter() const { return driver_->cuCtxSetCurrent(context_) == CUDA_SUCCESS; }

void Device::memory(size_t& free, size_t& total) const {
  enter();
  driver_->check(driver_->cuMemGetInfo(&free, &total), "the device does not tell its memory");
}

void Device::wait() const {
  enter();
  driver_->check(driver_->cuStreamSynchronize(stream_), "what was enqueued failed");
}

Buffer::Buffer(std::shared_ptr<Device> device, size_t bytes, bool on_host) : device_(std::move(device)), bytes_(bytes) {
  if (bytes == 0) return;
  device_->enter();
  const std::lock_guard<std::mutex> lock(device_->queue());
  const Driver& driver = device_->driver();
  const std::string what = "no room for " + std::to_string(bytes) + " bytes";
  if (!on_host) {
    const CUresult made = driver.cuMemAlloc(&at_, bytes);
    size_t free = 0, total = 0;
    const bool told = made == CUDA_ERROR_OUT_OF_MEMORY && driver.cuMemGetInfo(&free, &total) == CUDA_SUCCESS;
    driver.check(made, what + " on the device" + (told ? ", " + std::to_string(free) + " of " + std::to_string(total) + " are free" : ""));
    return;
  }
  driver.check(driver.cuMemHostAlloc(&host_, bytes, CU_MEMHOSTALLOC_DEVICEMAP), what + " in memory that the device reads");
  const CUresult mapped = driver.cuMemHostGetDevicePointer(&at_, host_, 0);
  if (mapped != CUDA_SUCCESS) driver.cuMemFreeHost(host_);
  driver.check(mapped, "the device cannot read memory of the host");
}

Buffer::~Buffer() {
  if (bytes_ == 0) return;
  // Of a device that was lost nothing can be given back; the process ends with it.
  const Driver& driver = device_->driver();
  if (!device_->try_enter()) return;
  const std::lock_guard<std::mutex> lock(device_->queue());
  if (host_ != nullptr) driver.cuMemFreeHost(host_);
  else driver.cuMemFree(at_);
}

void Buffer::check(size_t at, size_t bytes) const {
  if (at > bytes_ || bytes > bytes_ - at) throw DeviceError("BAD_ARGUMENT", "bytes outside of a buffer");
}

void Buffer::write(size_t to, const void* from, size_t bytes) const {
  check(to, bytes);
  if (bytes == 0) return;
  if (host_ != nullptr) {
    std::memcpy(static_cast<char*>(host_) + to, from, bytes);
    return;
  }
  device_->enter();
  const std::lock_guard<std::mutex> lock(device_->queue());
  device_->driver().check(device_->driver().cuMemcpyHtoDAsync(at_ + to, from, bytes, device_->stream()), "a copy to the device");
}

void Buffer::upload(size_t to, const void* from, size_t bytes) const {
  check(to, bytes);
  if (host_ != nullptr) std::memcpy(static_cast<char*>(host_) + to, from, bytes);
  else if (bytes > 0) device_->staging().send(*device_, at_ + to, from, bytes);
}

void Buffer::copy(size_t to, const Buffer& from, size_t at, size_t bytes) const {
  check(to, bytes);
  from.check(at, bytes);
  if (bytes == 0) return;
  device_->enter();
  const std::lock_guard<std::mutex> lock(device_->queue());
  device_->driver().check(device_->driver().cuMemcpyDtoDAsync(at_ + to, from.at_ + at, bytes, device_->stream()), "a copy on the device");
}

void Buffer::read(size_t from, void* to, size_t bytes) const {
  check(from, bytes);
  if (bytes == 0) return;
  device_->enter();
  {
    const std::lock_guard<std::mutex> lock(device_->queue());
    device_->driver().check(device_->driver().cuMemcpyDtoHAsync(to, at_ + from, bytes, device_->stream()), "a copy from the device");
  }
  device_->wait();
}

}  // namespace lowbit
