// The routines of @lowbit/higgs. src/binding.ts has the types.
#include "routines-higgs.h"

#include "routine-call.h"

namespace lowbit {
namespace {

constexpr size_t kLargest = size_t{1} << 40;

/// higgsCode(machine, weights, dtype, { inp, first, blocks, block, group, scale, dim, size }, points, norms, stored, codes, scales, sums)
Napi::Value code(RoutineCall& call) {
  const Napi::Object spec = call[3].As<Napi::Object>();
  const auto of = [&](const char* name) { return size_of(spec.Get(name)); };
  RotatedRun run{nullptr,     stored_float(call[2]), of("inp"), of("first"), of("blocks"), of("block"), of("group"),
                 stored_float(spec.Get("scale"))};
  const size_t dim = of("dim"), size = of("size");
  const bool fits = run.block >= 8 && run.block <= 32768 && (run.block & (run.block - 1)) == 0 && run.group > 0 && run.block % run.group == 0;
  call.check(fits, "blocks of a power of two, in whole groups");
  call.check(run.inp > 0 && run.inp <= kLargest && run.blocks > 0, "a run of blocks without weights");
  call.check(run.first <= kLargest / run.inp && run.blocks <= kLargest / run.block, "a size is out of range");
  call.check((dim == 1 || dim == 2) && size > 0 && size <= 256, "a grid of 1 to 256 numbers or pairs");
  run.data = call.array<uint8_t>(1, run.start(run.blocks) * float_bytes(run.dtype));
  const Grid grid{call.array<float>(4, size * dim), call.array<float>(5, size), size, static_cast<int>(dim)};
  const float* stored = call.array<float>(6, size * dim);
  uint8_t* codes = call.array<uint8_t>(7, run.blocks * run.block / dim);
  float* scales = call.array<float>(8, run.blocks * (run.block / run.group));
  double* sums = call.array<double>(9, 3);
  return call.run("lowbit higgs.code", [=](const Kernels& kernels, Pool& pool) { higgs_code(kernels, pool, run, grid, stored, codes, scales, sums); });
}

/// flutePack(machine, bits, dim, tile, codes, columns, words)
Napi::Value pack(RoutineCall& call) {
  const size_t bits = call.size(1), dim = call.size(2), tile = call.size(3), columns = call.size(5);
  call.check(bits >= 2 && bits <= 4 && (dim == 1 || dim == 2) && (tile == 32 || tile == 64), "a packing that FLUTE does not have");
  call.check(columns <= kLargest && columns * dim % 2 == 0, "an odd number of weights in a row");
  const FlutePacking packing{static_cast<int>(bits), dim, tile};
  const uint8_t* codes = call.array<uint8_t>(4, packing.rows() * columns);
  uint32_t* words = call.array<uint32_t>(6, packing.words(columns));
  return call.run("lowbit higgs.pack", [=](const Kernels&, Pool& pool) { flute_pack(pool, packing, codes, columns, words); });
}

}  // namespace

void add_higgs_functions(Napi::Object exports) {
  add_routine<code>(exports, "higgsCode");
  add_routine<pack>(exports, "flutePack");
}

}  // namespace lowbit
