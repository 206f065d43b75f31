// The binding: arguments of JavaScript to the structures of lowbit_cpu.h. No arithmetic here. src/binding.ts has the types.
#include <napi.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "arguments.h"
#include "handles.h"
#include "product.h"
#include "select.h"
#include "weights.h"

namespace lowbit {
namespace {

Isa isa_of(const Napi::Value& name) {
  const std::string text = name.As<Napi::String>().Utf8Value();
  for (int i = 0; i < kIsaCount; ++i) {
    if (text == isa_name(static_cast<Isa>(i))) return static_cast<Isa>(i);
  }
  fail(name.Env(), "no instruction set is called " + text);
}

/// isas(): names of those that run here, the best first.
Napi::Value isas(const Napi::CallbackInfo& info) {
  const Napi::Array names = Napi::Array::New(info.Env());
  uint32_t count = 0;
  for (int i = kIsaCount - 1; i >= 0; --i) {
    if (usable_kernels(static_cast<Isa>(i)) != nullptr) names.Set(count++, isa_name(static_cast<Isa>(i)));
  }
  return names;
}

/// openMachine(isa, threads): machine
Napi::Value open_machine(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const Kernels* kernels = usable_kernels(isa_of(info[0]));
    check(info.Env(), kernels != nullptr, "this processor lacks the instruction set");
    const size_t threads = size_of(info[1]);
    check(info.Env(), threads >= 1 && threads <= 1024, "1 to 1024 threads");
    auto machine = std::make_unique<Machine>();
    machine->kernels = kernels;
    machine->pool = std::make_unique<Pool>(static_cast<int>(threads));
    return Napi::Number::New(info.Env(), state(info).machines.add(std::move(machine)));
  });
}

/// closeMachine(machine): its threads end
Napi::Value close_machine(const Napi::CallbackInfo& info) {
  if (const auto machine = state(info).machines.remove(info[0])) machine->reported.set(info.Env(), 0);
  return info.Env().Undefined();
}

template <class T>
T choice(const Napi::Object& spec, const char* name, std::initializer_list<std::pair<const char*, T>> choices) {
  const std::string text = spec.Get(name).ToString().Utf8Value();
  for (const auto& [word, value] : choices) {
    if (text == word) return value;
  }
  fail(spec.Env(), std::string(name) + " cannot be " + text);
}

Float float_of(const Napi::Object& spec, const char* name) {
  return choice<Float>(spec, name, {{"none", Float::none}, {"f32", Float::f32}, {"f16", Float::f16}, {"bf16", Float::bf16}});
}

}  // namespace

Weight planned(const Napi::Value& value) {
  const Napi::Object spec = value.As<Napi::Object>();
  const auto size = [&](const char* name) { return size_of(spec.Get(name)); };
  Weight w;
  w.kind = choice<Kind>(spec, "kind", {{"dense", Kind::dense}, {"grouped", Kind::grouped}, {"tiles", Kind::tiles}, {"int8", Kind::int8}});
  w.out = size("out");
  w.inp = size("inp");
  if (spec.Has("rotation")) {
    const Napi::Object rotation = spec.Get("rotation").As<Napi::Object>();
    w.rotate = size_of(rotation.Get("block"));
    w.features = size_of(rotation.Get("features"));
    check(value.Env(), w.rotate > 0 && w.features > 0, "a rotation needs a block and features");
  }
  if (spec.Has("dim")) w.dim = size("dim");
  if (spec.Has("round")) w.round = float_of(spec, "round");
  check(value.Env(), w.dim == 1 || w.dim == 2, "a code stands for 1 or 2 weights");
  switch (w.kind) {
    case Kind::dense:
      w.dtype = float_of(spec, "dtype");
      break;
    case Kind::grouped:
      w.bits = static_cast<int>(size("bits"));
      w.axis = static_cast<int>(size("axis"));
      w.group = size("group");
      w.groups = size("groups");
      break;
    case Kind::tiles:
      w.codes = choice<Codes>(spec, "codes",
                              {{"c8", Codes::c8}, {"c4", Codes::c4}, {"c3", Codes::c3}, {"c2", Codes::c2}, {"c1", Codes::c1},
                               {"table4", Codes::table4}, {"pairs8", Codes::pairs8}, {"pairs6", Codes::pairs6},
                               {"pairs4", Codes::pairs4}});
      w.meta = float_of(spec, "meta");
      w.zeros = spec.Get("zeros").ToBoolean();
      w.block = size("block");
      w.classes = size("classes");
      break;
    case Kind::int8:
      w.codes = Codes::c8;
      w.block = size("block");
      break;
  }
  check(value.Env(), plan_layout(w));
  return w;
}

Extras extras(const Weight& w, const Napi::Value& spec) {
  const bool table = spec.As<Napi::Object>().Get("table").ToBoolean();
  switch (w.kind) {
    case Kind::dense:
      return {};
    case Kind::grouped:
      return {w.groups, table ? 0 : w.groups, table ? (size_t{1} << w.bits) * w.dim : 0};
    case Kind::int8:
      return {w.out};
    default:
      break;
  }
  if (is_pairs(w.codes)) return {0, 0, 2 * pair_entries(w.codes), pair_table_bytes(w.codes)};
  if (w.meta != Float::none) return {0, 0, static_cast<size_t>(w.codes == Codes::table4 ? 16 : 0)};
  return {w.classes * w.inp, w.classes * w.inp};
}

Weight hollow(const Napi::Value& spec) {
  static constexpr float kNothing = 0;
  Weight w = planned(spec);
  const Extras extra = extras(w, spec);
  if (extra.scale > 0) w.scale = &kNothing;
  if (extra.zero > 0) w.zero = &kNothing;
  if (extra.table > 0) w.table = &kNothing;
  return w;
}

void make_tables(HeldWeight& held, const HeldWeight* like) {
  Weight& w = held.weight;
  if (w.kind != Kind::tiles || !is_table(w.codes)) return;
  const size_t count = is_pairs(w.codes) ? 2 * pair_entries(w.codes) : 16;
  const bool same = like != nullptr && like->weight.codes == w.codes && std::memcmp(like->weight.table, w.table, count * sizeof(float)) == 0;
  if (is_pairs(w.codes)) {
    // Quick: made anew.
    held.made = Block(pair_table_bytes(w.codes));
    set_pair_table(w, w.table, held.made.data());
  } else if (same) {
    std::copy(std::begin(like->weight.numbers), std::end(like->weight.numbers), std::begin(w.numbers));
  } else {
    set_table(w, w.table);
  }
}

namespace {

/// weightBytes(spec): bytes that a weight without a bias takes
Napi::Value weight_bytes(const Napi::CallbackInfo& info) {
  const Weight w = planned(info[0]);
  const Extras extra = extras(w, info[0]);
  const size_t floats = (extra.scale + extra.zero + extra.table) * sizeof(float);
  return Napi::Number::New(info.Env(), static_cast<double>(w.data_bytes + floats + extra.pairs));
}

const float* copied(HeldWeight& held, const Napi::Value& array, size_t count) {
  if (count == 0) return nullptr;
  const float* from = elements<float>(array, count);
  held.blocks.emplace_back(count * sizeof(float));
  std::memcpy(held.blocks.back().data(), from, count * sizeof(float));
  return held.blocks.back().floats();
}

/**
 * createWeight(spec, { scale?, zero?, table?, bias? }): weight. Floats are copied. Codes come with putCodes or packWeight, rows of floats with putDense.
 * For tiles with numbers inside, scale and zero are [out, blocks]; without them they come with packWeight.
 */
Napi::Value create_weight(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto held = std::make_unique<HeldWeight>();
    Weight& w = held->weight;
    w = planned(info[0]);
    const Napi::Object spec = info[0].As<Napi::Object>();
    const Napi::Object numbers = info[1].As<Napi::Object>();
    if (w.kind == Kind::int8) held->threshold = spec.Get("threshold").ToNumber().FloatValue();
    held->blocks.push_back(Block::of_weight(w.data_bytes));
    uint8_t* data = held->blocks.back().data();
    w.data = data;
    const Extras extra = extras(w, info[0]);
    w.scale = copied(*held, numbers.Get("scale"), extra.scale);
    w.zero = copied(*held, numbers.Get("zero"), extra.zero);
    w.table = copied(*held, numbers.Get("table"), extra.table);
    if (numbers.Get("bias").IsTypedArray()) w.bias = copied(*held, numbers.Get("bias"), w.out);
    make_tables(*held);
    if (w.kind == Kind::tiles && w.meta != Float::none && numbers.Get("scale").IsTypedArray()) {
      const float* scale = elements<float>(numbers.Get("scale"), w.out * w.blocks);
      const float* zero = w.zeros ? elements<float>(numbers.Get("zero"), w.out * w.blocks) : nullptr;
      for (size_t row = 0, i = 0; row < w.out; ++row) {
        for (size_t b = 0; b < w.blocks; ++b, ++i) put_numbers(w, data, row, b, scale[i], zero == nullptr ? 0.0f : zero[i]);
      }
    }
    held->reported.set(info.Env(), held->bytes());
    return Napi::Number::New(info.Env(), state(info).weights.add(std::move(held)));
  });
}

/// A weight that can be written to.
const HeldWeight& own_weight(const Napi::CallbackInfo& info) {
  const HeldWeight& held = state(info).weights.at(info[0]);
  check(info.Env(), held.home == nullptr, "a weight that came from disk is not written to");
  return held;
}

/// putCodes(weight, from, rows, codes): canonical codes [rows, inp / dim], a byte each; a row once at most
Napi::Value put_codes_of(const Napi::CallbackInfo& info) {
  const HeldWeight& held = own_weight(info);
  const size_t rows = size_of(info[2]);
  check(info.Env(), rows <= held.weight.out, "too many rows");
  const uint8_t* codes = elements<uint8_t>(info[3], rows * code_columns(held.weight));
  check(info.Env(), put_codes(held.weight, held.blocks[0].data(), size_of(info[1]), rows, codes));
  return info.Env().Undefined();
}

/// putDense(weight, at, bytes): bytes of the row-major weight from byte `at`
Napi::Value put_dense(const Napi::CallbackInfo& info) {
  const HeldWeight& held = own_weight(info);
  const size_t at = size_of(info[1]);
  const Napi::Uint8Array bytes = info[2].As<Napi::Uint8Array>();
  const size_t count = bytes.ElementLength();
  check(info.Env(), held.weight.kind == Kind::dense && at <= held.weight.data_bytes && count <= held.weight.data_bytes - at,
        "bytes outside of the weight");
  std::memcpy(held.blocks[0].data() + at, elements<uint8_t>(info[2], count), count);
  return info.Env().Undefined();
}

/// freeWeight(weight): a second time does nothing
Napi::Value free_weight(const Napi::CallbackInfo& info) {
  if (const auto held = state(info).weights.remove(info[0])) held->reported.set(info.Env(), 0);
  return info.Env().Undefined();
}

/// multiply(machine, weight, planes, rows, x, out): columns of x that int8 computed in floating point
Napi::Value multiply(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    Machine& machine = state(info).machines.at(info[0]);
    const HeldWeight& held = state(info).weights.at(info[1]);
    const Weight& w = held.weight;
    const size_t planes = size_of(info[2]);
    const size_t rows = size_of(info[3]);
    check(info.Env(), planes >= kMinPlanes && planes <= kMaxPlanes, "2 or 3 planes");
    check(info.Env(), rows <= SIZE_MAX / 64 / (w.inp + w.out), "too many rows");
    const float* x = elements<float>(info[4], rows * w.features);
    float* out = elements<float>(info[5], rows * w.out);
    if (rows == 0) return Napi::Number::New(info.Env(), 0);
    Product product(*machine.kernels, w, static_cast<int>(planes), rows, machine.pool->threads());
    product.threshold = held.threshold;
    if (const size_t bytes = product.scratch_bytes(); machine.scratch.bytes() < bytes) machine.scratch = Block(bytes);
    std::vector<Stage> stages;
    product.stages(x, out, machine.scratch.data(), stages);
    machine.pool->run(stages.data(), stages.size());
    // Scratch of a long prompt is not kept for the short steps after it.
    if (machine.scratch.bytes() > (size_t{16} << 20)) machine.scratch = Block();
    machine.reported.set(info.Env(), machine.scratch.bytes());
    return Napi::Number::New(info.Env(), static_cast<double>(product.outlier_columns()));
  });
}

/// fillRows(machine, weight, from, rows, out): numbers of rows of the weight, f32 [rows, features]
Napi::Value fill_rows(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const Machine& machine = state(info).machines.at(info[0]);
    const Weight& w = state(info).weights.at(info[1]).weight;
    const size_t from = size_of(info[2]);
    const size_t rows = size_of(info[3]);
    check(info.Env(), from <= w.out && rows <= w.out - from, "rows outside of the weight");
    float* out = elements<float>(info[4], rows * w.features);
    for (size_t i = 0; i < rows; ++i) fill_row(*machine.kernels, w, from + i, out + i * w.features);
    return info.Env().Undefined();
  });
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(new State());
  exports.Set("abi", Napi::Number::New(env, 7));
  exports.Set("isas", Napi::Function::New(env, isas));
  exports.Set("openMachine", Napi::Function::New(env, open_machine));
  exports.Set("closeMachine", Napi::Function::New(env, close_machine));
  exports.Set("weightBytes", Napi::Function::New(env, weight_bytes));
  exports.Set("createWeight", Napi::Function::New(env, create_weight));
  exports.Set("putCodes", Napi::Function::New(env, put_codes_of));
  exports.Set("putDense", Napi::Function::New(env, put_dense));
  exports.Set("freeWeight", Napi::Function::New(env, free_weight));
  exports.Set("multiply", Napi::Function::New(env, multiply));
  exports.Set("fillRows", Napi::Function::New(env, fill_rows));
  add_program_functions(env, exports);
  add_packing_functions(env, exports);
  add_hqq_functions(exports);
  add_feedback_functions(exports);
  add_bnb_functions(exports);
  add_higgs_functions(exports);
  return exports;
}

}  // namespace

NODE_API_MODULE(lowbit_cpu, init)

}  // namespace lowbit
