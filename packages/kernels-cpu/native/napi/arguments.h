// Arguments of JavaScript, checked.
#pragma once

#include <napi.h>

#include <string>
#include <type_traits>
#include <vector>

#include "handles.h"

namespace lowbit {

inline State& state(const Napi::CallbackInfo& info) { return *info.Env().GetInstanceData<State>(); }

[[noreturn]] inline void fail(Napi::Env env, const std::string& message, const char* code = "ERR_BAD_ARGUMENT") {
  Napi::Error error = Napi::Error::New(env, "kernels-cpu: " + message);
  error.Set("code", Napi::String::New(env, code));
  throw error;
}

inline void check(Napi::Env env, bool condition, const char* message) {
  if (!condition) fail(env, message);
}

inline void check(Napi::Env env, Status status) {
  if (status != Status::ok) fail(env, "a size or a code does not fit the weight");
}

inline size_t size_of(const Napi::Value& value) {
  const double number = value.As<Napi::Number>().DoubleValue();
  if (!(number >= 0 && number <= 9007199254740991.0)) fail(value.Env(), "a size is out of range");
  return static_cast<size_t>(number);
}

/// The type that JavaScript must have given an array of T: numbers of the same size are not the same numbers.
template <class T>
constexpr napi_typedarray_type kTypeOf = std::is_same_v<T, float>      ? napi_float32_array
                                         : std::is_same_v<T, double>   ? napi_float64_array
                                         : std::is_same_v<T, uint32_t> ? napi_uint32_array
                                                                       : napi_uint8_array;

/// Elements of a typed array of just this type, at least `count` of them; its memory may be shared between threads of JavaScript.
template <class T>
T* elements(const Napi::Value& value, size_t count) {
  if (!value.IsTypedArray()) fail(value.Env(), "an array is missing");
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double> || std::is_same_v<T, uint32_t> || std::is_same_v<T, uint8_t>);
  if (value.As<Napi::TypedArray>().TypedArrayType() != kTypeOf<T>) fail(value.Env(), "an array is of another type");
  auto array = value.As<Napi::TypedArrayOf<T>>();
  if (array.ElementLength() < count) fail(value.Env(), "an array is too short");
  return array.Data();
}

/// How many elements an array has; of none at all, 0.
inline size_t length_of(const Napi::Value& value) { return value.IsTypedArray() ? value.As<Napi::TypedArray>().ElementLength() : 0; }

/// All elements of a typed array.
template <class T>
std::vector<T> copied(const Napi::Value& value) {
  const size_t count = length_of(value);
  const T* from = elements<T>(value, count);
  return {from, from + count};
}

/// A dtype of weights.
inline Float stored_float(const Napi::Value& value) {
  const std::string name = value.As<Napi::String>().Utf8Value();
  if (name != "f32" && name != "f16" && name != "bf16") fail(value.Env(), "weights cannot be " + name);
  return name == "f32" ? Float::f32 : name == "f16" ? Float::f16 : Float::bf16;
}

/// Runs `body`; what the standard library throws becomes an error with a code.
template <class F>
Napi::Value guarded(Napi::Env env, F&& body) {
  try {
    return body();
  } catch (const Napi::Error&) {
    throw;
  } catch (const std::bad_alloc&) {
    fail(env, "out of memory", "ERR_OUT_OF_MEMORY");
  } catch (const std::exception& error) {
    fail(env, error.what(), "ERR_NATIVE");
  }
}

/// compile, step and the rest: program.cc.
void add_program_functions(Napi::Env env, Napi::Object exports);
/// Routines of quantizers and of what serves them: routines-*.cc, with routine-call.h.
void add_hqq_functions(Napi::Object exports);
void add_feedback_functions(Napi::Object exports);
void add_bnb_functions(Napi::Object exports);
void add_higgs_functions(Napi::Object exports);

}  // namespace lowbit
