// LLM.int8 of @lowbit/bnb on some rows, on the threads of a pool: the same numbers as packages/bnb/src/int8-row.ts, bit for bit.
#pragma once

#include "chunks.h"

namespace lowbit {

struct Int8Rows {
  TileWeights weights;  // groups are rows
  /// The weight has few elements: all of them by the rule.
  bool few;
  /// Weights came from numbers of 16 bits.
  bool narrow;
};

/// Largest magnitude of each row f32 [rows], NaN if one is; codes as bytes [rows, size], errors f64 [3, rows]: squared errors, squared weights, largest
/// errors. All 0 of a row whose magnitude float16 does not have.
void bnb_int8(const Kernels& kernels, Pool& pool, const Int8Rows& rows, float* magnitudes, uint8_t* codes, double* errors);

}  // namespace lowbit
