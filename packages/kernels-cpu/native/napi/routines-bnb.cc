// The routines of @lowbit/bnb: each checks its arrays on the thread of JavaScript and works on another. src/binding.ts has the types.
#include <napi.h>

#include <vector>

#include "arguments.h"
#include "jobs.h"
#include "routines-bnb.h"
#include "routines-int8.h"
#include "tile-weights.h"

namespace lowbit {
namespace {

/// weights, dtype, count, size, divides
BlockRun block_run(const Napi::CallbackInfo& info, size_t at) {
  const Float type = stored_float(info[at + 1]);
  const size_t count = size_of(info[at + 2]);
  const size_t size = size_of(info[at + 3]);
  check(info.Env(), size >= 2 && size % 2 == 0 && size <= (size_t{1} << 40), "blocks of an even number of weights");
  check(info.Env(), info[at].IsTypedArray(), "an array is missing");
  const size_t bytes = info[at].As<Napi::Uint8Array>().ElementLength();
  check(info.Env(), count <= bytes / (type == Float::f32 ? 4 : 2), "an array is too short");
  return {elements<uint8_t, Napi::Uint8Array>(info[at], bytes), type, count, size, info[at + 4].ToBoolean()};
}

/// bnbAbsmax(machine, weights, dtype, count, size, divides, absmax)
Napi::Value absmax(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const std::shared_ptr<Machine> machine = state(info).machines.shared(info[0]);
    const BlockRun run = block_run(info, 1);
    float* found = elements<float, Napi::Float32Array>(info[6], run.blocks());
    return run_job(info.Env(), "lowbit bnb.absmax", {info[1], info[6]},
                   [=] { bnb_absmax(*machine->kernels, *machine->pool, run, found); });
  });
}

/// { first, blocks, offset, magnitudes, map, bounds, codes, scale }
NestedScales nested_scales(const Napi::Object& spec, size_t blocks) {
  const Napi::Env env = spec.Env();
  NestedScales nested{};
  nested.first = size_of(spec.Get("first"));
  nested.blocks = size_of(spec.Get("blocks"));
  nested.offset = spec.Get("offset").As<Napi::Number>().FloatValue();
  check(env, nested.first <= nested.blocks && blocks <= nested.blocks - nested.first, "more blocks than there are");
  nested.magnitudes = elements<float, Napi::Float32Array>(spec.Get("magnitudes"), (nested.blocks + 255) / 256);
  nested.map = elements<float, Napi::Float32Array>(spec.Get("map"), 256);
  nested.bounds = elements<float, Napi::Float32Array>(spec.Get("bounds"), 255);
  nested.codes = elements<uint8_t, Napi::Uint8Array>(spec.Get("codes"), blocks);
  nested.scale = elements<float, Napi::Float32Array>(spec.Get("scale"), blocks);
  return nested;
}

/// bnbFourBit(machine, weights, dtype, count, size, divides, cuts, codes, values, nested, absmax, packed, errors)
Napi::Value four_bit(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const std::shared_ptr<Machine> machine = state(info).machines.shared(info[0]);
    const BlockRun run = block_run(info, 1);
    const float* cuts = elements<float, Napi::Float32Array>(info[6], 15);
    const uint8_t* codes = elements<uint8_t, Napi::Uint8Array>(info[7], 16);
    const float* values = elements<float, Napi::Float32Array>(info[8], 16);
    for (int i = 0; i < 16; ++i) check(info.Env(), codes[i] < 16, "a code of more than 4 bits");
    const bool is_nested = info[9].IsObject();
    const NestedScales nested = is_nested ? nested_scales(info[9].As<Napi::Object>(), run.blocks()) : NestedScales{};
    float* absmax = elements<float, Napi::Float32Array>(info[10], run.blocks());
    uint8_t* packed = elements<uint8_t, Napi::Uint8Array>(info[11], (run.count + 1) / 2);
    double* errors = elements<double, Napi::Float64Array>(info[12], 3 * run.blocks());
    // `nested` keeps its arrays.
    return run_job(info.Env(), "lowbit bnb.four-bit", {info[1], info[6], info[7], info[8], info[9], info[10], info[11], info[12]}, [=] {
      bnb_four_bit(*machine->kernels, *machine->pool, run, {cuts, codes, values}, is_nested ? &nested : nullptr, absmax, packed, errors);
    });
  });
}

/// bnbInt8(machine, weights, dtype, rows, size, few, narrow, magnitudes, codes, errors)
Napi::Value int8(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const std::shared_ptr<Machine> machine = state(info).machines.shared(info[0]);
    const Int8Rows rows{tile_weights(info, 1), info[5].ToBoolean(), info[6].ToBoolean()};
    const size_t count = rows.weights.groups;
    check(info.Env(), count <= 0xffffffff, "too many rows");
    float* magnitudes = elements<float, Napi::Float32Array>(info[7], count);
    uint8_t* codes = elements<uint8_t, Napi::Uint8Array>(info[8], count * rows.weights.size);
    double* errors = elements<double, Napi::Float64Array>(info[9], 3 * count);
    return run_job(info.Env(), "lowbit bnb.int8", {info[1], info[7], info[8], info[9]},
                   [=] { bnb_int8(*machine->kernels, *machine->pool, rows, magnitudes, codes, errors); });
  });
}

}  // namespace

void add_bnb_functions(Napi::Env env, Napi::Object exports) {
  exports.Set("bnbAbsmax", Napi::Function::New(env, absmax));
  exports.Set("bnbFourBit", Napi::Function::New(env, four_bit));
  exports.Set("bnbInt8", Napi::Function::New(env, int8));
}

}  // namespace lowbit
