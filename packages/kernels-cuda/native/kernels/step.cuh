// What changes from step to step, in one block of device memory that is written before the step. Written by src/step-block.ts.
#pragma once

#include "port.cuh"

namespace lowbit {

enum Rows : int { kTokens = 0, kOutputs = 1, kRouted = 2, kEncoder = 3, kOnce = 4 };

/// A sequence's share.
struct Share {
  int start, length;                   // position of its first new token; length that rotations go by
  int from[4], count[4];               // of its rows, by domain
};

/// Sections, as bytes from the block's beginning. `inputs` begin the values of each input operation, `injections` two sections for each inject operation.
struct Step {
  uint32_t tokens;       // u32 [tokens]
  uint32_t shares;       // Share [shares]
  uint32_t share_of[4];  // i32 [rows], by domain
  uint32_t position[4];  // i32 [rows]
  uint32_t source;       // i32 [outputs]: the token row of each
  uint32_t caches;       // CacheView [shares][caches]
  uint32_t ropes;        // u32 [ropes][2][shares]: where the f64 frequencies of each are; of tokens, of encoder rows
  uint32_t share_count, cache_count;
  uint32_t named[1];     // of inputs and injections, as src/lower.ts numbers them
};

/// Keys and values of one sequence in one cache, as they are after this step's rows have been appended.
struct CacheView {
  Address k, v;
  int rows;    // in all
  int before;  // before this step
};

template <class T>
__device__ __forceinline__ const T* section(const Step* step, uint32_t at) {
  return reinterpret_cast<const T*>(reinterpret_cast<const unsigned char*>(step) + at);
}

}  // namespace lowbit
