// Products of many rows of x (a prompt) with a weight, on tensor cores: blocks of 128 rows of x by 128 rows of the weight, 64 inputs at a time.
//
// Codes become halves once for 128 rows of x, in shared memory; activations come as halves (gemm-planes.cuh) by asynchronous copies, one tile ahead. Half of
// the warps bring the next tile of the weight before they multiply, half after: so tensor cores have work in every scheduler while others unpack.
#pragma once

#include "gemm-weights.cuh"

namespace lowbit {

constexpr int kGemmThreads = 256;
constexpr int kPairTiles = 2 * kTileBytes;  // both halves of a tile of x
/// Two tiles of x, two planes of the weight, numbers of their rows, a table.
constexpr int kGemmShared = 2 * kPairTiles + 2 * kTileBytes + 2 * kTileSide * 4 + 512 * 4;
static_assert(kGemmShared <= 99 << 10, "what a block can have at most, from sm_80 on");

/// Sums of a warp: 32 rows of x by 64 of the weight, as `multiply_f16` has them.
constexpr int kWarpTokens = 32, kWarpRows = 64;
constexpr int kLefts = kWarpTokens / 16, kRights = kWarpRows / 8, kRightsAtOnce = kRights / 2;
typedef float WarpSums[kLefts][kRights][4];

/// All planes of rows of x at a tile of inputs; past the last row zeros.
template <int kPlanes>
__device__ __forceinline__ void copy_activations(Shared to, const Word4* planes, int tiles, int tile, int base, int rows) {
  constexpr int kChunks = kPlanes * kPlaneBytes / kChunk, kRowsAtOnce = kGemmThreads / kChunks;
  const int thread = threadIdx.x, chunk = thread % kChunks, row = thread / kChunks;
  const Shared first = to + chunk / 8 * kTileBytes + tile_offset(row, chunk % 8);
  LOWBIT_UNROLL
  for (int i = 0; i < kTileSide / kRowsAtOnce; ++i) {
    const bool there = base + row + kRowsAtOnce * i < rows;
    // Counted in chunks: 32 bits do.
    copy_chunk(first + kRowsAtOnce * i * kTileRow, planes + ((there ? base + row + kRowsAtOnce * i : 0) * tiles + tile) * kChunks + chunk, there);
  }
}

/// How sums of halves stand to one another: the first of upper halves; where x has two planes one of its lower ones; where the weight has two, another, unless that
/// is as fine.
template <class Weights, int kPlanes>
struct Sums {
  static constexpr bool kSecond = Weights::kTwoPlanes && (kPlanes == 1 || Weights::kSecondDigits != kLowDigits);
  static constexpr int kCount = kPlanes + (kSecond ? 1 : 0);
};

/**
 * out += x W^T over a tile of inputs; x and w as `left_of` and `right_of` give them, `of_rows` from the warp's first row on. Sums of the upper halves are one, those of the lower halves another, 2^11 finer; of a table's second bytes a third. They
 * are joined, times the scales, in the order in which the numbers stand: by operations that round once.
 */
template <class Weights, int kPlanes>
__device__ __forceinline__ void multiply_pair(Shared x, Shared w, const float* of_rows, const PairNumbers (&of_tokens)[kLefts][2], bool exact, WarpSums& out) {
  const int quarter = threadIdx.x % 4;
  LOWBIT_UNROLL
  for (int first = 0; first < kRights; first += kRightsAtOnce) {
    constexpr int kSums = Sums<Weights, kPlanes>::kCount;
    float sums[kSums][kLefts][kRightsAtOnce][4] = {};
    LOWBIT_ROLLED
    for (int step = 0; step < kDepth / 16; ++step) {
      uint32_t high[kLefts][4], low[kLefts][4];
      LOWBIT_UNROLL
      for (int i = 0; i < kLefts; ++i) {
        load_matrices(high[i], at_step(x, step) + 16 * i * kTileRow);
        if (kPlanes == 2) load_matrices(low[i], at_step(x, step) + kTileBytes + 16 * i * kTileRow);
      }
      LOWBIT_UNROLL
      for (int pair = 0; pair < kRightsAtOnce / 2; ++pair) {
        uint32_t upper[4];
        load_matrices(upper, at_step(w, step) + (8 * first + 16 * pair) * kTileRow);
        LOWBIT_UNROLL
        for (int j = 0; j < 2; ++j) {
          LOWBIT_UNROLL
          for (int i = 0; i < kLefts; ++i) {
            multiply_f16(sums[0][i][2 * pair + j], high[i], upper[2 * j], upper[2 * j + 1]);
            if (kPlanes == 2) multiply_f16(sums[kPlanes - 1][i][2 * pair + j], low[i], upper[2 * j], upper[2 * j + 1]);
          }
        }
        if (!Weights::kTwoPlanes || exact) continue;
        uint32_t lower[4];
        load_matrices(lower, at_step(w, step) + kTileBytes + (8 * first + 16 * pair) * kTileRow);
        LOWBIT_UNROLL
        for (int j = 0; j < 2; ++j) {
          LOWBIT_UNROLL
          for (int i = 0; i < kLefts; ++i) multiply_f16(sums[kSums - 1][i][2 * pair + j], high[i], lower[2 * j], lower[2 * j + 1]);
        }
      }
    }
    LOWBIT_UNROLL
    for (int j = 0; j < kRightsAtOnce; ++j) {
      const int n = 8 * (first + j) + 2 * quarter;
      float scale[2], zero[2] = {};
      if (Weights::kHasZero) {
        const Float4 four = *reinterpret_cast<const Float4*>(of_rows + 2 * n);
        scale[0] = four.x, zero[0] = four.y, scale[1] = four.z, zero[1] = four.w;
      } else {
        scale[0] = of_rows[n], scale[1] = of_rows[n + 1];
      }
      LOWBIT_UNROLL
      for (int i = 0; i < kLefts; ++i) {
        LOWBIT_UNROLL
        for (int e = 0; e < 4; ++e) {
          const PairNumbers& numbers = of_tokens[i][e / 2];
          float sum = sums[0][i][j][e];
          if (kPlanes == 2) sum = fmaf(sums[kPlanes - 1][i][j][e], kLowUnit, sum);
          if (Sums<Weights, kPlanes>::kSecond) sum = fmaf(sums[kSums - 1][i][j][e], 1.0f / (1 << Weights::kSecondDigits), sum);
          const float times = Weights::kHasZero ? fmaf(sum, numbers.scale, -zero[e % 2] * numbers.sum) : sum * numbers.scale;
          out[i][first + j][e] = fmaf(times, scale[e % 2], out[i][first + j][e]);
        }
      }
    }
  }
}

/// Stores the sums of a warp; of a part of the inputs (`partial`) without bias, as they are.
__device__ __forceinline__ void store_sums(const Weight& w, const WarpSums& sums, int token, int row, int rows, bool partial, float* out) {
  const int group = threadIdx.x % 32 / 4, quarter = threadIdx.x % 4;
  LOWBIT_UNROLL
  for (int i = 0; i < kLefts; ++i) {
    LOWBIT_UNROLL
    for (int e = 0; e < 4; e += 2) {
      const int m = token + 16 * i + group + 4 * e;
      if (m >= rows) continue;
      float* to = out + static_cast<long long>(m) * w.out;
      LOWBIT_UNROLL
      for (int j = 0; j < kRights; ++j) {
        const int n = row + 8 * j + 2 * quarter;
        const float a = n < w.out && !partial ? with_bias(w, n, sums[i][j][e]) : sums[i][j][e];
        const float b = n + 1 < w.out && !partial ? with_bias(w, n + 1, sums[i][j][e + 1]) : sums[i][j][e + 1];
        if (w.out % 2 == 0 && n < w.out) {
          *reinterpret_cast<Word2*>(to + n) = {float_to_bits(a), float_to_bits(b)};
        } else {
          if (n < w.out) to[n] = a;
          if (n + 1 < w.out) to[n + 1] = b;
        }
      }
    }
  }
}

/**
 * out [rows, out] = x W^T + bias, `count` planes and numbers of x from `gemm_planes`; with more than one block in direction z, `out` is [z][rows, out], each of a part of
 * the inputs and without bias, for `gemm_join`. Grid: (ceil(out / 128), ceil(rows / 128), parts); block: 256; dynamic shared memory: kGemmShared.
 */
template <class Weights>
__device__ __forceinline__ void gemm(unsigned char* shared, const Weight& w, const uint32_t* planes, const PairNumbers* numbers, float* out, int rows,
                                     int count, bool exact) {
  const Shared x_tiles = shared_at(shared), w_tiles = x_tiles + 2 * kPairTiles;
  float* const of_rows = reinterpret_cast<float*>(shared + 2 * kPairTiles + 2 * kTileBytes);
  // Tables are where zeros would be: no weight has both.
  float* const table = of_rows + 2 * kTileSide;
  constexpr int kNumbers = Weights::kHasZero ? 2 * kTileSide : kTileSide;

  const int thread = threadIdx.x, warp = thread / 32, group = thread % 32 / 4, tiles = (w.inp + kDepth - 1) / kDepth;
  const int first = blockIdx.x * kTileSide, base = blockIdx.y * kTileSide;
  const int token = warp / 2 * kWarpTokens, row = warp % 2 * kWarpRows;
  const int each = (tiles + gridDim.z - 1) / gridDim.z, from = min(static_cast<int>(blockIdx.z) * each, tiles), to = min(from + each, tiles);
  const bool idle = base + token >= rows || first + row >= w.out;
  const Mine mine = {thread / 2, thread % 2, min(first + thread / 2, w.out - 1)};
  // Where a tile's second plane is, the next tile has no room: it is brought between the products.
  const auto place = [&](int tile) -> WeightTiles {
    const int i = Weights::kTwoPlanes ? 0 : (tile - from) % 2;
    return {w_tiles + i * kTileBytes, of_rows + i * kNumbers, table};
  };
  const auto copy = [&](int tile) {
    const Shared at = x_tiles + (tile - from) % 2 * kPairTiles;
    const Word4* const of = reinterpret_cast<const Word4*>(planes);
    if (tile < to && count == 2) copy_activations<2>(at, of, tiles, tile, base, rows);
    else if (tile < to) copy_activations<1>(at, of, tiles, tile, base, rows);
    commit_copies();
  };

  WarpSums sums = {};
  Weights weights;
  weights.begin(w, place(from));
  const auto multiply = [&](int tile) {
    if (idle) return;
    PairNumbers of_tokens[kLefts][2];
    LOWBIT_UNROLL
    for (int i = 0; i < 2 * kLefts; ++i) {
      const PairNumbers* of = numbers + min(base + token + 8 * i + group, rows - 1) * tiles + tile;
      LOWBIT_COUNT_GLOBAL(of, 8);
      of_tokens[i / 2][i % 2] = *of;
    }
    const WeightTiles at = place(tile);
    const Shared left = left_of(x_tiles + (tile - from) % 2 * kPairTiles, token), right = right_of(at.tiles, row);
    const float* of_rows = at.numbers + (Weights::kHasZero ? 2 : 1) * row;
    if (count == 2) multiply_pair<Weights, 2>(left, right, of_rows, of_tokens, exact, sums);
    else multiply_pair<Weights, 1>(left, right, of_rows, of_tokens, exact, sums);
  };

  if (from < to) weights.load(w, mine, from);
  if constexpr (Weights::kTwoPlanes) {
    copy(from);
    for (int tile = from; tile < to; ++tile) {
      wait_copies<0>();
      // The tile of x has come, and nobody multiplies the one before any more.
      __syncthreads();
      copy(tile + 1);
      weights.store(w, mine, place(tile), tile);
      if (tile + 1 < to) weights.load(w, mine, tile + 1);
      __syncthreads();
      multiply(tile);
    }
  } else {
    // Before the first tile there is one that is only brought.
    for (int tile = from - 1; tile < to; ++tile) {
      wait_copies<0>();
      __syncthreads();
      copy(tile + 1);
      LOWBIT_ROLLED
      for (int turn = 0; turn < 2; ++turn) {
        // Warps 0 .. 3 and 4 .. 7 are of the same four schedulers.
        if (turn == warp / 4) {
          if (tile + 1 < to) weights.store(w, mine, place(tile + 1), tile + 1);
          if (tile + 2 < to) weights.load(w, mine, tile + 2);
        } else if (tile >= from) {
          multiply(tile);
        }
      }
    }
  }
  if (idle) return;
  const bool partial = gridDim.z > 1;
  float* const there = out + (partial ? static_cast<long long>(blockIdx.z) * rows * w.out : 0);
  store_sums(w, sums, base + token, first + row, rows, partial, there);
}

extern "C" __global__ void __launch_bounds__(kGemmThreads, 1)
    gemm_affine(const Weight* weight, const uint32_t* planes, const PairNumbers* numbers, float* out, int rows, int count) {
  LOWBIT_DYNAMIC_SHARED(unsigned char, shared);
  gemm<AffineWeights>(shared, *weight, planes, numbers, out, rows, count, false);
}

extern "C" __global__ void __launch_bounds__(kGemmThreads, 1)
    gemm_table(const Weight* weight, const uint32_t* planes, const PairNumbers* numbers, float* out, int rows, int count) {
  LOWBIT_DYNAMIC_SHARED(unsigned char, shared);
  gemm<TableWeights>(shared, *weight, planes, numbers, out, rows, count, false);
}

extern "C" __global__ void __launch_bounds__(kGemmThreads, 1)
    gemm_half(const Weight* weight, const uint32_t* planes, const PairNumbers* numbers, float* out, int rows, int count) {
  LOWBIT_DYNAMIC_SHARED(unsigned char, shared);
  gemm<HalfWeights>(shared, *weight, planes, numbers, out, rows, count, false);
}

extern "C" __global__ void __launch_bounds__(kGemmThreads, 1)
    gemm_float(const Weight* weight, const uint32_t* planes, const PairNumbers* numbers, float* out, int rows, int count) {
  const bool exact = weight->kind == kDense ? weight->stored != kF32 : weight->table != 0 && weight->round != kF32;
  LOWBIT_DYNAMIC_SHARED(unsigned char, shared);
  gemm<FloatWeights>(shared, *weight, planes, numbers, out, rows, count, exact);
}

/// The parts [parts][rows, out] of a product, in their order, and bias: out [rows, out]. Grid: (ceil(out / 256), rows); block: 256.
extern "C" __global__ void gemm_join(const Weight* weight, const float* partial, int parts, int rows, float* out) {
  const int n = blockIdx.x * blockDim.x + threadIdx.x;
  const Weight w = *weight;
  if (n >= w.out) return;
  const long long at = static_cast<long long>(blockIdx.y) * w.out + n, all = static_cast<long long>(rows) * w.out;
  float sum = 0;
  for (int part = 0; part < parts; ++part) sum += partial[part * all + at];
  out[at] = with_bias(w, n, sum);
}

}  // namespace lowbit
