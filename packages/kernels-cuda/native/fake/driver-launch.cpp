// Launches of the fake driver: kernels in the emulator.
#include <cstdio>
#include <cstring>

#include "driver.h"

namespace {

using namespace fake;

/// A launch with copies of its arguments.
struct Launch {
  const fake::Kernel* kernel;
  emulator::Launch shape;
  std::vector<uint64_t> values;
  std::string fault;
};

void run_launch(void* data) {
  Launch& launch = *static_cast<Launch*>(data);
  std::vector<void*> arguments;
  for (uint64_t& value : launch.values) arguments.push_back(&value);
  try {
    emulator::run(launch.shape, launch.kernel->call, arguments.data());
  } catch (const emulator::Fault& fault) {
    launch.fault = fault.what();
  }
}

CUresult run_kernel(Launch launch) {
  Driver& d = driver();
  launch.shape.seed = d.settings.seed * 1000003 + ++d.launches;
  if (!d.settings.log.empty()) {
    if (FILE* file = std::fopen(d.settings.log.c_str(), "a")) {
      std::fprintf(file, "%s %u %u %u %u\n", launch.kernel->name, launch.shape.grid.x, launch.shape.grid.y, launch.shape.grid.z, launch.shape.block.x);
      std::fclose(file);
    }
  }
  if (d.settings.wild == launch.kernel->name) {
    for (size_t i = 0; i < launch.values.size(); ++i) {
      if (launch.kernel->parameters[i] == 'p') launch.values[i] = 64;
    }
  }
  if (!fake::guarded(run_launch, &launch)) {
    std::fprintf(stderr, "fake CUDA: kernel %s touched memory that is not its own\n", launch.kernel->name);
    return CUDA_ERROR_ILLEGAL_ADDRESS;
  }
  if (launch.fault.empty()) return CUDA_SUCCESS;
  std::fprintf(stderr, "fake CUDA: kernel %s: %s\n", launch.kernel->name, launch.fault.c_str());
  return CUDA_ERROR_LAUNCH_FAILED;
}

}  // namespace

EXPORT CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                               unsigned block_z, unsigned shared_bytes, CUstream stream, void** parameters, void**) {
  BEGIN(begin("cuLaunchKernel"));
  if (function == nullptr || parameters == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (grid_x == 0 || grid_y == 0 || grid_z == 0 || grid_y > 65535 || grid_z > 65535 || block_x == 0 || block_y == 0 || block_z == 0 ||
      block_x * block_y * block_z > emulator::kMostThreads || shared_bytes > function->most_shared)
    return CUDA_ERROR_INVALID_VALUE;
  Launch launch{function->kernel, {{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes, 0}, {}, {}};
  for (size_t i = 0; function->kernel->parameters[i] != 0; ++i) {
    uint64_t value = 0;
    std::memcpy(&value, parameters[i], fake::parameter_bytes(function->kernel->parameters[i]));
    launch.values.push_back(value);
  }
  return enqueue(stream, [launch] { return run_kernel(launch); });
}
