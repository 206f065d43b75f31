// A call of a routine: JavaScript's arguments, checked on its thread, and the work, on another.
#pragma once

#include <napi.h>

#include <memory>
#include <utility>
#include <vector>

#include "arguments.h"
#include "chunks.h"
#include "jobs.h"

namespace lowbit {

/// The first argument is the machine. Arrays that are taken from here stay until the work has ended.
class RoutineCall {
 public:
  explicit RoutineCall(const Napi::CallbackInfo& info) : info_(info), machine_(state(info).machines.shared(info[0])) {}

  Napi::Env env() const { return info_.Env(); }
  Napi::Value operator[](size_t at) const { return info_[at]; }
  void check(bool condition, const char* message) const { lowbit::check(env(), condition, message); }
  size_t size(size_t at) const { return size_of(info_[at]); }
  double number(size_t at) const { return info_[at].As<Napi::Number>().DoubleValue(); }

  int levels(size_t at) const {
    const size_t levels = size(at);
    check(levels >= 2 && levels <= 256, "2 to 256 levels");
    return static_cast<int>(levels);
  }

  /// At least `count` numbers.
  template <class T>
  T* array(size_t at, size_t count) {
    T* found = elements<T>(info_[at], count);
    keep(at);
    return found;
  }

  /// Weights of a dtype as bytes, and how many there are of them.
  struct Stored {
    const uint8_t* data;
    Float type;
    size_t count;
  };
  /// weights, dtype
  Stored stored(size_t at) {
    const size_t bytes = length_of(info_[at]);
    const Float type = stored_float(info_[at + 1]);
    return {array<uint8_t>(at, bytes), type, bytes / float_bytes(type)};
  }

  /// weights, dtype, groups, size
  TileWeights tile(size_t at) {
    const Stored weights = stored(at);
    const size_t groups = size(at + 2), length = size(at + 3);
    check(length > 0 && groups <= weights.count / length, "an array is too short");
    return {weights.data, weights.type, groups, length};
  }

  /// An array, or what has arrays in it.
  void keep(size_t at) { kept_.push_back(info_[at]); }

  /// A promise that resolves to undefined when `work`, a function of kernels and threads, has run on another thread.
  template <class Work>
  Napi::Value run(const char* name, Work work) {
    auto job = std::make_unique<Running<Work>>(machine_, std::move(work));
    for (const Napi::Value& array : kept_) job->keep(array);
    return Job::start(env(), std::move(job), name);
  }

 private:
  template <class Work>
  class Running : public Job {
   public:
    Running(std::shared_ptr<Machine> machine, Work work) : machine_(std::move(machine)), work_(std::move(work)) {}
    void run() override { work_(*machine_->kernels, *machine_->pool); }
    napi_value value(napi_env env) override {
      napi_value result = nullptr;
      return napi_get_undefined(env, &result) == napi_ok ? result : nullptr;
    }

   private:
    std::shared_ptr<Machine> machine_;
    Work work_;
  };

  const Napi::CallbackInfo& info_;
  std::shared_ptr<Machine> machine_;
  std::vector<Napi::Value> kept_;
};

/// A routine among the functions of the addon.
template <Napi::Value (*routine)(RoutineCall&)>
void add_routine(Napi::Object exports, const char* name) {
  const auto function = [](const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      RoutineCall call(info);
      return routine(call);
    });
  };
  exports.Set(name, Napi::Function::New(exports.Env(), function));
}

}  // namespace lowbit
