// Weights in groups or rows as JavaScript passes them to routines.
#pragma once

#include <napi.h>

#include "arguments.h"
#include "chunks.h"

namespace lowbit {

/// weights, dtype, groups, size
inline TileWeights tile_weights(const Napi::CallbackInfo& info, size_t at) {
  const Float type = stored_float(info[at + 1]);
  const size_t groups = size_of(info[at + 2]);
  const size_t size = size_of(info[at + 3]);
  const size_t width = type == Float::f32 ? 4 : 2;
  check(info.Env(), info[at].IsTypedArray(), "an array is missing");
  const size_t bytes = info[at].As<Napi::Uint8Array>().ElementLength();
  check(info.Env(), size > 0 && groups <= bytes / width / size, "an array is too short");
  return {elements<uint8_t, Napi::Uint8Array>(info[at], bytes), type, groups, size};
}

}  // namespace lowbit
