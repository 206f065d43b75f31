// The routines of @lowbit/hqq on one tile, on the threads of a pool: the same numbers as packages/hqq/src/routines.ts, bit for bit.
#pragma once

#include "chunks.h"

namespace lowbit {

struct MinMaxRules {
  int levels;
  bool round_zero;
  bool small_range;
};

/// Half-quadratic steps to take, one for each beta.
struct ProximalSteps {
  int levels;
  double norm;
  const double* betas;
  size_t count;
  double last_beta;
};

/// How the codes of a tile are packed: `lanes` runs of groups (axis 1), or columns of a matrix of word rows (axis 0).
struct TilePacking {
  int bits;
  int lanes;
  int word_bytes;  // 1 or 4
  int axis;
  size_t word_rows;
  size_t extent;
  const size_t* lane_groups;  // axis 1: [lanes]

  size_t words(size_t size) const { return axis == 1 ? extent * size : word_rows * extent; }
};

/// Grids of a tile, f32 [groups]; inverse and solved may be null together.
struct TileGrid {
  const float* scale;
  const float* zero;
  const float* inverse;
  const float* solved;
};

/// Inverse scale and zero f32 [groups].
void hqq_min_max(const Kernels& kernels, Pool& pool, const TileWeights& w, const MinMaxRules& rules, float* inverse, float* zero);

/// Zeros after each step [steps, groups], from `zero` [groups]; updates settled [groups]. Sums of each step [steps, 3]: of the groups that move, of those
/// that settled in it, and how many are left.
void hqq_proximal_steps(const Kernels& kernels, Pool& pool, const TileWeights& w, const ProximalSteps& steps, const float* inverse,
                        const float* zero, float* zeros, uint8_t* settled, double* sums);

/// Packed words, all of them written; sums: squared errors, squared weights, largest error.
Status hqq_finish(const Kernels& kernels, Pool& pool, const TileWeights& w, int levels, const TileGrid& grid, const TilePacking& packing,
                  uint8_t* words, double* sums);

}  // namespace lowbit
