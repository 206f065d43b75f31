// The routines of @lowbit/hqq. src/binding.ts has the types.
#include "routines-hqq.h"

#include <stdexcept>
#include <vector>

#include "routine-call.h"
#include "routines-hqq-fit.h"

namespace lowbit {
namespace {

/// hqqMinMax(machine, weights, dtype, groups, size, levels, roundZero, smallRange, inverse, zero)
Napi::Value min_max(RoutineCall& call) {
  const TileWeights w = call.tile(1);
  const MinMaxRules rules{call.levels(5), call[6].ToBoolean(), call[7].ToBoolean()};
  float* inverse = call.array<float>(8, w.groups);
  float* zero = call.array<float>(9, w.groups);
  return call.run("lowbit hqq.min-max", [=](const Kernels& kernels, Pool& pool) { hqq_min_max(kernels, pool, w, rules, inverse, zero); });
}

/// hqqProximalSteps(machine, weights, dtype, groups, size, levels, norm, betas, lastBeta, inverse, zero, zeros, settled, sums)
Napi::Value proximal_steps(RoutineCall& call) {
  const TileWeights w = call.tile(1);
  const int levels = call.levels(5);
  const double norm = call.number(6), last_beta = call.number(8);
  call.check(norm > 0 && norm <= 1, "a norm above 0 and at most 1");
  const size_t count = length_of(call[7]);
  call.check(count <= 1000 && count * w.groups <= (size_t{1} << 32), "too many steps");
  const std::vector<double> betas = copied<double>(call[7]);
  const float* inverse = call.array<float>(9, w.groups);
  const float* zero = call.array<float>(10, w.groups);
  float* zeros = call.array<float>(11, count * w.groups);
  uint8_t* settled = call.array<uint8_t>(12, w.groups);
  double* sums = call.array<double>(13, 3 * count);
  return call.run("lowbit hqq.proximal-steps", [=](const Kernels& kernels, Pool& pool) {
    const ProximalSteps steps{levels, norm, betas.data(), betas.size(), last_beta};
    hqq_proximal_steps(kernels, pool, w, steps, inverse, zero, zeros, settled, sums);
  });
}

/// Groups of [from, to), in pairs.
std::vector<size_t> groups_of(const RoutineCall& call, const Napi::Array& runs, const TileWeights& w) {
  std::vector<size_t> groups;
  for (uint32_t i = 0; i + 1 < runs.Length(); i += 2) {
    const size_t from = size_of(runs.Get(i)), to = size_of(runs.Get(i + 1));
    call.check(from <= to && to - from <= w.groups - groups.size() && to <= (size_t{1} << 53) / w.size, "runs do not fit the groups");
    for (size_t group = from; group < to; ++group) groups.push_back(group);
  }
  call.check(groups.size() == w.groups, "runs do not fit the groups");
  return groups;
}

/// hqqLeastSquares(machine, weights, dtype, groups, size, levels, alternations, scale dtype, zero dtype, channels, axis, columns, runs, scale, zero)
Napi::Value least_squares(RoutineCall& call) {
  const TileWeights w = call.tile(1);
  const LeastSquares fit{call.levels(5), call.size(6), stored_float(call[7]), stored_float(call[8])};
  TileChannels channels{nullptr, 0, 1, 0, nullptr};
  std::vector<size_t> groups;
  if (call[9].IsTypedArray()) {
    channels.count = length_of(call[9]);
    channels.values = call.array<double>(9, channels.count);
    channels.axis = static_cast<int>(call.size(10));
    channels.columns = call.size(11);
    call.check(channels.count > 0 && channels.axis <= 1, "unusable channels");
    groups = groups_of(call, call[12].As<Napi::Array>(), w);
  }
  float* scale = call.array<float>(13, w.groups);
  float* zero = call.array<float>(14, w.groups);
  return call.run("lowbit hqq.least-squares", [=, groups = std::move(groups)](const Kernels& kernels, Pool& pool) {
    TileChannels of = channels;
    of.groups = groups.data();
    hqq_least_squares(kernels, pool, w, fit, of, scale, zero);
  });
}

/// hqqFinish(machine, weights, dtype, groups, size, levels, [scale, zero, inverse, solved], packing, words, sums)
Napi::Value finish(RoutineCall& call) {
  const TileWeights w = call.tile(1);
  const int levels = call.levels(5);
  const Napi::Array numbers = call[6].As<Napi::Array>();
  const float* found[4] = {};
  for (uint32_t i = 0; i < 4; ++i) {
    const Napi::Value values = numbers.Get(i);
    if (values.IsTypedArray()) found[i] = elements<float>(values, w.groups);
  }
  call.keep(6);
  const TileGrid grid{found[0], found[1], found[2], found[3]};
  call.check(grid.scale != nullptr && grid.zero != nullptr && (grid.inverse == nullptr) == (grid.solved == nullptr), "no grid");
  const Napi::Object given = call[7].As<Napi::Object>();
  const auto size = [&](const char* name) { return size_of(given.Get(name)); };
  std::vector<size_t> lane_groups;
  const Napi::Array lanes = given.Get("laneGroups").As<Napi::Array>();
  for (uint32_t i = 0; i < lanes.Length(); ++i) lane_groups.push_back(size_of(lanes.Get(i)));
  TilePacking packing{static_cast<int>(size("bits")), static_cast<int>(size("lanes")), static_cast<int>(size("wordBytes")),
                      static_cast<int>(size("axis")), size("wordRows"), size("extent"), nullptr};
  const bool known = packing.bits >= 1 && packing.lanes >= 1 && packing.bits <= 32 && packing.lanes <= 32 && packing.bits * packing.lanes <= 8 * packing.word_bytes &&
                     (packing.word_bytes == 1 || packing.word_bytes == 4) && packing.axis <= 1 && packing.word_rows <= (size_t{1} << 48) &&
                     packing.extent <= (size_t{1} << 48);
  call.check(known && (packing.axis == 0 || lane_groups.size() == static_cast<size_t>(packing.lanes)), "an unusable packing");
  const size_t most = SIZE_MAX / 8 / std::max<size_t>(1, packing.extent);
  call.check((packing.axis == 1 ? w.size : packing.word_rows) <= most, "an unusable packing");
  uint8_t* words = call.array<uint8_t>(8, packing.words(w.size) * static_cast<size_t>(packing.word_bytes));
  double* sums = call.array<double>(9, 3);
  return call.run("lowbit hqq.finish", [=](const Kernels& kernels, Pool& pool) {
    TilePacking target = packing;
    target.lane_groups = lane_groups.data();
    const Status status = hqq_finish(kernels, pool, w, levels, grid, target, words, sums);
    if (status != Status::ok) throw std::invalid_argument("the packing does not fit the tile");
  });
}

}  // namespace

void add_hqq_functions(Napi::Object exports) {
  add_routine<min_max>(exports, "hqqMinMax");
  add_routine<proximal_steps>(exports, "hqqProximalSteps");
  add_routine<least_squares>(exports, "hqqLeastSquares");
  add_routine<finish>(exports, "hqqFinish");
}

}  // namespace lowbit
