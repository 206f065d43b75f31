// Attention of many rows of a sequence on tensor cores: tiles of rows by tiles of keys, nothing of the scores in memory (arXiv:2307.08691).
#pragma once

#include "attention.cuh"
#include "tensor-cores.cuh"

namespace lowbit {

constexpr int kTileKeys = 32;   // keys at a time; tiles begin at multiples of it, so a row's sums do not depend on the rows beside it
constexpr int kRowsOfWarp = 16, kRowsOfBlock = 4 * kRowsOfWarp;

__device__ __forceinline__ void load_four(Address from, long long i, int kind, float* to) {
  if (kind == kF32) {
    const Word4 four = *reinterpret_cast<const Word4*>(reinterpret_cast<const float*>(from) + i);
    to[0] = bits_to_float(four.x), to[1] = bits_to_float(four.y), to[2] = bits_to_float(four.z), to[3] = bits_to_float(four.w);
    return;
  }
  const Word2 two = *reinterpret_cast<const Word2*>(reinterpret_cast<const uint16_t*>(from) + i);
  const uint32_t words[2] = {two.x, two.y};
  LOWBIT_UNROLL
  for (int j = 0; j < 4; ++j) {
    const uint16_t bits = static_cast<uint16_t>(words[j / 2] >> (16 * (j % 2)));
    to[j] = kind == kF16 ? from_f16(bits) : from_bf16(bits);
  }
}

/// Keys or values of a tile into shared memory, rows of `stride`; zeros past `end`. Whether all that this thread has brought are finite.
__device__ __forceinline__ bool bring(Address from, int kind, int first, int end, int kv_heads, int kv_head, int dim, float* tile, int stride) {
  bool finite = true;
  for (int i = threadIdx.x; i < kTileKeys * (dim / 4); i += blockDim.x) {
    const int key = i / (dim / 4), at = i % (dim / 4) * 4;
    float four[4] = {};
    if (first + key < end) load_four(from, (static_cast<long long>(first + key) * kv_heads + kv_head) * dim + at, kind, four);
    LOWBIT_UNROLL
    for (int j = 0; j < 4; ++j) finite = finite && fabsf(four[j]) <= 3.4028235e38f;
    *reinterpret_cast<Word4*>(tile + key * stride + at) = {float_to_bits(four[0]), float_to_bits(four[1]), float_to_bits(four[2]), float_to_bits(four[3])};
  }
  return finite;
}

__device__ __forceinline__ float not_less(float a, float b) { return a != a || a >= b ? a : b; }

/// Over the four lanes that share rows of a tile.
__device__ __forceinline__ float quad_max(float value) {
  for (int offset = 1; offset < 4; offset *= 2) {
    const float other = __shfl_xor_sync(kAll, value, offset);
    value = other != other ? other : not_less(value, other);
  }
  return value;
}
__device__ __forceinline__ float quad_sum(float value) {
  for (int offset = 1; offset < 4; offset *= 2) value += __shfl_xor_sync(kAll, value, offset);
  return value;
}

/// What a lane's row sees: keys [first, end); none of `end` 0.
struct Range {
  int first, end;
};

/// Of all that lanes of a warp see.
__device__ __forceinline__ Range warp_range(Range range) {
  for (int offset = 16; offset > 0; offset /= 2) {
    range.first = min(range.first, __shfl_xor_sync(kAll, range.first, offset));
    range.end = max(range.end, __shfl_xor_sync(kAll, range.end, offset));
  }
  return range;
}

/**
 * Rows [from, until) of one sequence, of the 64 from `base` on; the block is together in it. kTiles: of 8 channels of values, at least.
 * The tile has 32 rows of the wider of keys (filled up to a multiple of 32, and 8) and values (of 16, and 4): no two lanes meet at a bank.
 */
template <int kTiles>
__device__ __forceinline__ void attend_rows(const Sight& sight, const Attention& a, const float* q, float* out, int base, int from, int until,
                                            const int* positions, int count, int head, int kv_head, float* tile, Range* ranges, unsigned* strange) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, quarter = lane % 4;
  const int key_stride = (a.key_dim + 31) / 32 * 32 + 8, value_stride = (a.value_dim + 15) / 16 * 16 + 4;
  const bool exact = sight.stored != kF32;  // 11 digits hold numbers of 16 bits
  const float least = bits_to_float(0xff800000u);
  const int first_row = base + warp * kRowsOfWarp + group;
  Range seen[2], all = {0x7fffffff, 0};
  LOWBIT_UNROLL
  for (int r = 0; r < 2; ++r) {
    const int row = first_row + 8 * r;
    seen[r] = {0, 0};
    if (row < from || row >= until) continue;
    Sight mine = sight;
    mine.position = positions[row];
    look(mine, a, count);
    if (mine.end <= mine.first) continue;
    seen[r] = {mine.first, mine.end};
    all = {min(all.first, mine.first), max(all.end, mine.end)};
  }
  const Range of_warp = warp_range(all);
  __syncthreads();
  if (lane == 0) ranges[warp] = of_warp;
  __syncthreads();
  for (int i = 0; i < 4; ++i) all = {min(all.first, ranges[i].first), max(all.end, ranges[i].end)};
  float sums[kTiles][4] = {}, largest[2] = {least, least}, total[2] = {};
  for (int key = all.first / kTileKeys * kTileKeys; key < all.end; key += kTileKeys) {
    if (threadIdx.x == 0) strange[0] = 0;
    bring(sight.keys, sight.stored, key, all.end, a.kv_heads, kv_head, a.key_dim, tile, key_stride);
    __syncthreads();
    const bool awake = of_warp.first < key + kTileKeys && of_warp.end > key;
    float scores[4][4] = {};
    if (awake) {
      for (int step = 0; step < a.key_dim; step += 8) {
        float x[2][2] = {};
        LOWBIT_UNROLL
        for (int r = 0; r < 2; ++r) {
          if (seen[r].end == 0) continue;
          const float* mine = q + (static_cast<long long>(first_row + 8 * r) * gridDim.x + head) * a.key_dim + step + 2 * quarter;
          x[r][0] = mine[0], x[r][1] = mine[1];
        }
        const Halves<4> queries = halves(x[0][0], x[1][0], x[0][1], x[1][1]);
        LOWBIT_UNROLL
        for (int n = 0; n < 4; ++n) {
          const float* at = tile + (8 * n + group) * key_stride + step + 2 * quarter;
          multiply_halves(scores[n], queries, false, halves(at[0], at[1]), exact);
        }
      }
      float larger[2] = {largest[0], largest[1]};
      LOWBIT_UNROLL
      for (int n = 0; n < 4; ++n) {
        LOWBIT_UNROLL
        for (int i = 0; i < 4; ++i) {
          const int r = i / 2, other = key + 8 * n + 2 * quarter + i % 2, row = first_row + 8 * r;
          if (other < seen[r].first || other >= seen[r].end) continue;
          float score = scores[n][i] * a.factor;
          if (a.cap > 0) score = a.cap * tanhf(score / a.cap);
          if (a.bias != 0) {
            const int distance = sight.from + other - positions[row];
            if (a.bias == 1) score = fmaf(a.bias_table[head], static_cast<float>(distance), score);
            else score += a.bias_table[static_cast<long long>(min(max(distance, -a.reach), a.reach) + a.reach) * a.heads + head];
          }
          scores[n][i] = score;
          larger[r] = not_less(larger[r], score);
        }
      }
      LOWBIT_UNROLL
      for (int r = 0; r < 2; ++r) {
        larger[r] = quad_max(larger[r]);
        // Nothing seen yet: nothing to scale down.
        const float shrink = shrunk(largest[r], larger[r]);
        largest[r] = larger[r];
        total[r] *= shrink;
        LOWBIT_UNROLL
        for (int t = 0; t < kTiles; ++t) sums[t][2 * r] *= shrink, sums[t][2 * r + 1] *= shrink;
      }
      LOWBIT_UNROLL
      for (int n = 0; n < 4; ++n) {
        LOWBIT_UNROLL
        for (int i = 0; i < 4; ++i) {
          const int r = i / 2, other = key + 8 * n + 2 * quarter + i % 2;
          scores[n][i] = other >= seen[r].first && other < seen[r].end ? share_of(scores[n][i], larger[r]) : 0;
          total[r] += scores[n][i];
        }
      }
    }
    __syncthreads();
    if (!bring(sight.values, sight.stored, key, all.end, a.kv_heads, kv_head, a.value_dim, tile, value_stride)) strange[0] = 1;
    __syncthreads();
    if (awake && strange[0] == 0) {
      LOWBIT_UNROLL
      for (int n = 0; n < 4; ++n) {
        // Scores lie as a tile of 8 of their keys is wanted: the first four inputs are even keys.
        const Halves<4> shares = halves(scores[n][0], scores[n][2], scores[n][1], scores[n][3]);
        const float* at = tile + (8 * n + 2 * quarter) * value_stride + group;
        LOWBIT_UNROLL
        for (int t = 0; t < kTiles; ++t) {
          if (8 * t < a.value_dim) multiply_halves(sums[t], shares, false, halves(at[8 * t], at[8 * t + value_stride]), exact);
        }
      }
    } else if (awake) {
      // NaN or infinity among the values: rows that do not see it must not multiply it by their 0.
      for (int n = 0; n < 4; ++n) {
        for (int j = 0; j < 8; ++j) {
          const int other = key + 8 * n + j, owner = lane / 4 * 4 + j / 2;
          LOWBIT_UNROLL
          for (int r = 0; r < 2; ++r) {
            float mine[2] = {};
            LOWBIT_UNROLL
            for (int m = 0; m < 4; ++m) {
              if (m == n) mine[0] = scores[m][2 * r], mine[1] = scores[m][2 * r + 1];
            }
            const float share = __shfl_sync(kAll, j % 2 == 0 ? mine[0] : mine[1], owner);
            if (other < seen[r].first || other >= seen[r].end) continue;
            LOWBIT_UNROLL
            for (int t = 0; t < kTiles; ++t) {
              const float* at = tile + (8 * n + j) * value_stride + 8 * t + 2 * quarter;
              if (8 * t < a.value_dim) sums[t][2 * r] = fmaf(share, at[0], sums[t][2 * r]), sums[t][2 * r + 1] = fmaf(share, at[1], sums[t][2 * r + 1]);
            }
          }
        }
      }
    }
    __syncthreads();
  }
  LOWBIT_UNROLL
  for (int r = 0; r < 2; ++r) {
    const int row = first_row + 8 * r;
    const float all_shares = quad_sum(total[r]);
    if (row < from || row >= until) continue;
    float* to = out + (static_cast<long long>(row) * gridDim.x + head) * a.value_dim + 2 * quarter;
    LOWBIT_UNROLL
    for (int t = 0; t < kTiles; ++t) {
      if (8 * t >= a.value_dim) continue;
      to[8 * t] = seen[r].end > 0 ? sums[t][2 * r] / all_shares : 0;
      to[8 * t + 1] = seen[r].end > 0 ? sums[t][2 * r + 1] / all_shares : 0;
    }
  }
}

/**
 * As `attend`, for sequences with at least `many` rows in this step; others are left alone. Dimensions are multiples of 8, up to 256 of keys and 8 * kTiles of
 * values. Grid: (heads, ceil(rows / 64)); block: 128; dynamic shared memory: 32 rows of the wider of keys and values, as `attend_rows` has them.
 */
template <int kTiles>
__device__ __forceinline__ void attend_tiles(const float* q, float* out, const float* k, const float* v, const Step* step, int domain, int cache, int many,
                                             int rows, const Attention& a, int dtype, float* tile) {
  LOWBIT_SHARED(Range, ranges, 4);
  LOWBIT_SHARED(unsigned, strange, 1);
  // The last rows see most: they begin first.
  const int head = blockIdx.x, base = static_cast<int>(gridDim.y - 1 - blockIdx.y) * kRowsOfBlock, end = min(base + kRowsOfBlock, rows);
  const int kv_head = static_cast<int>(static_cast<long long>(head) * a.kv_heads / a.heads);
  for (int from = base; from < end;) {
    const int share = section<int>(step, step->share_of[domain])[from];
    const Share& mine = section<Share>(step, step->shares)[share];
    const int until = min(end, mine.from[domain] + mine.count[domain]);
    if (mine.count[domain] >= many) {
      int count = 0;
      const Sight sight = sight_of(step, share, domain, cache, k, v, a, dtype, &count);
      attend_rows<kTiles>(sight, a, q, out, base, from, until, section<int>(step, step->position[domain]), count, head, kv_head, tile, ranges, strange);
    }
    from = until;
  }
}

#define LOWBIT_ATTEND_TILES(channels)                                                                                                                   \
  extern "C" __global__ void __launch_bounds__(128)                                                                                                    \
      attend_tiles##channels(const float* q, float* out, const float* k, const float* v, const Step* step, int domain, int cache, int kv_heads,        \
                             int key_dim, int value_dim, float factor, int causal, int window, float cap, int bias, const float* bias_table, int reach, \
                             int dtype, int many, int rows) {                                                                                           \
    LOWBIT_DYNAMIC_SHARED(float, tile);                                                                                                                \
    const Attention a = {static_cast<int>(gridDim.x), kv_heads, key_dim, value_dim, factor, causal, window, cap, bias, bias_table, reach};             \
    attend_tiles<channels / 8>(q, out, k, v, step, domain, cache, many, rows, a, dtype, tile);                                                               \
  }
LOWBIT_ATTEND_TILES(64)
LOWBIT_ATTEND_TILES(128)
LOWBIT_ATTEND_TILES(256)
#undef LOWBIT_ATTEND_TILES

}  // namespace lowbit
