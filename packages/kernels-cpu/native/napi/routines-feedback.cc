// The routines of feedback and of second moments, which packages/models names. src/binding.ts has the types.
#include "routines-feedback.h"

#include "routine-call.h"

namespace lowbit {
namespace {

/// Numbers in arrays that JavaScript can make: no product of two of them runs over.
size_t extent(const RoutineCall& call, size_t at) {
  const size_t extent = call.size(at);
  call.check(extent <= size_t{1} << 31, "a size is out of range");
  return extent;
}

/// rows, channels, from, size
ChannelGroup channel_group(const RoutineCall& call, size_t at) {
  const ChannelGroup group{extent(call, at), extent(call, at + 1), extent(call, at + 2), extent(call, at + 3)};
  call.check(group.size > 0 && group.from <= group.channels && group.size <= group.channels - group.from, "the group is not in a row");
  return group;
}

/// feedbackFactor(machine, matrix, n, coupling, cost)
Napi::Value factor(RoutineCall& call) {
  const size_t n = extent(call, 2);
  const float* matrix = call.array<float>(1, n * n);
  float* coupling = call.array<float>(3, n * n);
  double* cost = call.array<double>(4, n);
  return call.run("lowbit feedback.factor", [=](const Kernels& kernels, Pool& pool) { feedback_factor(kernels, pool, matrix, n, coupling, cost); });
}

/// feedbackTargets(machine, rows, channels, from, size, weights, errors, coupling, targets)
Napi::Value targets(RoutineCall& call) {
  const ChannelGroup group = channel_group(call, 1);
  const float* weights = call.array<float>(5, group.rows * group.channels);
  const float* errors = call.array<float>(6, group.rows * group.channels);
  const float* coupling = call.array<float>(7, group.channels * group.channels);
  float* into = call.array<float>(8, group.rows * group.size);
  return call.run("lowbit feedback.targets",
                  [=](const Kernels& kernels, Pool& pool) { feedback_targets(kernels, pool, weights, errors, coupling, group, into); });
}

/// feedbackCodes(machine, rows, channels, from, size, levels, targets, weights, scale, zero, coupling, codes, errors)
Napi::Value codes(RoutineCall& call) {
  const ChannelGroup group = channel_group(call, 1);
  const int levels = call.levels(5);
  const float* aims = call.array<float>(6, group.rows * group.size);
  const float* weights = call.array<float>(7, group.rows * group.channels);
  const float* scale = call.array<float>(8, group.rows);
  const float* zero = call.array<float>(9, group.rows);
  const float* coupling = call.array<float>(10, group.channels * group.channels);
  uint8_t* found = call.array<uint8_t>(11, group.rows * group.size);
  float* errors = call.array<float>(12, group.rows * group.size);
  return call.run("lowbit feedback.codes", [=](const Kernels& kernels, Pool& pool) {
    feedback_codes(kernels, pool, aims, weights, scale, zero, coupling, group, levels, found, errors);
  });
}

/// feedbackDescend(machine, rows, channels, size, levels, sweeps, scaleDtype, zeroDtype, weights, moments, own, codes, scale, zero, errors)
Napi::Value descend(RoutineCall& call) {
  Descent d{};
  d.rows = extent(call, 1);
  d.channels = extent(call, 2);
  d.size = extent(call, 3);
  call.check(d.size > 0 && d.channels % d.size == 0, "a row is no whole number of groups");
  d.levels = call.levels(4);
  const size_t sweeps = call.size(5);
  call.check(sweeps <= 1000, "too many sweeps");
  d.sweeps = static_cast<int>(sweeps);
  d.scale_dtype = stored_float(call[6]);
  d.zero_dtype = stored_float(call[7]);
  const size_t numbers = d.rows * d.channels;
  d.weights = call.array<float>(8, numbers);
  d.moments = call.array<float>(9, d.channels * d.channels);
  d.own = call.array<float>(10, d.channels);
  d.codes = call.array<uint8_t>(11, numbers);
  d.scale = call.array<float>(12, numbers / d.size);
  d.zero = call.array<float>(13, numbers / d.size);
  d.errors = call.array<float>(14, numbers);
  return call.run("lowbit feedback.descend", [=](const Kernels& kernels, Pool& pool) { feedback_descend(kernels, pool, d); });
}

/// momentsSquares(machine, x, rows, width, sums)
Napi::Value squares(RoutineCall& call) {
  const size_t rows = extent(call, 2), width = extent(call, 3);
  const float* x = call.array<float>(1, rows * width);
  double* sums = call.array<double>(4, width * width);
  return call.run("lowbit moments.squares", [=](const Kernels& kernels, Pool& pool) { moments_squares(kernels, pool, x, rows, width, sums); });
}

}  // namespace

void add_feedback_functions(Napi::Object exports) {
  add_routine<factor>(exports, "feedbackFactor");
  add_routine<targets>(exports, "feedbackTargets");
  add_routine<codes>(exports, "feedbackCodes");
  add_routine<descend>(exports, "feedbackDescend");
  add_routine<squares>(exports, "momentsSquares");
}

}  // namespace lowbit
