// The normalised Walsh-Hadamard transform of runs of numbers, in shared memory.
#pragma once

#include "port.cuh"

namespace lowbit {

/**
 * Rows of x [rows, features] filled up with zeros to `columns`, each run of `run` multiplied by the Hadamard matrix: out [rows, columns], or the first
 * `kept` of each row. `run` is a power of two that divides `columns`.
 * Grid: (columns / run, rows); block: up to 256; dynamic shared memory: run floats.
 */
extern "C" __global__ void hadamard(const float* x, int features, int run, float norm, float* out, int kept) {
  LOWBIT_DYNAMIC_SHARED(float, sums);
  const int first = blockIdx.x * run;
  const float* row = x + static_cast<long long>(blockIdx.y) * features;
  for (int i = threadIdx.x; i < run; i += blockDim.x) sums[i] = first + i < features ? row[first + i] : 0;
  __syncthreads();
  for (int half = 1; half < run; half *= 2) {
    for (int pair = threadIdx.x; pair < run / 2; pair += blockDim.x) {
      const int i = (pair / half) * 2 * half + pair % half;
      const float a = sums[i], b = sums[i + half];
      sums[i] = a + b;
      sums[i + half] = a - b;
    }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < run; i += blockDim.x) {
    if (first + i < kept) out[static_cast<long long>(blockIdx.y) * kept + first + i] = sums[i] * norm;
  }
}

}  // namespace lowbit
