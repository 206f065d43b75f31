// The routines of @lowbit/bnb on a run of blocks, on the threads of a pool: the same numbers as packages/bnb/src, bit for bit.
#pragma once

#include "chunks.h"

namespace lowbit {

/// Weights one after another in blocks of `size`, which is even; the last may be short.
struct BlockRun {
  const uint8_t* data;
  Float dtype;
  size_t count;
  size_t size;
  /// How a short last block is treated: divided by its magnitude, which is at least 1e-38 then, or as the others.
  bool divides;

  size_t blocks() const { return (count + size - 1) / size; }
};

/// The cells of a table of 4 bits, in ascending order.
struct FourBitCells {
  const float* cuts;    // [15]
  const uint8_t* codes;  // [16]
  const float* values;  // [16]
};

/// Double quantization of the magnitudes of some blocks, 256 to a magnitude of their own: see packages/bnb/src/double-quant.ts.
struct NestedScales {
  size_t first;   // of all `blocks` of the weight
  size_t blocks;
  float offset;   // their mean; codes are 0 and scales NaN if it is not finite
  const float* magnitudes;  // of each 256 of them
  const float* map;         // [256]
  const float* bounds;      // [255], between the entries of the map
  uint8_t* codes;  // [blocks of the run], as is
  float* scale;    // what a reader makes of them
};

/// Largest magnitudes f32 [blocks].
void bnb_absmax(const Kernels& kernels, Pool& pool, const BlockRun& run, float* absmax);

/// Largest magnitudes f32 [blocks]; packed codes u8 [ceil(count / 2)]; errors f64 [3, blocks]: squared errors, squared weights, largest errors, 0 where the
/// scale is not finite. Scales are the magnitudes unless there are `nested` ones.
void bnb_four_bit(const Kernels& kernels, Pool& pool, const BlockRun& run, const FourBitCells& cells, const NestedScales* nested, float* absmax,
                  uint8_t* packed, double* errors);

}  // namespace lowbit
