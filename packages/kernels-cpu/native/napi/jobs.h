// Work off the thread of JavaScript. Plain Node-API: a thread of JavaScript may be ending when the work is done, and then nothing can be thrown or
// resolved any more.
#pragma once

#include <napi.h>

#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "arguments.h"

namespace lowbit {

/// What is to be done, and what becomes of the promise.
class Job {
 public:
  virtual ~Job() = default;
  /// On another thread. What it throws rejects the promise.
  virtual void run() = 0;
  /// On the thread of JavaScript, after `run` has returned: the value of the promise; null rejects.
  virtual napi_value value(napi_env env) = 0;

  /// Keeps an array of JavaScript until the job has ended.
  void keep(const Napi::Value& array) { kept_.push_back(Napi::Persistent(array.As<Napi::Object>())); }

  /// Starts the job; its promise.
  static Napi::Value start(Napi::Env env, std::unique_ptr<Job> job, const char* name) {
    napi_value promise = nullptr;
    check(env, napi_create_promise(env, &job->deferred_, &promise) == napi_ok, "no promise can be made");
    const Napi::String text = Napi::String::New(env, name);
    check(env, napi_create_async_work(env, nullptr, text, execute, complete, job.get(), &job->work_) == napi_ok, "no work can be queued");
    check(env, napi_queue_async_work(env, job->work_) == napi_ok, "no work can be queued");
    job.release();  // complete deletes it
    return {env, promise};
  }

 protected:
  void fail(const char* code, const std::string& message) {
    code_ = code;
    message_ = message;
  }

 private:
  static void execute(napi_env, void* data) {
    Job& job = *static_cast<Job*>(data);
    try {
      job.run();
    } catch (const std::bad_alloc&) {
      job.fail("ERR_OUT_OF_MEMORY", "out of memory");
    } catch (const std::invalid_argument& error) {
      job.fail("ERR_BAD_ARGUMENT", error.what());
    } catch (const std::exception& error) {
      job.fail("ERR_NATIVE", error.what());
    } catch (...) {
      job.fail("ERR_NATIVE", "unknown failure");
    }
  }

  static void complete(napi_env env, napi_status status, void* data) {
    napi_handle_scope scope;
    const bool open = napi_open_handle_scope(env, &scope) == napi_ok;
    {
      const std::unique_ptr<Job> job(static_cast<Job*>(data));
      napi_delete_async_work(env, job->work_);
      napi_value result = nullptr;
      if (open && status == napi_ok && job->code_ == nullptr) result = job->value(env);
      if (open && result != nullptr) {
        napi_resolve_deferred(env, job->deferred_, result);
      } else if (open) {
        napi_value code = nullptr, message = nullptr;
        const std::string text = "kernels-cpu: " + job->message_;
        napi_create_string_utf8(env, job->code_ == nullptr ? "ERR_NATIVE" : job->code_, NAPI_AUTO_LENGTH, &code);
        napi_create_string_utf8(env, text.c_str(), text.size(), &message);
        if (napi_create_error(env, code, message, &result) == napi_ok) napi_reject_deferred(env, job->deferred_, result);
      }
    }
    if (open) napi_close_handle_scope(env, scope);
  }

  napi_deferred deferred_ = nullptr;
  napi_async_work work_ = nullptr;
  std::vector<Napi::ObjectReference> kept_;
  const char* code_ = nullptr;  // of what went wrong
  std::string message_ = "the work was stopped";
};

}  // namespace lowbit
