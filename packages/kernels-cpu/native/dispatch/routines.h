// The routines of @lowbit/hqq on one tile, on the threads of a pool: the same numbers as packages/hqq/src/routines.ts, bit for bit.
#pragma once

#include "lowbit_cpu.h"
#include "pool.h"

namespace lowbit {

/// Weights of a tile, [groups, size], in f32, f16 or bf16 at any byte offset.
struct TileWeights {
  const uint8_t* data;
  Float dtype;
  size_t groups;
  size_t size;
};

struct MinMaxRules {
  int levels;
  bool round_zero;
  bool small_range;
};

struct Shrinkage {
  int levels;
  double norm;
  double beta;
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

/// Inverse scale and zero f32 [groups].
void hqq_min_max(const Kernels& kernels, Pool& pool, const TileWeights& w, const MinMaxRules& rules, float* inverse, float* zero);

/// Updates zero and settled [groups]; sums: of the groups that move, of those that settled now, and how many are left.
void hqq_proximal_step(const Kernels& kernels, Pool& pool, const TileWeights& w, const Shrinkage& shrinkage, const float* inverse,
                       float* zero, uint8_t* settled, double* sums);

/// Packed words, zeroed before; sums: squared errors, squared weights, largest error. inverse and solved may be null together.
Status hqq_finish(const Kernels& kernels, Pool& pool, const TileWeights& w, int levels, const float* scale, const float* zero,
                  const float* inverse, const float* solved, const TilePacking& packing, uint8_t* words, double* sums);

}  // namespace lowbit
