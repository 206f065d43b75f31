// Arguments of JavaScript, checked, and what it holds by number: a number that is not (or no longer) there is an error, never a wild pointer.
#pragma once

#include <napi.h>

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "plan.h"

namespace lowbit {

[[noreturn]] inline void fail(Napi::Env env, const std::string& message, const char* code = "BAD_ARGUMENT") {
  Napi::Error error = Napi::Error::New(env, message);
  error.Set("code", Napi::String::New(env, code));
  throw error;
}

inline void check(Napi::Env env, bool condition, const char* message) {
  if (!condition) fail(env, message);
}

inline size_t size_of(const Napi::Value& value) {
  check(value.Env(), value.IsNumber(), "a number is missing");
  const double number = value.As<Napi::Number>().DoubleValue();
  check(value.Env(), number >= 0 && number <= 9007199254740991.0, "a size is out of range");
  return static_cast<size_t>(number);
}

inline int small_of(const Napi::Value& value) {
  const size_t number = size_of(value);
  check(value.Env(), number <= 0x7fffffff, "a number is out of range");
  return static_cast<int>(number);
}

/// Bytes of a Uint8Array, at least `count`.
inline uint8_t* bytes_of(const Napi::Value& value, size_t& count) {
  check(value.Env(), value.IsTypedArray() && value.As<Napi::TypedArray>().TypedArrayType() == napi_uint8_array, "a Uint8Array is missing");
  const Napi::Uint8Array array = value.As<Napi::Uint8Array>();
  count = array.ElementLength();
  return const_cast<Napi::Uint8Array&>(array).Data();
}

template <class T>
class Handles {
 public:
  uint32_t add(std::shared_ptr<T> item) {
    items_.emplace(++last_, std::move(item));
    return last_;
  }
  const std::shared_ptr<T>& shared(const Napi::Value& handle) {
    const auto found = handle.IsNumber() ? items_.find(handle.As<Napi::Number>().Uint32Value()) : items_.end();
    if (found == items_.end()) fail(handle.Env(), "no such handle");
    return found->second;
  }
  /// Whoever still uses it keeps it.
  void remove(const Napi::Value& handle) { items_.erase(handle.As<Napi::Number>().Uint32Value()); }

 private:
  std::unordered_map<uint32_t, std::shared_ptr<T>> items_;
  uint32_t last_ = 0;
};

/// One for each environment of JavaScript; its end gives everything back, devices last.
struct State {
  Handles<Device> devices;
  Handles<Buffer> buffers;
  Handles<Plan> plans;
};

inline State& state(Napi::Env env) { return *env.GetInstanceData<State>(); }

/// Runs `body`; what it throws becomes an error with a code.
template <class F>
Napi::Value guarded(Napi::Env env, F&& body) {
  try {
    return body();
  } catch (const Napi::Error&) {
    throw;
  } catch (const DeviceError& error) {
    fail(env, error.what(), error.code);
  } catch (const std::bad_alloc&) {
    fail(env, "out of memory of the host", "OUT_OF_MEMORY");
  } catch (const std::exception& error) {
    fail(env, error.what(), "DEVICE");
  }
}

/// plans.cc
void add_plan_functions(Napi::Env env, Napi::Object exports);

}  // namespace lowbit
