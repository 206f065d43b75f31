#include "job.h"

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "arguments.h"

namespace lowbit {
namespace {

/// Plain Node-API: a thread of JavaScript may be ending when it is done, and then nothing can be thrown or resolved any more.
struct Job {
  std::function<void()> body;
  std::vector<napi_ref> kept;
  napi_deferred deferred = nullptr;
  napi_async_work work = nullptr;
  const char* code = nullptr;  // of what went wrong
  std::string message;
};

void run(napi_env, void* data) {
  Job& job = *static_cast<Job*>(data);
  try {
    job.body();
  } catch (const std::bad_alloc&) {
    job.code = "ERR_OUT_OF_MEMORY";
    job.message = "out of memory";
  } catch (const std::invalid_argument& error) {
    job.code = "ERR_BAD_ARGUMENT";
    job.message = error.what();
  } catch (const std::exception& error) {
    job.code = "ERR_NATIVE";
    job.message = error.what();
  } catch (...) {
    job.code = "ERR_NATIVE";
    job.message = "a routine could not be run";
  }
}

void end(napi_env env, napi_status, void* data) {
  const std::unique_ptr<Job> job(static_cast<Job*>(data));
  napi_delete_async_work(env, job->work);
  for (napi_ref kept : job->kept) napi_delete_reference(env, kept);
  napi_handle_scope scope;
  if (napi_open_handle_scope(env, &scope) != napi_ok) return;
  napi_value value = nullptr;
  if (job->code != nullptr) {
    napi_value code = nullptr, message = nullptr;
    const std::string text = "kernels-cpu: " + job->message;
    napi_create_string_utf8(env, job->code, NAPI_AUTO_LENGTH, &code);
    napi_create_string_utf8(env, text.c_str(), text.size(), &message);
    if (napi_create_error(env, code, message, &value) == napi_ok) napi_reject_deferred(env, job->deferred, value);
  } else if (napi_get_undefined(env, &value) == napi_ok) {
    napi_resolve_deferred(env, job->deferred, value);
  }
  napi_close_handle_scope(env, scope);
}

}  // namespace

Napi::Value run_job(Napi::Env env, const char* name, std::initializer_list<Napi::Value> kept, std::function<void()> body) {
  auto job = std::make_unique<Job>();
  job->body = std::move(body);
  napi_value promise = nullptr;
  check(env, napi_create_promise(env, &job->deferred, &promise) == napi_ok, "no promise can be made");
  const Napi::String resource = Napi::String::New(env, name);
  check(env, napi_create_async_work(env, nullptr, resource, run, end, job.get(), &job->work) == napi_ok, "no work can be queued");
  for (const Napi::Value& value : kept) {
    napi_ref ref = nullptr;
    if (value.IsObject() && napi_create_reference(env, value, 1, &ref) == napi_ok) job->kept.push_back(ref);
  }
  if (napi_queue_async_work(env, job->work) != napi_ok) {
    for (napi_ref ref : job->kept) napi_delete_reference(env, ref);
    napi_delete_async_work(env, job->work);
    fail(env, "no work can be queued");
  }
  job.release();  // end() deletes it
  return {env, promise};
}

}  // namespace lowbit
