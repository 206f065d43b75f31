// hqq.least-squares on one tile, on the threads of a pool: the numbers of packages/hqq/src/solvers/least-squares.ts, bit for bit.
#pragma once

#include "chunks.h"

namespace lowbit {

struct LeastSquares {
  int levels;
  size_t alternations;  // most fits from each start
  Float scale;          // what the grids are rounded to
  Float zero;
};

/// Which input channel each weight of a tile meets, and what channels count.
struct TileChannels {
  const double* values;  // [count]; null: all alike
  size_t count;
  int axis;
  size_t columns;       // of the grouped matrix
  const size_t* groups;  // [groups]: their numbers in the whole weight
};

/// Scale and zero f32 [groups], numbers of their dtypes; a scale of NaN where a group has NaN or infinity.
void hqq_least_squares(const Kernels& kernels, Pool& pool, const TileWeights& w, const LeastSquares& fit, const TileChannels& channels,
                       float* scale, float* zero);

}  // namespace lowbit
