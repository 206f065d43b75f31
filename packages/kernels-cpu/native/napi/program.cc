// Compiled programs: records of JavaScript to the structures of dispatch/program.h, and steps off its thread.
#include <napi.h>

#include <cstring>
#include <map>

#include "arguments.h"
#include "handles.h"
#include "largest.h"
#include "weights.h"

namespace lowbit {
namespace {

const std::map<std::string, OpKind> kKinds = {
    {"embed", OpKind::embed},       {"input", OpKind::input},       {"inject", OpKind::inject},
    {"positionEmbed", OpKind::position_embed}, {"norm", OpKind::norm}, {"linear", OpKind::linear},
    {"rope", OpKind::rope},         {"attend", OpKind::attend},     {"remember", OpKind::remember},
    {"activate", OpKind::activate}, {"gate", OpKind::gate},         {"add", OpKind::add},
    {"scale", OpKind::scale},       {"softcap", OpKind::softcap},   {"slice", OpKind::slice},
    {"select", OpKind::select},     {"route", OpKind::route},       {"expertLinear", OpKind::expert_linear},
    {"combine", OpKind::combine}};
const std::map<std::string, Activation> kActivations = {
    {"silu", Activation::silu},   {"gelu", Activation::gelu},       {"gelu_tanh", Activation::gelu_tanh},
    {"quick_gelu", Activation::quick_gelu}, {"relu", Activation::relu}, {"relu2", Activation::relu2},
    {"sigmoid", Activation::sigmoid}, {"tanh", Activation::tanh},   {"identity", Activation::identity}};

double number(const Napi::Object& from, const char* name, double otherwise) {
  const Napi::Value value = from.Get(name);
  return value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : otherwise;
}
int index(const Napi::Object& from, const char* name) { return static_cast<int>(number(from, name, -1)); }
size_t size(const Napi::Object& from, const char* name, size_t otherwise = 0) {
  return static_cast<size_t>(number(from, name, static_cast<double>(otherwise)));
}
bool truth(const Napi::Object& from, const char* name) { return from.Get(name).ToBoolean(); }

std::vector<double> doubles(const Napi::Value& value) {
  std::vector<double> list;
  if (!value.IsArray()) return list;
  const Napi::Array array = value.As<Napi::Array>();
  for (uint32_t i = 0; i < array.Length(); ++i) list.push_back(array.Get(i).As<Napi::Number>().DoubleValue());
  return list;
}

template <class F>
void each(const Napi::Value& list, F&& visit) {
  const Napi::Array array = list.As<Napi::Array>();
  for (uint32_t i = 0; i < array.Length(); ++i) visit(array.Get(i).As<Napi::Object>());
}

Op op_of(const Napi::Object& from) {
  Op op;
  op.kind = kKinds.at(from.Get("op").ToString().Utf8Value());
  op.out = index(from, "out");
  op.x = index(from, "x");
  op.y = index(from, "y");
  op.z = index(from, "z");
  op.linear = index(from, "linear");
  op.constant = index(from, "constant");
  op.constant2 = index(from, "constant2");
  op.cache = index(from, "cache");
  op.rope = index(from, "rope");
  op.heads = size(from, "heads");
  op.kv_heads = size(from, "kvHeads");
  op.key_dim = size(from, "keyDim");
  op.value_dim = size(from, "valueDim");
  op.dim = size(from, "dim");
  op.groups = size(from, "groups", 1);
  op.offset = size(from, "offset");
  op.width = size(from, "width");
  op.top_k = size(from, "topK");
  op.window = size(from, "window");
  op.factor = number(from, "factor", 1);
  op.eps = number(from, "eps", 0);
  op.softcap = number(from, "softcap", 0);
  op.weight_offset = number(from, "weightOffset", 0);
  if (from.Get("activation").IsString()) op.activation = kActivations.at(from.Get("activation").ToString().Utf8Value());
  op.layer_norm = truth(from, "layerNorm");
  op.interleaved = truth(from, "interleaved");
  op.causal = truth(from, "causal");
  op.sigmoid = truth(from, "sigmoid");
  op.normalize = truth(from, "normalize");
  op.slopes = doubles(from.Get("slopes"));
  op.buckets = size(from, "buckets");
  op.max_distance = size(from, "maxDistance");
  op.bidirectional = truth(from, "bidirectional");
  for (const double expert : doubles(from.Get("experts"))) op.experts.push_back(static_cast<int>(expert));
  return op;
}

Float kv_dtype(const Napi::Object& spec) {
  const std::string name = spec.Get("kvDtype").ToString().Utf8Value();
  if (name == "f16") return Float::f16;
  if (name == "bf16") return Float::bf16;
  if (name != "f32") fail(spec.Env(), "no such dtype of keys and values");
  return Float::f32;
}

/// All but the linears.
void fill_program(Program& program, const Napi::Object& spec) {
  each(spec.Get("tensors"), [&](const Napi::Object& tensor) {
    program.tensors.push_back({static_cast<Rows>(size(tensor, "rows")), size(tensor, "width"), size(tensor, "offset")});
  });
  const std::vector<double> arena = doubles(spec.Get("arena"));
  for (size_t i = 0; i < kRows; ++i) program.arena_width[i] = static_cast<size_t>(arena.at(i));
  each(spec.Get("ops"), [&](const Napi::Object& op) { program.ops.push_back(op_of(op)); });
  each(spec.Get("ropes"), [&](const Napi::Object& from) {
    Rope rope;
    rope.kind = index(from, "kind");
    rope.frequencies = doubles(from.Get("frequencies"));
    rope.longer = doubles(from.Get("longer"));
    rope.scale = number(from, "scale", 1);
    rope.base = number(from, "base", 0);
    rope.factor = number(from, "factor", 1);
    rope.dim = size(from, "dim");
    rope.original = size(from, "original");
    program.ropes.push_back(std::move(rope));
  });
  each(spec.Get("caches"), [&](const Napi::Object& cache) {
    program.caches.push_back({truth(cache, "encoder"), size(cache, "keyWidth"), size(cache, "valueWidth")});
  });
  each(spec.Get("constants"), [&](const Napi::Value& values) { program.constants.push_back(copied<float>(values)); });
  program.context_length = size(spec, "contextLength");
  program.cache_dtype = kv_dtype(spec);
}

/// compileProgram(machine, spec): program. The linears stay alive as long as it does.
Napi::Value compile_program(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto held = std::make_shared<HeldProgram>();
    held->machine = state(info).machines.shared(info[0]);
    Program& program = held->program;
    const Napi::Object spec = info[1].As<Napi::Object>();
    fill_program(program, spec);
    const Napi::Array linears = spec.Get("linears").As<Napi::Array>();
    for (uint32_t i = 0; i < linears.Length(); ++i) {
      held->linears.push_back(state(info).weights.shared(linears.Get(i)));
      program.linears.push_back(&held->linears.back()->weight);
      program.thresholds.push_back(held->linears.back()->threshold);
    }
    for (const std::vector<float>& constant : program.constants) held->constant_bytes += constant.size() * sizeof(float);
    held->report(info.Env());
    return Napi::Number::New(info.Env(), state(info).programs.add(std::move(held)));
  });
}

StepInput input_of(const Napi::Object& from) {
  StepInput input;
  input.tokens = copied<uint32_t>(from.Get("tokens"));
  const std::vector<double> rows = doubles(from.Get("rows"));
  for (size_t i = 0; i < kRows; ++i) input.rows[i] = static_cast<size_t>(rows.at(i));
  input.planes = index(from, "planes");
  each(from.Get("shares"), [&](const Napi::Object& given) {
    Share share;
    share.id = static_cast<uint32_t>(size(given, "id"));
    share.start = size(given, "start");
    share.length = size(given, "length");
    share.remembers = truth(given, "remembers");
    const std::vector<double> starts = doubles(given.Get("from")), counts = doubles(given.Get("count"));
    for (size_t i = 0; i < kRows; ++i) {
      share.from[i] = static_cast<size_t>(starts.at(i));
      share.count[i] = static_cast<size_t>(counts.at(i));
    }
    share.wanted = copied<uint32_t>(given.Get("wanted"));
    input.shares.push_back(std::move(share));
  });
  each(from.Get("inputs"), [&](const Napi::Object& given) {
    input.inputs.emplace(index(given, "out"), copied<float>(given.Get("values")));
  });
  each(from.Get("injections"), [&](const Napi::Object& given) {
    input.injections.emplace(index(given, "out"), std::make_pair(copied<uint32_t>(given.Get("at")), copied<float>(given.Get("values"))));
  });
  return input;
}

/// measureProgram(machine, spec, input): [scratch, kept, cache], with specs of weights as `linears`; see Program::measure.
Napi::Value measure_program(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const Machine& machine = state(info).machines.at(info[0]);
    const Napi::Object spec = info[1].As<Napi::Object>();
    std::deque<Weight> weights;
    Program program;
    fill_program(program, spec);
    const Napi::Array linears = spec.Get("linears").As<Napi::Array>();
    for (uint32_t i = 0; i < linears.Length(); ++i) {
      program.linears.push_back(&weights.emplace_back(hollow(linears.Get(i))));
      program.thresholds.push_back(0);
    }
    const ProgramBytes bytes = program.measure(input_of(info[2].As<Napi::Object>()), *machine.kernels, *machine.pool);
    const Napi::Array list = Napi::Array::New(info.Env(), 3);
    uint32_t at = 0;
    for (const size_t count : {bytes.scratch, bytes.kept, bytes.cache}) list.Set(at++, Napi::Number::New(info.Env(), static_cast<double>(count)));
    return list;
  });
}

/// A step on its way. Plain Node-API: a thread of JavaScript may be ending when it is done, and then nothing can be thrown or resolved any more.
struct StepJob {
  std::shared_ptr<HeldProgram> held;
  StepInput input;
  napi_deferred deferred = nullptr;
  napi_async_work work = nullptr;
  const char* code = nullptr;  // of what went wrong
  std::string message;
};

void run_step(napi_env, void* data) {
  StepJob& job = *static_cast<StepJob*>(data);
  try {
    job.held->program.step(std::move(job.input), *job.held->machine->kernels, *job.held->machine->pool);
  } catch (const std::bad_alloc&) {
    job.code = "ERR_OUT_OF_MEMORY";
  } catch (const std::out_of_range& error) {
    job.code = "ERR_BAD_ARGUMENT";
    job.message = error.what();
  } catch (const std::exception& error) {
    job.code = "ERR_NATIVE";
    job.message = error.what();
  } catch (...) {
    job.code = "ERR_NATIVE";
  }
}

void end_of_step(napi_env env, napi_status, void* data) {
  const std::unique_ptr<StepJob> job(static_cast<StepJob*>(data));
  napi_delete_async_work(env, job->work);
  napi_handle_scope scope;
  if (napi_open_handle_scope(env, &scope) != napi_ok) return;
  napi_value value = nullptr;
  if (job->code != nullptr) {
    napi_value code = nullptr, message = nullptr;
    const std::string text = "kernels-cpu: " + (job->message.empty() ? std::string("a step could not be done") : job->message);
    napi_create_string_utf8(env, job->code, NAPI_AUTO_LENGTH, &code);
    napi_create_string_utf8(env, text.c_str(), text.size(), &message);
    if (napi_create_error(env, code, message, &value) == napi_ok) napi_reject_deferred(env, job->deferred, value);
  } else if (napi_get_undefined(env, &value) == napi_ok) {
    napi_resolve_deferred(env, job->deferred, value);
  }
  napi_close_handle_scope(env, scope);
}

/// stepProgram(program, input): resolves when the step is done, off the thread of JavaScript; one at a time
Napi::Value step_program(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const Napi::Env env = info.Env();
    auto job = std::make_unique<StepJob>();
    job->held = state(info).programs.shared(info[0]);
    job->input = input_of(info[1].As<Napi::Object>());
    napi_value promise = nullptr;
    check(env, napi_create_promise(env, &job->deferred, &promise) == napi_ok, "no promise can be made");
    const Napi::String name = Napi::String::New(env, "lowbit step");
    check(env, napi_create_async_work(env, nullptr, name, run_step, end_of_step, job.get(), &job->work) == napi_ok, "no step can be queued");
    check(env, napi_queue_async_work(env, job->work) == napi_ok, "no step can be queued");
    job.release();  // end_of_step deletes it
    return {env, promise};
  });
}

/// takeOutliers(program): products and columns of every linear since the last call, one after another; none if no linear counts
Napi::Value take_outliers(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const std::vector<Outliers> counts = state(info).programs.at(info[0]).program.take_outliers();
    Napi::Float64Array numbers = Napi::Float64Array::New(info.Env(), 2 * counts.size());
    for (size_t i = 0; i < counts.size(); ++i) {
      numbers.Data()[2 * i] = static_cast<double>(counts[i].products);
      numbers.Data()[2 * i + 1] = static_cast<double>(counts[i].columns);
    }
    return numbers;
  });
}

/// readTensor(program, tensor, out): numbers of a tensor after a step, as bytes
Napi::Value read_tensor(const Napi::CallbackInfo& info) {
  const Program& program = state(info).programs.at(info[0]).program;
  const size_t id = size_of(info[1]);
  check(info.Env(), id < program.tensors.size(), "no such tensor");
  const size_t bytes = info[2].As<Napi::Uint8Array>().ElementLength();
  check(info.Env(), bytes <= program.tensor_bytes(static_cast<int>(id)), "a tensor is shorter than that");
  if (bytes > 0) std::memcpy(elements<uint8_t>(info[2], bytes), program.tensor(static_cast<int>(id)), bytes);
  return info.Env().Undefined();
}

/// readLargest(program, tensor, count, values, ids): the largest numbers of each row of a tensor and their places, as bytes
Napi::Value read_largest(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const Program& program = state(info).programs.at(info[0]).program;
    const size_t id = size_of(info[1]), count = size_of(info[2]);
    check(info.Env(), id < program.tensors.size(), "no such tensor");
    const size_t width = program.tensors[id].width, bytes = program.tensor_bytes(static_cast<int>(id));
    check(info.Env(), count >= 1 && count <= width, "a row has not so many numbers");
    const size_t rows = bytes / (width * sizeof(float));
    uint8_t* values = elements<uint8_t>(info[3], rows * count * sizeof(float));
    uint8_t* ids = elements<uint8_t>(info[4], rows * count * sizeof(int32_t));
    std::vector<float> most(count);
    std::vector<int32_t> places(count);
    for (size_t row = 0; row < rows; ++row) {
      largest_of_row(program.tensor(static_cast<int>(id)) + row * width, width, count, most.data(), places.data());
      std::memcpy(values + row * count * sizeof(float), most.data(), count * sizeof(float));
      std::memcpy(ids + row * count * sizeof(int32_t), places.data(), count * sizeof(int32_t));
    }
    return info.Env().Undefined();
  });
}

/// endStep(program): room of a long step is given back
Napi::Value end_step(const Napi::CallbackInfo& info) {
  HeldProgram& held = state(info).programs.at(info[0]);
  held.program.trim();
  held.report(info.Env());
  return info.Env().Undefined();
}

Napi::Value fork_sequence(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    HeldProgram& held = state(info).programs.at(info[0]);
    held.program.fork(static_cast<uint32_t>(size_of(info[1])), static_cast<uint32_t>(size_of(info[2])), size_of(info[3]));
    held.report(info.Env());
    return info.Env().Undefined();
  });
}

Napi::Value close_sequence(const Napi::CallbackInfo& info) {
  HeldProgram& held = state(info).programs.at(info[0]);
  held.program.close(static_cast<uint32_t>(size_of(info[1])));
  held.report(info.Env());
  return info.Env().Undefined();
}

/// programBytes(program): [scratch, cache]
Napi::Value program_bytes(const Napi::CallbackInfo& info) {
  const Program& program = state(info).programs.at(info[0]).program;
  const Napi::Array bytes = Napi::Array::New(info.Env(), 2);
  bytes.Set(0u, Napi::Number::New(info.Env(), static_cast<double>(program.scratch_bytes())));
  bytes.Set(1u, Napi::Number::New(info.Env(), static_cast<double>(program.cache_bytes())));
  return bytes;
}

Napi::Value free_program(const Napi::CallbackInfo& info) {
  if (const auto held = state(info).programs.remove(info[0])) held->reported.set(info.Env(), 0);
  return info.Env().Undefined();
}

}  // namespace

void add_program_functions(Napi::Env env, Napi::Object exports) {
  exports.Set("compileProgram", Napi::Function::New(env, compile_program));
  exports.Set("measureProgram", Napi::Function::New(env, measure_program));
  exports.Set("stepProgram", Napi::Function::New(env, step_program));
  exports.Set("takeOutliers", Napi::Function::New(env, take_outliers));
  exports.Set("readTensor", Napi::Function::New(env, read_tensor));
  exports.Set("readLargest", Napi::Function::New(env, read_largest));
  exports.Set("endStep", Napi::Function::New(env, end_step));
  exports.Set("forkSequence", Napi::Function::New(env, fork_sequence));
  exports.Set("closeSequence", Napi::Function::New(env, close_sequence));
  exports.Set("programBytes", Napi::Function::New(env, program_bytes));
  exports.Set("freeProgram", Napi::Function::New(env, free_program));
}

}  // namespace lowbit
