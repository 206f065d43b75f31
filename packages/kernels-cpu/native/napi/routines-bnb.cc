// The routines of @lowbit/bnb. src/binding.ts has the types.
#include "routines-bnb.h"

#include "routine-call.h"
#include "routines-int8.h"

namespace lowbit {
namespace {

/// weights, dtype, count, size, divides
BlockRun block_run(RoutineCall& call, size_t at) {
  const RoutineCall::Stored weights = call.stored(at);
  const size_t count = call.size(at + 2), size = call.size(at + 3);
  call.check(size >= 2 && size % 2 == 0 && size <= (size_t{1} << 40), "blocks of an even number of weights");
  call.check(count <= weights.count, "an array is too short");
  return {weights.data, weights.type, count, size, call[at + 4].ToBoolean()};
}

/// bnbAbsmax(machine, weights, dtype, count, size, divides, absmax)
Napi::Value absmax(RoutineCall& call) {
  const BlockRun run = block_run(call, 1);
  float* found = call.array<float>(6, run.blocks());
  return call.run("lowbit bnb.absmax", [=](const Kernels& kernels, Pool& pool) { bnb_absmax(kernels, pool, run, found); });
}

/// { first, blocks, offset, magnitudes, map, bounds, codes, scale }
NestedScales nested_scales(const Napi::Object& spec, size_t blocks) {
  const Napi::Env env = spec.Env();
  NestedScales nested{};
  nested.first = size_of(spec.Get("first"));
  nested.blocks = size_of(spec.Get("blocks"));
  nested.offset = spec.Get("offset").As<Napi::Number>().FloatValue();
  check(env, nested.first <= nested.blocks && blocks <= nested.blocks - nested.first, "more blocks than there are");
  nested.magnitudes = elements<float>(spec.Get("magnitudes"), (nested.blocks + 255) / 256);
  nested.map = elements<float>(spec.Get("map"), 256);
  nested.bounds = elements<float>(spec.Get("bounds"), 255);
  nested.codes = elements<uint8_t>(spec.Get("codes"), blocks);
  nested.scale = elements<float>(spec.Get("scale"), blocks);
  return nested;
}

/// bnbFourBit(machine, weights, dtype, count, size, divides, cuts, codes, values, nested, absmax, packed, errors)
Napi::Value four_bit(RoutineCall& call) {
  const BlockRun run = block_run(call, 1);
  const float* cuts = call.array<float>(6, 15);
  const uint8_t* codes = call.array<uint8_t>(7, 16);
  const float* values = call.array<float>(8, 16);
  for (int i = 0; i < 16; ++i) call.check(codes[i] < 16, "a code of more than 4 bits");
  const bool is_nested = call[9].IsObject();
  const NestedScales nested = is_nested ? nested_scales(call[9].As<Napi::Object>(), run.blocks()) : NestedScales{};
  if (is_nested) call.keep(9);
  float* absmax = call.array<float>(10, run.blocks());
  uint8_t* packed = call.array<uint8_t>(11, (run.count + 1) / 2);
  double* errors = call.array<double>(12, 3 * run.blocks());
  return call.run("lowbit bnb.four-bit", [=](const Kernels& kernels, Pool& pool) {
    bnb_four_bit(kernels, pool, run, {cuts, codes, values}, is_nested ? &nested : nullptr, absmax, packed, errors);
  });
}

/// bnbInt8(machine, weights, dtype, rows, size, few, narrow, magnitudes, codes, errors)
Napi::Value int8(RoutineCall& call) {
  const Int8Rows rows{call.tile(1), call[5].ToBoolean(), call[6].ToBoolean()};
  const size_t count = rows.weights.groups;
  call.check(count <= 0xffffffff, "too many rows");
  float* magnitudes = call.array<float>(7, count);
  uint8_t* codes = call.array<uint8_t>(8, count * rows.weights.size);
  double* errors = call.array<double>(9, 3 * count);
  return call.run("lowbit bnb.int8", [=](const Kernels& kernels, Pool& pool) { bnb_int8(kernels, pool, rows, magnitudes, codes, errors); });
}

}  // namespace

void add_bnb_functions(Napi::Object exports) {
  add_routine<absmax>(exports, "bnbAbsmax");
  add_routine<four_bit>(exports, "bnbFourBit");
  add_routine<int8>(exports, "bnbInt8");
}

}  // namespace lowbit
