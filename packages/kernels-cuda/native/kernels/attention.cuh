// Attention with cache. What it computes: packages/core/src/reference/attention.ts.
#pragma once

#include "step.cuh"
#include "weight.cuh"

namespace lowbit {

__device__ __forceinline__ void store_float(Address to, long long i, float value, int kind) {
  if (kind == kF32) reinterpret_cast<float*>(to)[i] = value;
  else reinterpret_cast<uint16_t*>(to)[i] = kind == kF16 ? to_f16(value) : to_bf16(value);
}

/// Appends rows of k and v (of tokens or of encoder rows) to the caches of their sequences. Grid: rows; block: 128.
extern "C" __global__ void append(const float* k, const float* v, const Step* step, int domain, int cache, int k_width, int v_width, int dtype) {
  const int row = blockIdx.x, share = section<int>(step, step->share_of[domain])[row];
  const CacheView& view = section<CacheView>(step, step->caches)[share * step->cache_count + cache];
  const long long to = view.before + row - section<Share>(step, step->shares)[share].from[domain];
  for (int i = threadIdx.x; i < k_width; i += blockDim.x) store_float(view.k, to * k_width + i, k[static_cast<long long>(row) * k_width + i], dtype);
  for (int i = threadIdx.x; i < v_width; i += blockDim.x) store_float(view.v, to * v_width + i, v[static_cast<long long>(row) * v_width + i], dtype);
}

constexpr int kKeysAtOnce = 64;

/**
 * A block for one row and one head. Keys are taken 64 at a time: a warp a key for the scores, a thread a channel for the sums; what was summed before is
 * scaled down when a larger score comes (arXiv:1805.02867).
 * Without a cache (< 0) keys and values are the rows k, v of the row's own sequence. `bias`: 0 none, 1 slopes [heads] by distance, 2 table
 * [2 * reach + 1, heads] by distance from -reach to reach.
 * Grid: (heads, rows); block: 128; dynamic shared memory: key_dim + value_dim floats.
 */
extern "C" __global__ void __launch_bounds__(128)
    attend(const float* q, float* out, const float* k, const float* v, const Step* step, int domain, int cache, int kv_heads, int key_dim,
           int value_dim, float factor, int causal, int window, float cap, int bias, const float* bias_table, int reach, int dtype) {
  LOWBIT_DYNAMIC_SHARED(float, shared);
  LOWBIT_SHARED(float, scores, kKeysAtOnce);
  float* const query = shared;
  float* const sums = shared + key_dim;
  const int head = blockIdx.x, heads = gridDim.x, row = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int kv_head = static_cast<int>(static_cast<long long>(head) * kv_heads / heads);
  const int share = section<int>(step, step->share_of[domain])[row];
  const int position = section<int>(step, step->position[domain])[row];
  const Share& mine = section<Share>(step, step->shares)[share];
  Address keys, values;
  int count, from = 0, stored = kF32;
  if (cache >= 0) {
    const CacheView& view = section<CacheView>(step, step->caches)[share * step->cache_count + cache];
    keys = view.k;
    values = view.v;
    count = view.rows;
    stored = dtype;
  } else {
    keys = reinterpret_cast<Address>(k + static_cast<long long>(mine.from[domain]) * kv_heads * key_dim);
    values = reinterpret_cast<Address>(v + static_cast<long long>(mine.from[domain]) * kv_heads * value_dim);
    count = mine.count[domain];
    from = domain == kEncoder ? 0 : mine.start;
  }
  const int first = window > 0 ? max(0, position - window + 1 - from) : 0;
  const int end = causal ? min(count, position + 1 - from) : count;
  for (int i = threadIdx.x; i < key_dim; i += blockDim.x) query[i] = q[(static_cast<long long>(row) * heads + head) * key_dim + i];
  for (int i = threadIdx.x; i < value_dim; i += blockDim.x) sums[i] = 0;
  __syncthreads();
  float largest = bits_to_float(0xff800000u), total = 0;
  for (int tile = first; tile < end; tile += kKeysAtOnce) {
    const int here = min(kKeysAtOnce, end - tile);
    for (int j = warp; j < here; j += 4) {
      const long long at = (static_cast<long long>(tile + j) * kv_heads + kv_head) * key_dim;
      float score = 0;
      for (int i = lane; i < key_dim; i += 32) score = fmaf(query[i], stored_float(keys, at + i, stored), score);
      score = warp_sum(score) * factor;
      if (cap > 0) score = cap * tanhf(score / cap);
      const int distance = from + tile + j - position;
      if (bias == 1) score = fmaf(bias_table[head], static_cast<float>(distance), score);
      if (bias == 2) score += bias_table[static_cast<long long>(min(max(distance, -reach), reach) + reach) * heads + head];
      if (lane == 0) scores[j] = score;
    }
    __syncthreads();
    float larger = largest;
    for (int j = 0; j < here; ++j) larger = larger != larger || larger >= scores[j] ? larger : scores[j];
    const float shrink = expf(largest - larger);
    largest = larger;
    total *= shrink;
    for (int j = 0; j < here; ++j) total += expf(scores[j] - larger);
    for (int i = threadIdx.x; i < value_dim; i += blockDim.x) {
      float sum = sums[i] * shrink;
      for (int j = 0; j < here; ++j) {
        const long long at = (static_cast<long long>(tile + j) * kv_heads + kv_head) * value_dim;
        sum = fmaf(expf(scores[j] - larger), stored_float(values, at + i, stored), sum);
      }
      sums[i] = sum;
    }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < value_dim; i += blockDim.x)
    out[(static_cast<long long>(row) * heads + head) * value_dim + i] = first < end ? sums[i] / total : 0;
}

}  // namespace lowbit
