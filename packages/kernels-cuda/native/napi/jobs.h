// Work off the thread of JavaScript. Plain Node-API: a thread of JavaScript may be ending when the work is done, and then nothing can be thrown or
// resolved any more.
#pragma once

#include <napi.h>

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "arguments.h"

namespace lowbit {

/// `run` on another thread, then `value` on that of JavaScript for what the promise resolves to.
class Job {
 public:
  using Run = std::function<void()>;
  using Value = std::function<Napi::Value(Napi::Env)>;

  /// Its promise. `kept` are arrays that it reads and writes: they stay until it has ended.
  static Napi::Value start(Napi::Env env, const char* name, const std::vector<Napi::Value>& kept, Run run, Value value = nullptr) {
    std::unique_ptr<Job> job(new Job(std::move(run), std::move(value)));
    for (const Napi::Value& array : kept) job->kept_.push_back(Napi::Persistent(array.As<Napi::Object>()));
    napi_value promise = nullptr;
    check(env, napi_create_promise(env, &job->deferred_, &promise) == napi_ok, "no promise can be made");
    const Napi::String text = Napi::String::New(env, name);
    check(env, napi_create_async_work(env, nullptr, text, execute, complete, job.get(), &job->work_) == napi_ok, "no work can be queued");
    check(env, napi_queue_async_work(env, job->work_) == napi_ok, "no work can be queued");
    job.release();  // complete deletes it
    return {env, promise};
  }

 private:
  Job(Run run, Value value) : run_(std::move(run)), value_(std::move(value)) {}

  static void execute(napi_env, void* data) {
    Job& job = *static_cast<Job*>(data);
    try {
      job.run_();
    } catch (const DeviceError& error) {
      job.code_ = error.code;
      job.message_ = error.what();
    } catch (const std::bad_alloc&) {
      job.code_ = "OUT_OF_MEMORY";
      job.message_ = "out of memory of the host";
    } catch (const std::exception& error) {
      job.code_ = "DEVICE";
      job.message_ = error.what();
    } catch (...) {
      job.code_ = "DEVICE";
    }
  }

  static void complete(napi_env env, napi_status status, void* data) {
    napi_handle_scope scope;
    const bool open = napi_open_handle_scope(env, &scope) == napi_ok;
    {
      const std::unique_ptr<Job> job(static_cast<Job*>(data));
      napi_delete_async_work(env, job->work_);
      napi_value result = nullptr;
      if (open && status == napi_ok && job->code_ == nullptr) {
        if (job->value_) result = job->value_(env);
        else napi_get_undefined(env, &result);
      }
      if (open && result != nullptr) {
        napi_resolve_deferred(env, job->deferred_, result);
      } else if (open) {
        napi_value code = nullptr, message = nullptr;
        napi_create_string_utf8(env, job->code_ == nullptr ? "DEVICE" : job->code_, NAPI_AUTO_LENGTH, &code);
        napi_create_string_utf8(env, job->message_.c_str(), job->message_.size(), &message);
        if (napi_create_error(env, code, message, &result) == napi_ok) napi_reject_deferred(env, job->deferred_, result);
      }
    }
    if (open) napi_close_handle_scope(env, scope);
  }

  Run run_;
  Value value_;
  napi_deferred deferred_ = nullptr;
  napi_async_work work_ = nullptr;
  std::vector<Napi::ObjectReference> kept_;
  const char* code_ = nullptr;  // of what went wrong
  std::string message_ = "the work was stopped";
};

}  // namespace lowbit
