// Work off the thread of JavaScript.
#pragma once

#include <napi.h>

#include <functional>
#include <initializer_list>

namespace lowbit {

/**
 * A promise that resolves to undefined when `body` has run on another thread. `kept` are the arrays that it reads and writes: they stay until then. What it
 * throws rejects: std::bad_alloc as ERR_OUT_OF_MEMORY, std::invalid_argument as ERR_BAD_ARGUMENT, anything else as ERR_NATIVE.
 */
Napi::Value run_job(Napi::Env env, const char* name, std::initializer_list<Napi::Value> kept, std::function<void()> body);

}  // namespace lowbit
