// HIGGS: packages/higgs/src/code-blocks.ts and nearest.ts, operation by operation, and the packings of FLUTE.
#pragma once

#include "weight.cuh"

namespace lowbit {

/// The transform of `run` numbers in shared memory, not normalized, by the threads of a block: each sum rounds as the definition says.
__device__ __forceinline__ void rotate_shared(float* sums, int run) {
  for (int half = 1; half < run; half *= 2) {
    for (int pair = threadIdx.x; pair < run / 2; pair += blockDim.x) {
      const int i = (pair / half) * 2 * half + pair % half;
      const float a = sums[i], b = sums[i + half];
      sums[i] = a + b;
      sums[i + half] = a - b;
    }
    __syncthreads();
  }
}

/**
 * Codes of the Hadamard blocks of a run, the first of which is block `column` of its row: rotated, each `dim` numbers the nearest of `size` points (largest score
 * 2 x . point - |point|^2 in f32, the lowest of equal ones). codes [blocks, block / dim], scales [blocks, per_block], infinite where one does not fit its dtype;
 * errors [blocks, 3]: squared errors, squared weights, largest error. `farthest`: largest magnitude of `stored`, the points as a reader has them.
 * Grid: blocks; block: 128; dynamic shared memory: `block` floats.
 */
extern "C" __global__ void higgs_code(const unsigned char* weights, int dtype, int inp, int block, int per_row, int column, int dim, int size,
                                      const float* points, const float* norms, const float* stored, int scale_dtype, float farthest, int per_block,
                                      unsigned char* codes, float* scales, double* errors) {
  LOWBIT_DYNAMIC_SHARED(float, values);
  LOWBIT_SHARED(float, grid, 3 * 256);
  LOWBIT_SHARED(float, shared, 2);  // norm, scale
  const Address from = reinterpret_cast<Address>(weights);
  const int b = blockIdx.x, index = column + b, begin = index % per_row * block, count = inp - begin < block ? inp - begin : block;
  const long long at = static_cast<long long>(index / per_row) * inp + begin - static_cast<long long>(column) * block;
  for (int i = threadIdx.x; i < block; i += blockDim.x) values[i] = i < count ? stored_float(from, at + i, dtype) : 0;
  for (int c = threadIdx.x; c < size; c += blockDim.x) {
    grid[3 * c] = points[c * dim];
    grid[3 * c + 1] = dim == 2 ? points[2 * c + 1] : 0;
    grid[3 * c + 2] = norms[c];
  }
  __syncthreads();
  double squares = 0;
  if (threadIdx.x == 0) {
    for (int i = 0; i < count; ++i) squares += static_cast<double>(values[i]) * static_cast<double>(values[i]);
    float norm = 0, scale = 0;
    if (squares > 0) {
      norm = static_cast<float>(sqrt(squares));
      scale = rounded(norm / static_cast<float>(sqrt(static_cast<double>(block))), scale_dtype);
      const float most = rounded(static_cast<float>(static_cast<double>(scale) * static_cast<double>(farthest)), scale_dtype);
      if (!(static_cast<double>(norm) * block < 1.7014118346046923e38 && fabsf(most) <= 3.4028235e38f)) {
        norm = 0;
        scale = bits_to_float(0x7f800000u);
      }
    }
    shared[0] = norm;
    shared[1] = scale;
  }
  __syncthreads();
  const float norm = shared[0], scale = shared[1];
  const int vectors = block / dim;
  unsigned char* const mine = codes + static_cast<long long>(b) * vectors;
  for (int i = threadIdx.x; i < per_block; i += blockDim.x) scales[static_cast<long long>(b) * per_block + i] = scale;
  // A block of zeros, or one that is refused: codes 0, no error.
  if (norm == 0) {
    for (int i = threadIdx.x; i < vectors; i += blockDim.x) mine[i] = 0;
  } else {
    rotate_shared(values, block);
    for (int i = threadIdx.x; i < vectors; i += blockDim.x) {
      const float x = 2 * (values[dim * i] / norm), y = dim == 2 ? 2 * (values[2 * i + 1] / norm) : 0;
      int best = 0;
      float most = -bits_to_float(0x7f800000u);
      for (int c = 0; c < size; ++c) {
        const float dot = dim == 2 ? x * grid[3 * c] + y * grid[3 * c + 1] : x * grid[3 * c];
        const float score = dot - grid[3 * c + 2];
        if (score > most) {
          most = score;
          best = c;
        }
      }
      mine[i] = static_cast<unsigned char>(best);
      for (int d = 0; d < dim; ++d) values[dim * i + d] = rounded(stored[dim * best + d] * scale, scale_dtype);
    }
    __syncthreads();
    rotate_shared(values, block);
  }
  if (threadIdx.x != 0) return;
  const double inverse = 1 / sqrt(static_cast<double>(block));
  double squared_error = 0, largest = 0;
  for (int i = 0; norm != 0 && i < count; ++i) {
    const double error = fabs(static_cast<double>(stored_float(from, at + i, dtype)) - static_cast<double>(values[i]) * inverse);
    squared_error += error * error;
    if (error > largest) largest = error;
  }
  errors[3 * static_cast<long long>(b)] = squared_error;
  errors[3 * static_cast<long long>(b) + 1] = squares;
  errors[3 * static_cast<long long>(b) + 2] = largest;
}

/// A field of a word of FLUTE's: two codes of a scalar grid, or one of a grid of pairs.
__device__ __forceinline__ uint32_t flute_field(const unsigned char* codes, int columns, int bits, int dim, int row, int j) {
  const unsigned char* const from = codes + static_cast<long long>(row) * columns;
  return dim == 2 ? from[j] : static_cast<uint32_t>(from[2 * j] << bits | from[2 * j + 1]);
}

/// Codes of a tile [rows, columns] as words of FLUTE's packing: packages/core/src/pack/flute.ts. Grid: ceil(words / 256); block: 256.
extern "C" __global__ void flute_pack(const unsigned char* codes, int columns, int bits, int dim, int tile, int words, uint32_t* packed) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= words) return;
  const int fields = columns * dim / 2, row = i / fields, j = i % fields, width = 2 * bits;
  uint32_t word = 0;
  if (bits != 3) {
    for (int c = 0; c * width < 32; ++c) word |= flute_field(codes, columns, bits, dim, c * tile + row, j) << (width * c);
  } else {
    // Three words for 16 fields of six bits: five whole ones each, and two bits of the last.
    const int rest = row - tile, plane = rest < 0 ? 0 : 1 + rest % 64 / 32, t = rest < 0 ? row : rest / 64 * 32 + rest % 32;
    for (int c = plane; c < 15; c += 3) word |= flute_field(codes, columns, bits, dim, c * tile + t, j) << (6 * (c / 3));
    word |= (flute_field(codes, columns, bits, dim, 15 * tile + t, j) >> (2 * plane) & 3) << 30;
  }
  packed[i] = word;
}

}  // namespace lowbit
