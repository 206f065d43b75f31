// The binding: devices and their memory. No arithmetic here. src/binding.ts has the types.
#include <napi.h>

#include "arguments.h"
#include "jobs.h"

namespace lowbit {
namespace {

/// image(): { bytes, targets, version } of the kernels that were embedded
Napi::Value image(const Napi::CallbackInfo& info) {
  const Napi::Object facts = Napi::Object::New(info.Env());
  facts.Set("bytes", static_cast<double>(kImage.bytes));
  facts.Set("targets", kImage.targets);
  facts.Set("version", kImage.version);
  return facts;
}

Napi::Value record(Napi::Env env, const DeviceFacts& facts) {
  const Napi::Object object = Napi::Object::New(env);
  object.Set("name", facts.name);
  object.Set("driver", facts.driver);
  object.Set("capability", facts.capability);
  object.Set("version", facts.version);
  object.Set("multiprocessors", facts.multiprocessors);
  object.Set("free", static_cast<double>(facts.free));
  object.Set("total", static_cast<double>(facts.total));
  return object;
}

std::string text_of(const Napi::Value& value) { return value.IsString() ? value.As<Napi::String>().Utf8Value() : std::string(); }

/// probe(driver path or undefined, ordinal): facts
Napi::Value probe(const Napi::CallbackInfo& info) {
  const auto facts = std::make_shared<DeviceFacts>();
  return Job::start(
      info.Env(), "lowbit probe", {}, [facts, path = text_of(info[0]), ordinal = small_of(info[1])] { *facts = Device::probe(path, ordinal); },
      [facts](Napi::Env env) { return record(env, *facts); });
}

/// openDevice(driver path or undefined, ordinal): device
Napi::Value open_device(const Napi::CallbackInfo& info) {
  const auto opened = std::make_shared<std::shared_ptr<Device>>();
  return Job::start(
      info.Env(), "lowbit device", {},
      [opened, path = text_of(info[0]), ordinal = small_of(info[1])] { *opened = std::make_shared<Device>(path, ordinal); },
      [opened](Napi::Env env) { return Napi::Number::New(env, state(env).devices.add(*opened)); });
}

Napi::Value device_facts(const Napi::CallbackInfo& info) { return record(info.Env(), state(info.Env()).devices.shared(info[0])->facts()); }

/// closeDevice(device): it goes with the last of its buffers and plans
Napi::Value close_device(const Napi::CallbackInfo& info) {
  state(info.Env()).devices.remove(info[0]);
  return info.Env().Undefined();
}

/// memoryInfo(device): [free, total]
Napi::Value memory_info(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    size_t free = 0, total = 0;
    state(info.Env()).devices.shared(info[0])->memory(free, total);
    const Napi::Array both = Napi::Array::New(info.Env(), 2);
    both.Set(0u, Napi::Number::New(info.Env(), static_cast<double>(free)));
    both.Set(1u, Napi::Number::New(info.Env(), static_cast<double>(total)));
    return both;
  });
}

/// createBuffer(device, bytes, onHost): buffer
Napi::Value create_buffer(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    State& all = state(info.Env());
    auto buffer = std::make_shared<Buffer>(all.devices.shared(info[0]), size_of(info[1]), info[2].ToBoolean());
    return Napi::Number::New(info.Env(), all.buffers.add(std::move(buffer)));
  });
}

Napi::Value free_buffer(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    state(info.Env()).buffers.remove(info[0]);
    return info.Env().Undefined();
  });
}

/// bufferAddress(buffer): where it begins, for structures in device memory that point to it
Napi::Value buffer_address(const Napi::CallbackInfo& info) {
  return Napi::BigInt::New(info.Env(), static_cast<uint64_t>(state(info.Env()).buffers.shared(info[0])->at()));
}

/// writeBuffer(buffer, at, bytes)
Napi::Value write_buffer(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    size_t count = 0;
    const uint8_t* from = bytes_of(info[2], count);
    state(info.Env()).buffers.shared(info[0])->write(size_of(info[1]), from, count);
    return info.Env().Undefined();
  });
}

/// uploadBuffer(buffer, at, bytes): resolves when the bytes have been read; the copy is enqueued
Napi::Value upload_buffer(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    size_t count = 0;
    const uint8_t* from = bytes_of(info[2], count);
    const auto buffer = state(info.Env()).buffers.shared(info[0]);
    return Job::start(info.Env(), "lowbit upload", {info[2]}, [buffer, to = size_of(info[1]), from, count] { buffer->upload(to, from, count); });
  });
}

/// copyBuffer(to, at, from, from at, bytes)
Napi::Value copy_buffer(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    State& all = state(info.Env());
    all.buffers.shared(info[0])->copy(size_of(info[1]), *all.buffers.shared(info[2]), size_of(info[3]), size_of(info[4]));
    return info.Env().Undefined();
  });
}

/// readBuffer(buffer, at, out): resolves when it is there
Napi::Value read_buffer(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    size_t count = 0;
    uint8_t* to = bytes_of(info[2], count);
    const auto buffer = state(info.Env()).buffers.shared(info[0]);
    return Job::start(info.Env(), "lowbit read", {info[2]}, [buffer, from = size_of(info[1]), to, count] { buffer->read(from, to, count); });
  });
}

/// laneFacts(device): { room, pinned } that lanes hold for work to come
Napi::Value lane_facts(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    size_t room = 0, pinned = 0;
    state(info.Env()).devices.shared(info[0])->lanes().held(room, pinned);
    const Napi::Object facts = Napi::Object::New(info.Env());
    facts.Set("room", static_cast<double>(room));
    facts.Set("pinned", static_cast<double>(pinned));
    return facts;
  });
}

/// trimLanes(device): what lanes at rest hold is given back
Napi::Value trim_lanes(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const auto device = state(info.Env()).devices.shared(info[0]);
    device->lanes().trim(*device);
    return info.Env().Undefined();
  });
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(new State());
  exports.Set("abi", Napi::Number::New(env, 5));
  exports.Set("image", Napi::Function::New(env, image));
  exports.Set("probe", Napi::Function::New(env, probe));
  exports.Set("openDevice", Napi::Function::New(env, open_device));
  exports.Set("deviceFacts", Napi::Function::New(env, device_facts));
  exports.Set("closeDevice", Napi::Function::New(env, close_device));
  exports.Set("memoryInfo", Napi::Function::New(env, memory_info));
  exports.Set("createBuffer", Napi::Function::New(env, create_buffer));
  exports.Set("freeBuffer", Napi::Function::New(env, free_buffer));
  exports.Set("bufferAddress", Napi::Function::New(env, buffer_address));
  exports.Set("writeBuffer", Napi::Function::New(env, write_buffer));
  exports.Set("uploadBuffer", Napi::Function::New(env, upload_buffer));
  exports.Set("copyBuffer", Napi::Function::New(env, copy_buffer));
  exports.Set("readBuffer", Napi::Function::New(env, read_buffer));
  exports.Set("laneFacts", Napi::Function::New(env, lane_facts));
  exports.Set("trimLanes", Napi::Function::New(env, trim_lanes));
  add_plan_functions(env, exports);
  return exports;
}

}  // namespace

NODE_API_MODULE(lowbit_cuda, init)

}  // namespace lowbit
