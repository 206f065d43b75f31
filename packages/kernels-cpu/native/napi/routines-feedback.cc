// The routines of feedback and of second moments, which packages/models names: each checks its arrays on the thread of JavaScript and works on another. src/binding.ts has the types.
#include <napi.h>

#include "arguments.h"
#include "jobs.h"
#include "routines-feedback.h"

namespace lowbit {
namespace {

/// Numbers in arrays that JavaScript can make: no product of two of them runs over.
size_t extent_of(const Napi::Value& value) {
  const size_t extent = size_of(value);
  check(value.Env(), extent <= size_t{1} << 31, "a size is out of range");
  return extent;
}

/// rows, channels, from, size
ChannelGroup channel_group(const Napi::CallbackInfo& info, size_t at) {
  const ChannelGroup group{extent_of(info[at]), extent_of(info[at + 1]), extent_of(info[at + 2]), extent_of(info[at + 3])};
  check(info.Env(), group.size > 0 && group.from <= group.channels && group.size <= group.channels - group.from, "the group is not in a row");
  return group;
}

/// feedbackFactor(machine, matrix, n, coupling, cost)
Napi::Value factor(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const std::shared_ptr<Machine> machine = state(info).machines.shared(info[0]);
    const size_t n = extent_of(info[2]);
    const float* matrix = elements<float, Napi::Float32Array>(info[1], n * n);
    float* coupling = elements<float, Napi::Float32Array>(info[3], n * n);
    double* cost = elements<double, Napi::Float64Array>(info[4], n);
    return run_job(info.Env(), "lowbit feedback.factor", {info[1], info[3], info[4]},
                   [=] { feedback_factor(*machine->kernels, *machine->pool, matrix, n, coupling, cost); });
  });
}

/// feedbackTargets(machine, rows, channels, from, size, weights, errors, coupling, targets)
Napi::Value targets(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const std::shared_ptr<Machine> machine = state(info).machines.shared(info[0]);
    const ChannelGroup group = channel_group(info, 1);
    const float* weights = elements<float, Napi::Float32Array>(info[5], group.rows * group.channels);
    const float* errors = elements<float, Napi::Float32Array>(info[6], group.rows * group.channels);
    const float* coupling = elements<float, Napi::Float32Array>(info[7], group.channels * group.channels);
    float* into = elements<float, Napi::Float32Array>(info[8], group.rows * group.size);
    return run_job(info.Env(), "lowbit feedback.targets", {info[5], info[6], info[7], info[8]},
                   [=] { feedback_targets(*machine->kernels, *machine->pool, weights, errors, coupling, group, into); });
  });
}

/// feedbackCodes(machine, rows, channels, from, size, levels, targets, weights, scale, zero, coupling, codes, errors)
Napi::Value codes(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const std::shared_ptr<Machine> machine = state(info).machines.shared(info[0]);
    const ChannelGroup group = channel_group(info, 1);
    const size_t levels = size_of(info[5]);
    check(info.Env(), levels >= 2 && levels <= 256, "2 to 256 levels");
    const float* aims = elements<float, Napi::Float32Array>(info[6], group.rows * group.size);
    const float* weights = elements<float, Napi::Float32Array>(info[7], group.rows * group.channels);
    const float* scale = elements<float, Napi::Float32Array>(info[8], group.rows);
    const float* zero = elements<float, Napi::Float32Array>(info[9], group.rows);
    const float* coupling = elements<float, Napi::Float32Array>(info[10], group.channels * group.channels);
    uint8_t* found = elements<uint8_t, Napi::Uint8Array>(info[11], group.rows * group.size);
    float* errors = elements<float, Napi::Float32Array>(info[12], group.rows * group.size);
    return run_job(info.Env(), "lowbit feedback.codes", {info[6], info[7], info[8], info[9], info[10], info[11], info[12]}, [=] {
      feedback_codes(*machine->kernels, *machine->pool, aims, weights, scale, zero, coupling, group, static_cast<int>(levels), found, errors);
    });
  });
}

/// momentsSquares(machine, x, rows, width, sums)
Napi::Value squares(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const std::shared_ptr<Machine> machine = state(info).machines.shared(info[0]);
    const size_t rows = extent_of(info[2]), width = extent_of(info[3]);
    const float* x = elements<float, Napi::Float32Array>(info[1], rows * width);
    double* sums = elements<double, Napi::Float64Array>(info[4], width * width);
    return run_job(info.Env(), "lowbit moments.squares", {info[1], info[4]},
                   [=] { moments_squares(*machine->kernels, *machine->pool, x, rows, width, sums); });
  });
}

}  // namespace

void add_feedback_functions(Napi::Env env, Napi::Object exports) {
  exports.Set("feedbackFactor", Napi::Function::New(env, factor));
  exports.Set("feedbackTargets", Napi::Function::New(env, targets));
  exports.Set("feedbackCodes", Napi::Function::New(env, codes));
  exports.Set("momentsSquares", Napi::Function::New(env, squares));
}

}  // namespace lowbit
