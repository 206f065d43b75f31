// LLM.int8 of many rows on tensor cores, in integers: tiles of 128 rows of x by 128 of the weight, 128 inputs at a time, as gemm.cuh has them. Numbers are those
// of `mma_int8`, byte for byte.
#pragma once

#include "gemm.cuh"
#include "int8.cuh"

namespace lowbit {

constexpr int kCodeDepth = 128;  // inputs of a tile
constexpr int kCodeStages = 3;
constexpr int kColumnsAtOnce = 32;  // outliers
static_assert(kCodeStages * 2 * kTileBytes <= kGemmShared && 2 * kColumnsAtOnce * kTileSide * 4 <= kGemmShared, "as gemm.cuh asks for");

/// Rows of codes at a tile of inputs; zeros past the last row and the last word.
__device__ __forceinline__ void copy_codes(Shared to, const uint32_t* codes, int row_words, int tile, int base, int rows) {
  const int thread = threadIdx.x, chunk = thread % 8, word = tile * (kCodeDepth / 4) + 4 * chunk;
  LOWBIT_ROLLED
  for (int row = thread / 8; row < kTileSide; row += kGemmThreads / 8) {
    const bool there = base + row < rows;
    const uint32_t* from = codes + static_cast<long long>(there ? base + row : 0) * row_words + word;
    const Shared at = to + tile_offset(row, chunk);
    if (row_words % 4 == 0) {
      copy_chunk(at, from, there && word < row_words);
    } else {
      LOWBIT_UNROLL
      for (int i = 0; i < 4; ++i) copy_word(at + 4 * i, from + i, there && word + i < row_words);
    }
  }
}

/// As `mma_int8`. Grid: (ceil(out / 128), ceil(rows / 128)); block: 256; dynamic shared memory: kGemmShared.
extern "C" __global__ void __launch_bounds__(kGemmThreads, 1) gemm_int8(const Weight* weight, const int8_t* codes, const float* scale, const float* x,
                                                                        const int* columns, float* out, int rows) {
  LOWBIT_DYNAMIC_SHARED(unsigned char, shared);
  const Shared tiles_at = shared_at(shared);
  const Weight& w = *weight;
  const int thread = threadIdx.x, warp = thread / 32, group = thread % 32 / 4, quarter = thread % 4, tiles = (4 * w.row_words + kCodeDepth - 1) / kCodeDepth;
  const int first = blockIdx.x * kTileSide, base = blockIdx.y * kTileSide, token = warp / 2 * kWarpTokens, row = warp % 2 * kWarpRows;
  const bool idle = base + token >= rows || first + row >= w.out;
  const auto copy = [&](int tile) {
    if (tile < tiles) {
      const Shared to = tiles_at + tile % kCodeStages * 2 * kTileBytes;
      copy_codes(to, reinterpret_cast<const uint32_t*>(codes), w.row_words, tile, base, rows);
      copy_codes(to + kTileBytes, reinterpret_cast<const uint32_t*>(w.codes), w.row_words, tile, first, w.out);
    }
    commit_copies();
  };

  int sums[kLefts][kRights][4] = {};
  for (int tile = 0; tile < kCodeStages - 1; ++tile) copy(tile);
  for (int tile = 0; tile < tiles; ++tile) {
    wait_copies<kCodeStages - 2>();
    // The tile has come, and nobody multiplies the one before any more: the next copy goes there.
    __syncthreads();
    copy(tile + kCodeStages - 1);
    if (idle) continue;
    const Shared at = tiles_at + tile % kCodeStages * 2 * kTileBytes, left = left_of(at, token), right = right_of(at + kTileBytes, row);
    LOWBIT_UNROLL
    for (int step = 0; step < kCodeDepth / 32; ++step) {
      uint32_t a[kLefts][4];
      LOWBIT_UNROLL
      for (int i = 0; i < kLefts; ++i) load_matrices(a[i], at_step(left, step) + 16 * i * kTileRow);
      LOWBIT_UNROLL
      for (int pair = 0; pair < kRights / 2; ++pair) {
        uint32_t b[4];
        load_matrices(b, at_step(right, step) + 16 * pair * kTileRow);
        LOWBIT_UNROLL
        for (int j = 0; j < 2; ++j) {
          const uint32_t both[2] = {b[2 * j], b[2 * j + 1]};
          LOWBIT_UNROLL
          for (int i = 0; i < kLefts; ++i) multiply_tile<true>(sums[i][2 * pair + j], a[i], both);
        }
      }
    }
  }
  wait_copies<0>();

  // Outliers, some columns at a time, each in its place in the row's sum.
  float* const of_x = reinterpret_cast<float*>(shared);
  float* const of_w = of_x + kColumnsAtOnce * kTileSide;
  WarpSums wide = {};
  const int count = columns != nullptr ? columns[0] : 0;
  for (int done = 0; done < count; done += kColumnsAtOnce) {
    const int now = min(count - done, kColumnsAtOnce);
    __syncthreads();
    for (int i = thread; i < now * kTileSide; i += kGemmThreads) {
      const int column = columns[1 + done + i / kTileSide], side = i % kTileSide;
      of_x[i] = base + side < rows ? x[static_cast<long long>(base + side) * w.inp + column] : 0;
      of_w[i] = first + side < w.out ? weight_at(w, first + side, column) : 0;
    }
    __syncthreads();
    for (int j = 0; j < now; ++j) {
      const float* of_tokens = of_x + j * kTileSide + token + group;
      const float* of_rows = of_w + j * kTileSide + row + 2 * quarter;
      LOWBIT_UNROLL
      for (int n = 0; n < kRights; ++n) {
        LOWBIT_UNROLL
        for (int i = 0; i < kLefts; ++i) {
          LOWBIT_UNROLL
          for (int e = 0; e < 4; ++e) wide[i][n][e] = fmaf(of_tokens[16 * i + 4 * (e & 2)], of_rows[8 * n + e % 2], wide[i][n][e]);
        }
      }
    }
  }
  LOWBIT_UNROLL
  for (int i = 0; i < kLefts; ++i) {
    LOWBIT_UNROLL
    for (int e = 0; e < 4; ++e) {
      const int m = base + token + 16 * i + group + 4 * (e & 2);
      LOWBIT_UNROLL
      for (int j = 0; j < kRights; ++j) {
        const int n = first + row + 8 * j + 2 * quarter + e % 2;
        if (m < rows && n < w.out) wide[i][j][e] = int8_scaled(w, n, sums[i][j][e], scale[m]) + wide[i][j][e];
      }
    }
  }
  if (!idle) store_sums(w, wide, base + token, first + row, rows, false, out);
}

}  // namespace lowbit
