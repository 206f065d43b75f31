// Products of several rows of x on tensor cores, in floating point: dense weights, HIGGS and other tables, axis 0.
#pragma once

#include "mma.cuh"
#include "tensor-cores.cuh"
#include "wide.cuh"

namespace lowbit {

/**
 * As `product`, for rows and groups that are multiples of 8 inputs. A lane has 8 inputs in a row of its two rows of the weight and of each row of x: four tiles
 * of 8 inputs of the warp. The inputs are shared out among four warps, 32 at a time. Rows of x are up to 32 of `rows`, from `base` on.
 */
template <class Rows>
__device__ __forceinline__ void multiply_wide(const Weight& w, const float* table, const float* x, float* out, int rows, int base, const Rows& map,
                                              float* partial) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, quarter = lane % 4;
  const int first = blockIdx.x * kTileRows, count = min(rows - base, kTiles * 8);
  // Numbers of 16 bits have no more digits than tensor cores take.
  const bool exact = w.kind == kDense ? w.stored != kF32 : w.table != 0 && w.round != kF32;
  float sums[kTiles][4] = {};
  for (int block = warp; block * kBlock < w.inp; block += kWarps) {
    const int k = block * kBlock + kWide * quarter;
    float mine[2][kWide] = {};
    if (k < w.inp) {
      // Past the last row: the last again, for nothing.
      eight_weights(w, table, min(first + group, w.out - 1), k, mine[0]);
      eight_weights(w, table, min(first + group + 8, w.out - 1), k, mine[1]);
    }
    Halves<4> weights[4];
    LOWBIT_UNROLL
    for (int s = 0; s < 4; ++s) weights[s] = halves(mine[0][2 * s], mine[1][2 * s], mine[0][2 * s + 1], mine[1][2 * s + 1]);
    LOWBIT_UNROLL
    for (int tile = 0; tile < kTiles; ++tile) {
      if (tile * 8 >= count) continue;
      float inputs[kWide] = {};
      if (k < w.inp) load_eight(x + static_cast<long long>(map.from(base + min(tile * 8 + group, count - 1))) * w.inp + k, inputs);
      LOWBIT_UNROLL
      for (int s = 0; s < 4; ++s) multiply_halves(sums[tile], weights[s], exact, halves(inputs[2 * s], inputs[2 * s + 1]), false);
    }
  }
  store_tiles(w, partial, sums, first, base, count, map, out);
}

/// Grid: (ceil(out / 16), ceil(rows / 32)); block: 128.
extern "C" __global__ void __launch_bounds__(128) mma_wide(const Weight* weight, const float* x, float* out, int rows) {
  LOWBIT_SHARED(float, table, 512);
  LOWBIT_SHARED(float, partial, kWarps * kTileSums);
  const Weight w = *weight;
  load_table(w, table);
  multiply_wide(w, table, x, out, rows, blockIdx.y * kTiles * 8, AllRows(), partial);
}

}  // namespace lowbit
