// The routine of @lowbit/higgs: checks its arrays on the thread of JavaScript and works on another. src/binding.ts has the types.
#include <napi.h>

#include "arguments.h"
#include "jobs.h"
#include "routines-higgs.h"

namespace lowbit {
namespace {

constexpr size_t kLargest = size_t{1} << 40;

/// higgsCode(machine, weights, dtype, { inp, first, blocks, block, group, scale, dim, size }, points, norms, stored, codes, scales, sums)
Napi::Value code(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const std::shared_ptr<Machine> machine = state(info).machines.shared(info[0]);
    const Napi::Object spec = info[3].As<Napi::Object>();
    RotatedRun run{nullptr, stored_float(info[2]), size_of(spec.Get("inp")), size_of(spec.Get("first")), size_of(spec.Get("blocks")),
                   size_of(spec.Get("block")), size_of(spec.Get("group")), stored_float(spec.Get("scale"))};
    const size_t dim = size_of(spec.Get("dim")), size = size_of(spec.Get("size"));
    const bool fits = run.block >= 8 && run.block <= 32768 && (run.block & (run.block - 1)) == 0 && run.group > 0 && run.block % run.group == 0;
    check(info.Env(), fits, "blocks of a power of two, in whole groups");
    check(info.Env(), run.inp > 0 && run.inp <= kLargest && run.blocks > 0, "a run of blocks without weights");
    check(info.Env(), run.first <= kLargest / run.inp && run.blocks <= kLargest / run.block, "a size is out of range");
    check(info.Env(), (dim == 1 || dim == 2) && size > 0 && size <= 256, "a grid of 1 to 256 numbers or pairs");
    run.data = elements<uint8_t, Napi::Uint8Array>(info[1], run.start(run.blocks) * (run.dtype == Float::f32 ? 4 : 2));
    const Grid grid{elements<float, Napi::Float32Array>(info[4], size * dim), elements<float, Napi::Float32Array>(info[5], size), size,
                    static_cast<int>(dim)};
    const float* stored = elements<float, Napi::Float32Array>(info[6], size * dim);
    uint8_t* codes = elements<uint8_t, Napi::Uint8Array>(info[7], run.blocks * run.block / dim);
    float* scales = elements<float, Napi::Float32Array>(info[8], run.blocks * (run.block / run.group));
    double* sums = elements<double, Napi::Float64Array>(info[9], 3);
    return run_job(info.Env(), "lowbit higgs.code", {info[1], info[4], info[5], info[6], info[7], info[8], info[9]},
                   [=] { higgs_code(*machine->kernels, *machine->pool, run, grid, stored, codes, scales, sums); });
  });
}

/// flutePack(machine, bits, dim, tile, codes, columns, words)
Napi::Value pack(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const std::shared_ptr<Machine> machine = state(info).machines.shared(info[0]);
    const size_t bits = size_of(info[1]), dim = size_of(info[2]), tile = size_of(info[3]), columns = size_of(info[5]);
    check(info.Env(), bits >= 2 && bits <= 4 && (dim == 1 || dim == 2) && (tile == 32 || tile == 64), "a packing that FLUTE does not have");
    check(info.Env(), columns <= kLargest && columns * dim % 2 == 0, "an odd number of weights in a row");
    const FlutePacking packing{static_cast<int>(bits), dim, tile};
    const uint8_t* codes = elements<uint8_t, Napi::Uint8Array>(info[4], packing.rows() * columns);
    uint32_t* words = elements<uint32_t, Napi::Uint32Array>(info[6], packing.words(columns));
    return run_job(info.Env(), "lowbit higgs.pack", {info[4], info[6]}, [=] { flute_pack(*machine->pool, packing, codes, columns, words); });
  });
}

}  // namespace

void add_higgs_functions(Napi::Env env, Napi::Object exports) {
  exports.Set("higgsCode", Napi::Function::New(env, code));
  exports.Set("flutePack", Napi::Function::New(env, pack));
}

}  // namespace lowbit
