// The routines of @lowbit/hqq: each checks its arrays on the thread of JavaScript and works on another. src/binding.ts has the types.
#include <napi.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "arguments.h"
#include "jobs.h"
#include "routines-hqq-fit.h"
#include "routines-hqq.h"
#include "tile-weights.h"

namespace lowbit {
namespace {

int levels_of(const Napi::Value& value) {
  const size_t levels = size_of(value);
  check(value.Env(), levels >= 2 && levels <= 256, "2 to 256 levels");
  return static_cast<int>(levels);
}

double double_of(const Napi::Value& value) { return value.As<Napi::Number>().DoubleValue(); }

/// hqqMinMax(machine, weights, dtype, groups, size, levels, roundZero, smallRange, inverse, zero)
Napi::Value min_max(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const std::shared_ptr<Machine> machine = state(info).machines.shared(info[0]);
    const TileWeights w = tile_weights(info, 1);
    const MinMaxRules rules{levels_of(info[5]), info[6].ToBoolean(), info[7].ToBoolean()};
    float* inverse = elements<float, Napi::Float32Array>(info[8], w.groups);
    float* zero = elements<float, Napi::Float32Array>(info[9], w.groups);
    return run_job(info.Env(), "lowbit hqq.min-max", {info[1], info[8], info[9]},
                   [=] { hqq_min_max(*machine->kernels, *machine->pool, w, rules, inverse, zero); });
  });
}

/// hqqProximalSteps(machine, weights, dtype, groups, size, levels, norm, betas, lastBeta, inverse, zero, zeros, settled, sums)
Napi::Value proximal_steps(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const std::shared_ptr<Machine> machine = state(info).machines.shared(info[0]);
    const TileWeights w = tile_weights(info, 1);
    const int levels = levels_of(info[5]);
    const double norm = double_of(info[6]);
    check(info.Env(), norm > 0 && norm <= 1, "a norm above 0 and at most 1");
    check(info.Env(), info[7].IsTypedArray(), "an array is missing");
    const size_t count = info[7].As<Napi::Float64Array>().ElementLength();
    check(info.Env(), count <= 1000 && count * w.groups <= (size_t{1} << 32), "too many steps");
    const double* given = elements<double, Napi::Float64Array>(info[7], count);
    const std::vector<double> betas(given, given + count);
    const double last_beta = double_of(info[8]);
    const float* inverse = elements<float, Napi::Float32Array>(info[9], w.groups);
    const float* zero = elements<float, Napi::Float32Array>(info[10], w.groups);
    float* zeros = elements<float, Napi::Float32Array>(info[11], count * w.groups);
    uint8_t* settled = elements<uint8_t, Napi::Uint8Array>(info[12], w.groups);
    double* sums = elements<double, Napi::Float64Array>(info[13], 3 * count);
    return run_job(info.Env(), "lowbit hqq.proximal-steps", {info[1], info[9], info[10], info[11], info[12], info[13]}, [=] {
      const ProximalSteps steps{levels, norm, betas.data(), betas.size(), last_beta};
      hqq_proximal_steps(*machine->kernels, *machine->pool, w, steps, inverse, zero, zeros, settled, sums);
    });
  });
}

/// hqqLeastSquares(machine, weights, dtype, groups, size, levels, alternations, scale dtype, zero dtype, channels, axis, columns, runs, scale, zero)
Napi::Value least_squares(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const Napi::Env env = info.Env();
    const std::shared_ptr<Machine> machine = state(info).machines.shared(info[0]);
    const TileWeights w = tile_weights(info, 1);
    const LeastSquares fit{levels_of(info[5]), size_of(info[6]), stored_float(info[7]), stored_float(info[8])};
    TileChannels channels{nullptr, 0, 1, 0, nullptr};
    std::vector<size_t> groups;
    if (info[9].IsTypedArray()) {
      channels.count = info[9].As<Napi::TypedArray>().ElementLength();
      channels.values = elements<double, Napi::Float64Array>(info[9], channels.count);
      channels.axis = static_cast<int>(size_of(info[10]));
      channels.columns = size_of(info[11]);
      check(env, channels.count > 0 && channels.axis <= 1, "unusable channels");
      const Napi::Array runs = info[12].As<Napi::Array>();
      for (uint32_t i = 0; i + 1 < runs.Length(); i += 2) {
        const size_t from = size_of(runs.Get(i)), to = size_of(runs.Get(i + 1));
        check(env, from <= to && to - from <= w.groups - groups.size() && to <= (size_t{1} << 53) / w.size, "runs do not fit the groups");
        for (size_t group = from; group < to; ++group) groups.push_back(group);
      }
      check(env, groups.size() == w.groups, "runs do not fit the groups");
    }
    float* scale = elements<float, Napi::Float32Array>(info[13], w.groups);
    float* zero = elements<float, Napi::Float32Array>(info[14], w.groups);
    return run_job(env, "lowbit hqq.least-squares", {info[1], info[9], info[13], info[14]}, [=, groups = std::move(groups)] {
      TileChannels of = channels;
      of.groups = groups.data();
      hqq_least_squares(*machine->kernels, *machine->pool, w, fit, of, scale, zero);
    });
  });
}

/// hqqFinish(machine, weights, dtype, groups, size, levels, [scale, zero, inverse, solved], packing, words, sums)
Napi::Value finish(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const Napi::Env env = info.Env();
    const std::shared_ptr<Machine> machine = state(info).machines.shared(info[0]);
    const TileWeights w = tile_weights(info, 1);
    const int levels = levels_of(info[5]);
    const Napi::Array numbers = info[6].As<Napi::Array>();
    const float* found[4] = {};
    for (uint32_t i = 0; i < 4; ++i) {
      const Napi::Value values = numbers.Get(i);
      if (values.IsTypedArray()) found[i] = elements<float, Napi::Float32Array>(values, w.groups);
    }
    const TileGrid grid{found[0], found[1], found[2], found[3]};
    check(env, grid.scale != nullptr && grid.zero != nullptr && (grid.inverse == nullptr) == (grid.solved == nullptr), "no grid");
    const Napi::Object given = info[7].As<Napi::Object>();
    const auto size = [&](const char* name) { return size_of(given.Get(name)); };
    std::vector<size_t> lane_groups;
    const Napi::Array lanes = given.Get("laneGroups").As<Napi::Array>();
    for (uint32_t i = 0; i < lanes.Length(); ++i) lane_groups.push_back(size_of(lanes.Get(i)));
    TilePacking packing{static_cast<int>(size("bits")), static_cast<int>(size("lanes")), static_cast<int>(size("wordBytes")),
                        static_cast<int>(size("axis")), size("wordRows"), size("extent"), nullptr};
    const bool known = packing.bits >= 1 && packing.lanes >= 1 && packing.bits <= 32 && packing.lanes <= 32 && packing.bits * packing.lanes <= 8 * packing.word_bytes &&
                       (packing.word_bytes == 1 || packing.word_bytes == 4) && packing.axis <= 1 && packing.word_rows <= (size_t{1} << 48) &&
                       packing.extent <= (size_t{1} << 48);
    check(env, known && (packing.axis == 0 || lane_groups.size() == static_cast<size_t>(packing.lanes)), "an unusable packing");
    const size_t most = SIZE_MAX / 8 / std::max<size_t>(1, packing.extent);
    check(env, (packing.axis == 1 ? w.size : packing.word_rows) <= most, "an unusable packing");
    uint8_t* words = elements<uint8_t, Napi::Uint8Array>(info[8], packing.words(w.size) * static_cast<size_t>(packing.word_bytes));
    double* sums = elements<double, Napi::Float64Array>(info[9], 3);
    return run_job(env, "lowbit hqq.finish", {info[1], info[6], info[8], info[9]}, [=] {
      TilePacking target = packing;
      target.lane_groups = lane_groups.data();
      const Status status = hqq_finish(*machine->kernels, *machine->pool, w, levels, grid, target, words, sums);
      if (status != Status::ok) throw std::invalid_argument("the packing does not fit the tile");
    });
  });
}

}  // namespace

void add_hqq_functions(Napi::Env env, Napi::Object exports) {
  exports.Set("hqqMinMax", Napi::Function::New(env, min_max));
  exports.Set("hqqProximalSteps", Napi::Function::New(env, proximal_steps));
  exports.Set("hqqLeastSquares", Napi::Function::New(env, least_squares));
  exports.Set("hqqFinish", Napi::Function::New(env, finish));
}

}  // namespace lowbit
