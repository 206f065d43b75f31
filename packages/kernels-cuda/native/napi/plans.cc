// Launches and plans: records of JavaScript to the structures of driver/plan.h.
#include <napi.h>

#include "arguments.h"
#include "jobs.h"

namespace lowbit {
namespace {

template <class F>
void each(const Napi::Value& list, F&& visit) {
  check(list.Env(), list.IsArray(), "a list is missing");
  const Napi::Array array = list.As<Napi::Array>();
  for (uint32_t i = 0; i < array.Length(); ++i) visit(array.Get(i));
}

Napi::Object object_of(const Napi::Value& value) {
  check(value.Env(), value.IsObject(), "a record is missing");
  return value.As<Napi::Object>();
}

uint32_t size32(const Napi::Object& from, const char* name, uint32_t otherwise) {
  const Napi::Value value = from.Get(name);
  return value.IsUndefined() ? otherwise : static_cast<uint32_t>(small_of(value));
}

/// A number: that many; { rows, times, per }: ceil(rows[domain] * times / per).
Extent extent_of(const Napi::Value& value) {
  if (value.IsNumber()) return {-1, static_cast<uint32_t>(small_of(value)), 1};
  const Napi::Object from = object_of(value);
  return {small_of(from.Get("rows")), size32(from, "times", 1), size32(from, "per", 1)};
}

Argument argument_of(const Napi::Value& value) {
  Argument argument;
  if (value.IsNull()) return argument;
  const Napi::Object from = object_of(value);
  const auto number = [&](const char* name) { return from.Get(name).ToNumber().DoubleValue(); };
  const auto is = [&](const char* name, Argument::Kind kind) {
    if (!from.Has(name)) return false;
    argument.kind = kind;
    return true;
  };
  if (is("int", Argument::integer)) argument.number = number("int");
  else if (is("float", Argument::real)) argument.number = number("float");
  else if (is("tensor", Argument::tensor)) argument.index = small_of(from.Get("tensor"));
  else if (is("rows", Argument::rows)) argument.index = small_of(from.Get("rows"));
  else if (is("buffer", Argument::buffer)) {
    argument.index = small_of(from.Get("buffer"));
    argument.number = from.Has("offset") ? static_cast<double>(size_of(from.Get("offset"))) : 0;
  } else if (!is("step", Argument::step)) {
    fail(value.Env(), "an argument that cannot be");
  }
  return argument;
}

Launch launch_of(const Device& device, const Napi::Value& value) {
  const Napi::Object from = object_of(value);
  Launch launch;
  launch.name = from.Get("kernel").ToString().Utf8Value();
  launch.function = &device.function(launch.name);
  const Napi::Array grid = from.Get("grid").As<Napi::Array>();
  check(value.Env(), grid.IsArray() && grid.Length() == 3, "a grid has three extents");
  for (uint32_t i = 0; i < 3; ++i) launch.grid[i] = extent_of(grid.Get(i));
  launch.block = size32(from, "block", 1);
  launch.shared_bytes = size32(from, "shared", 0);
  each(from.Get("arguments"), [&](const Napi::Value& one) { launch.arguments.push_back(argument_of(one)); });
  if (from.Has("where")) {
    const Napi::Object where = object_of(from.Get("where"));
    launch.domain = small_of(where.Get("rows"));
    launch.least = size32(where, "least", 0);
    launch.most = size32(where, "most", 0x7fffffff);
  }
  return launch;
}

std::vector<std::shared_ptr<Buffer>> buffers_of(const Napi::Value& list) {
  std::vector<std::shared_ptr<Buffer>> buffers;
  each(list, [&](const Napi::Value& handle) { buffers.push_back(state(list.Env()).buffers.shared(handle)); });
  return buffers;
}

RowCounts rows_of(const Napi::Value& list) {
  RowCounts rows{};
  size_t count = 0;
  each(list, [&](const Napi::Value& one) {
    check(list.Env(), count < kDomains, "too many domains");
    rows[count++] = static_cast<uint32_t>(small_of(one));
  });
  check(list.Env(), count == kDomains, "too few domains");
  return rows;
}

/// launch(device, launch, buffers): enqueues it. Extents of rows are not for here.
Napi::Value launch(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const Device& device = *state(info.Env()).devices.shared(info[0]);
    const Launch one = launch_of(device, info[1]);
    const auto buffers = buffers_of(info[2]);
    check_arguments(one, buffers.size(), 0);
    launch_once(device, one, buffers, {});
    return info.Env().Undefined();
  });
}

/// runWork(device, { bytes, beside, uploads: [{ at, from, beside }], launches, downloads: [{ at, to }] }): resolves when the results are there. Launches name the
/// room as buffer 0, the buffer `beside` as buffer 1.
Napi::Value run_work(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const auto device = state(info.Env()).devices.shared(info[0]);
    const Napi::Object spec = object_of(info[1]);
    const auto work = std::make_shared<Work>();
    work->bytes = size_of(spec.Get("bytes"));
    std::vector<Napi::Value> kept;
    if (spec.Has("beside")) {
      work->beside = state(info.Env()).buffers.shared(spec.Get("beside"));
      check(info.Env(), !work->beside->on_host(), "memory of the host outlasts no work");
    }
    const auto place = [&](const Napi::Value& value, const char* name, size_t room, size_t& at, size_t& bytes) {
      const Napi::Object from = object_of(value);
      at = size_of(from.Get("at"));
      uint8_t* const data = bytes_of(from.Get(name), bytes);
      check(info.Env(), at <= room && bytes <= room - at, "bytes outside of the room");
      kept.push_back(from.Get(name));
      return data;
    };
    each(spec.Get("uploads"), [&](const Napi::Value& value) {
      Work::Upload upload{};
      upload.beside = work->beside && object_of(value).Has("beside");
      upload.from = place(value, "from", upload.beside ? work->beside->bytes() : work->bytes, upload.to, upload.bytes);
      work->uploads.push_back(upload);
    });
    each(spec.Get("downloads"), [&](const Napi::Value& value) {
      Work::Download download{};
      download.to = place(value, "to", work->bytes, download.from, download.bytes);
      work->downloads.push_back(download);
    });
    each(spec.Get("launches"), [&](const Napi::Value& value) {
      work->launches.push_back(launch_of(*device, value));
      check_arguments(work->launches.back(), work->beside ? 2 : 1, 0);
    });
    return Job::start(info.Env(), "lowbit work", kept, [device, work] { device->lanes().run(*device, *work); });
  });
}

std::array<size_t, kDomains> widths_of(const Napi::Value& list) {
  std::array<size_t, kDomains> widths{};
  size_t domain = 0;
  each(list, [&](const Napi::Value& width) {
    check(list.Env(), domain < kDomains, "too many domains");
    widths[domain++] = size_of(width);
  });
  check(list.Env(), domain == kDomains, "too few domains");
  return widths;
}

/// createPlan(device, { buffers, tensors, widths, launches }): plan
Napi::Value create_plan(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    State& all = state(info.Env());
    const auto device = all.devices.shared(info[0]);
    const Napi::Object spec = object_of(info[1]);
    auto plan = std::make_shared<Plan>(device);
    plan->buffers = buffers_of(spec.Get("buffers"));
    plan->widths = widths_of(spec.Get("widths"));
    each(spec.Get("tensors"), [&](const Napi::Value& value) {
      const Napi::Object from = object_of(value);
      const TensorPlace place{small_of(from.Get("rows")), size_of(from.Get("width")), size_of(from.Get("offset"))};
      check(info.Env(), place.domain < kDomains, "no such rows");
      const size_t width = plan->widths[static_cast<size_t>(place.domain)];
      check(info.Env(), place.offset <= width && place.width <= width - place.offset, "a tensor outside of its arena");
      plan->tensors.push_back(place);
    });
    each(spec.Get("launches"), [&](const Napi::Value& value) {
      plan->launches.push_back(launch_of(*device, value));
      check_arguments(plan->launches.back(), plan->buffers.size(), plan->tensors.size());
    });
    if (spec.Has("prefetch")) {
      std::vector<Prefetch> list;
      each(spec.Get("prefetch"), [&](const Napi::Value& value) {
        const Napi::Object from = object_of(value);
        const auto number = [&](const char* name) { return size_of(from.Get(name)); };
        const double after = from.Get("after").ToNumber().DoubleValue();
        check(info.Env(), after >= -1 && after <= 0x7fffffff, "no such launch");
        list.push_back({small_of(from.Get("from")), small_of(from.Get("to")), number("fromOffset"), number("toOffset"), number("bytes"), number("ready"), number("last"),
                        static_cast<int>(after)});
      });
      plan->prefetch(std::move(list));
    }
    return Napi::Number::New(info.Env(), all.plans.add(std::move(plan)));
  });
}

/// measurePlan(widths, rows, stepBytes): { scratch, kept } of a plan's step
Napi::Value measure_plan(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const StepRoom room = step_room(widths_of(info[0]), rows_of(info[1]), size_of(info[2]));
    const Napi::Object bytes = Napi::Object::New(info.Env());
    bytes.Set("scratch", static_cast<double>(room.arena + room.step));
    bytes.Set("kept", static_cast<double>(room.kept));
    return bytes;
  });
}

/// runPlan(plan, rows, step, reads: [{ tensor, out, largest }]): resolves when the step is done; one at a time
Napi::Value run_plan(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const auto plan = state(info.Env()).plans.shared(info[0]);
    std::vector<Napi::Value> kept{info[2]};
    std::vector<Read> reads;
    each(info[3], [&](const Napi::Value& value) {
      const Napi::Object from = object_of(value);
      Read read{small_of(from.Get("tensor")), nullptr, 0, size32(from, "largest", 0)};
      check(info.Env(), static_cast<size_t>(read.tensor) < plan->tensors.size(), "no such tensor");
      read.to = bytes_of(from.Get("out"), read.bytes);
      reads.push_back(read);
      kept.push_back(from.Get("out"));
    });
    size_t bytes = 0;
    const uint8_t* step = bytes_of(info[2], bytes);
    return Job::start(info.Env(), "lowbit step", kept,
                      [plan, rows = rows_of(info[1]), step, bytes, reads = std::move(reads)] { plan->run(rows, step, bytes, reads); });
  });
}

/// planFacts(plan): { scratch, replays }
Napi::Value plan_facts(const Napi::CallbackInfo& info) {
  const Plan& plan = *state(info.Env()).plans.shared(info[0]);
  const Napi::Object facts = Napi::Object::New(info.Env());
  facts.Set("scratch", static_cast<double>(plan.scratch_bytes()));
  facts.Set("replays", static_cast<double>(plan.replays()));
  return facts;
}

/// trimPlan(plan): room of a long step is given back
Napi::Value trim_plan(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    state(info.Env()).plans.shared(info[0])->trim();
    return info.Env().Undefined();
  });
}

Napi::Value free_plan(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    state(info.Env()).plans.remove(info[0]);
    return info.Env().Undefined();
  });
}

}  // namespace

void add_plan_functions(Napi::Env env, Napi::Object exports) {
  exports.Set("launch", Napi::Function::New(env, launch));
  exports.Set("runWork", Napi::Function::New(env, run_work));
  exports.Set("createPlan", Napi::Function::New(env, create_plan));
  exports.Set("measurePlan", Napi::Function::New(env, measure_plan));
  exports.Set("runPlan", Napi::Function::New(env, run_plan));
  exports.Set("planFacts", Napi::Function::New(env, plan_facts));
  exports.Set("trimPlan", Napi::Function::New(env, trim_plan));
  exports.Set("freePlan", Napi::Function::New(env, free_plan));
}

}  // namespace lowbit
