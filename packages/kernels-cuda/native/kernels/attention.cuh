// Attention with cache. What it computes: packages/core/src/reference/attention.ts.
#pragma once

#include "elementwise.cuh"
#include "planes.cuh"
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
/// A row's keys are cut into so many parts of so many keys at least: where the cuts are follows from the number of keys that the row sees, and so do all sums.
constexpr int kAttendParts = 16, kPartKeys = 128;
/// Rows for which parts have blocks of their own.
constexpr int kFewRows = 2;

/// What of the operation is the same for all rows. `bias`: 0 none, 1 slopes [heads] by distance, 2 table [2 * reach + 1, heads] by distance from -reach to reach.
struct Attention {
  int heads, kv_heads, key_dim, value_dim;
  float factor;
  int causal, window;
  float cap;
  int bias;
  const float* bias_table;
  int reach;
};

/// The keys and values that a row sees: [first, end) of `count` that begin at position `from`. Those from `fresh` on are in `new_keys`, `new_values`.
struct Sight {
  Address keys, values;
  int stored, from, position, first, end, fresh;
  const float* new_keys;
  const float* new_values;
};

__device__ __forceinline__ void look(Sight& sight, const Attention& a, int count) {
  sight.first = a.window > 0 ? max(0, sight.position - a.window + 1 - sight.from) : 0;
  sight.end = a.causal ? min(count, sight.position + 1 - sight.from) : count;
}

/// The keys and values of a sequence, and how many there are: in a cache or (cache < 0) rows k, v of its own.
__device__ __forceinline__ Sight sight_of(const Step* step, int share, int domain, int cache, const float* k, const float* v, const Attention& a, int dtype,
                                          int* count) {
  Sight sight = {0, 0, kF32, 0, 0, 0, 0, 0x7fffffff, nullptr, nullptr};
  if (cache >= 0) {
    const CacheView& view = section<CacheView>(step, step->caches)[share * step->cache_count + cache];
    sight.keys = view.k;
    sight.values = view.v;
    sight.stored = dtype;
    *count = view.rows;
  } else {
    const Share& mine = section<Share>(step, step->shares)[share];
    sight.keys = reinterpret_cast<Address>(k + static_cast<long long>(mine.from[domain]) * a.kv_heads * a.key_dim);
    sight.values = reinterpret_cast<Address>(v + static_cast<long long>(mine.from[domain]) * a.kv_heads * a.value_dim);
    sight.from = domain == kEncoder ? 0 : mine.start;
    *count = mine.count[domain];
  }
  return sight;
}

/// Keys of a part, a multiple of those taken at once; how many parts there are.
__device__ __forceinline__ int part_keys(const Sight& sight) {
  const int keys = max(sight.end - sight.first, 0), parts = min(kAttendParts, (keys + kPartKeys - 1) / kPartKeys);
  return parts < 2 ? max(keys, 1) : ((keys + parts - 1) / parts + kKeysAtOnce - 1) / kKeysAtOnce * kKeysAtOnce;
}
__device__ __forceinline__ int part_count(const Sight& sight, int length) { return (max(sight.end - sight.first, 0) + length - 1) / length; }

/// Largest score, and the sum of exponentials of what scores are below it.
struct Softmax {
  float largest, total;
};

/// What a score adds to a sum, and what becomes of the sums before, where the largest score so far is `largest`. Scores that are all minus infinity add
/// nothing: the next may be larger.
__device__ __forceinline__ float share_of(float score, float largest) { return largest == bits_to_float(0xff800000u) ? 0 : expf(score - largest); }
__device__ __forceinline__ float shrunk(float before, float largest) { return before == largest ? 1 : expf(before - largest); }

/**
 * Of keys [begin, end): 64 at a time, a warp a key for the scores, a thread a channel for the sums; what was summed before is scaled down when a larger score
 * comes (arXiv:1805.02867). Over a block of 128 threads; each reads the sums of its own channels alone.
 */
__device__ __forceinline__ Softmax attend_part(const Sight& s, const Attention& a, const float* query, int head, int kv_head, int begin, int end, float* scores,
                                               float* sums) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int i = threadIdx.x; i < a.value_dim; i += blockDim.x) sums[i] = 0;
  float largest = bits_to_float(0xff800000u), total = 0;
  for (int tile = begin; tile < end; tile += kKeysAtOnce) {
    const int here = min(kKeysAtOnce, end - tile);
    for (int j = warp; j < here; j += 4) {
      const int key = tile + j;
      const long long at = (static_cast<long long>(key) * a.kv_heads + kv_head) * a.key_dim;
      float score = 0;
      for (int i = lane; i < a.key_dim; i += 32) {
        const float number = key >= s.fresh ? s.new_keys[(key - s.fresh) * a.key_dim + i] : stored_float(s.keys, at + i, s.stored);
        score = fmaf(query[i], number, score);
      }
      score = warp_sum(score) * a.factor;
      if (a.cap > 0) score = a.cap * tanhf(score / a.cap);
      const int distance = s.from + key - s.position;
      if (a.bias == 1) score = fmaf(a.bias_table[head], static_cast<float>(distance), score);
      if (a.bias == 2) score += a.bias_table[static_cast<long long>(min(max(distance, -a.reach), a.reach) + a.reach) * a.heads + head];
      if (lane == 0) scores[j] = score;
    }
    __syncthreads();
    float larger = largest;
    for (int j = 0; j < here; ++j) larger = larger != larger || larger >= scores[j] ? larger : scores[j];
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < here) scores[threadIdx.x] = share_of(scores[threadIdx.x], larger);
    __syncthreads();
    const float shrink = shrunk(largest, larger);
    largest = larger;
    total *= shrink;
    for (int j = 0; j < here; ++j) total += scores[j];
    for (int i = threadIdx.x; i < a.value_dim; i += blockDim.x) {
      float sum = sums[i] * shrink;
      for (int j = 0; j < here; ++j) {
        const int key = tile + j;
        const long long at = (static_cast<long long>(key) * a.kv_heads + kv_head) * a.value_dim;
        sum = fmaf(scores[j], key >= s.fresh ? s.new_values[(key - s.fresh) * a.value_dim + i] : stored_float(s.values, at + i, s.stored), sum);
      }
      sums[i] = sum;
    }
    __syncthreads();
  }
  return {largest, total};
}

/// What a part adds to the parts before it: factors of the sums of both.
__device__ __forceinline__ Softmax joined(Softmax before, Softmax part, float* old_factor, float* new_factor) {
  const float larger = before.largest != before.largest || before.largest >= part.largest ? before.largest : part.largest;
  *old_factor = shrunk(before.largest, larger);
  *new_factor = shrunk(part.largest, larger);
  return {larger, before.total * *old_factor + part.total * *new_factor};
}

/**
 * A block for one row and one head, part after part. Sequences with `many` rows or more are left to attention-tiles.cuh.
 * Without a cache (< 0) keys and values are the rows k, v of the row's own sequence.
 * Grid: (heads, rows); block: 128; dynamic shared memory: key_dim + 2 * value_dim floats.
 */
extern "C" __global__ void __launch_bounds__(128, 8)
    attend(const float* q, float* out, const float* k, const float* v, const Step* step, int domain, int cache, int kv_heads, int key_dim,
           int value_dim, float factor, int causal, int window, float cap, int bias, const float* bias_table, int reach, int dtype, int many) {
  LOWBIT_DYNAMIC_SHARED(float, query);
  LOWBIT_SHARED(float, scores, kKeysAtOnce);
  float* const sums = query + key_dim;
  float* const all_sums = sums + value_dim;
  const int head = blockIdx.x, heads = gridDim.x, row = blockIdx.y;
  const Attention a = {heads, kv_heads, key_dim, value_dim, factor, causal, window, cap, bias, bias_table, reach};
  const int kv_head = static_cast<int>(static_cast<long long>(head) * kv_heads / heads);
  const int share = section<int>(step, step->share_of[domain])[row];
  if (section<Share>(step, step->shares)[share].count[domain] >= many) return;
  int count = 0;
  Sight sight = sight_of(step, share, domain, cache, k, v, a, dtype, &count);
  sight.position = section<int>(step, step->position[domain])[row];
  look(sight, a, count);
  for (int i = threadIdx.x; i < key_dim; i += blockDim.x) query[i] = q[(static_cast<long long>(row) * heads + head) * key_dim + i];
  __syncthreads();
  const int length = part_keys(sight), parts = part_count(sight, length);
  Softmax all = {0, 0};
  for (int p = 0; p < parts; ++p) {
    const int begin = sight.first + p * length;
    const Softmax part = attend_part(sight, a, query, head, kv_head, begin, min(sight.end, begin + length), scores, sums);
    float old_factor = 0, new_factor = 1;
    if (p == 0) all = part;
    else all = joined(all, part, &old_factor, &new_factor);
    for (int i = threadIdx.x; i < value_dim; i += blockDim.x) all_sums[i] = p == 0 ? sums[i] : all_sums[i] * old_factor + sums[i] * new_factor;
  }
  for (int i = threadIdx.x; i < value_dim; i += blockDim.x)
    out[(static_cast<long long>(row) * heads + head) * value_dim + i] = parts > 0 ? all_sums[i] / all.total : 0;
}

/// Rotates numbers in shared memory, in place, as `rope` does; the block meets before and after.
__device__ __forceinline__ void rotate(float* numbers, const double* frequencies, double position, int dim, int interleaved, float factor) {
  const int half = dim / 2;
  __syncthreads();
  for (int i = threadIdx.x; i < half; i += blockDim.x) {
    float sine, cosine;
    turned(position, frequencies[i], factor, &sine, &cosine);
    const int first = interleaved ? 2 * i : i, second = first + (interleaved ? 1 : half);
    const float a = numbers[first], b = numbers[second];
    numbers[first] = a * cosine - b * sine;
    numbers[second] = b * cosine + a * sine;
  }
  __syncthreads();
}

/// Numbers that a part leaves for the block that joins them: sums, then largest and total.
__device__ __forceinline__ float* part_at(float* partial, int row, int head, int heads, int part, int value_dim) {
  return partial + ((static_cast<long long>(row) * heads + head) * kAttendParts + part) * (value_dim + 2);
}

/**
 * As `attend` for one or two rows of tokens over a cache, with what comes before it: rotation of q and k (`rope_dim` 0: none) and appending k and v (none: they
 * are there), and after it: planes of the result (`out_planes` none: floats). Each part of the keys has a block; the last one to end joins all in their order.
 * `partial` [2][heads][16][value_dim + 2], `ended` [2][heads], 0 before and after.
 * Grid: (heads, rows, 16); block: 128; dynamic shared memory: 3 * key_dim + 4 * value_dim floats.
 */
extern "C" __global__ void __launch_bounds__(128, 8)
    attend_few(const float* q, const float* k, const float* v, const Step* step, int cache, int kv_heads, int key_dim, int value_dim, float factor, int causal,
               int window, float cap, int bias, const float* bias_table, int reach, int dtype, int rope_index, int rope_dim, int interleaved,
               float rope_factor, float* partial, unsigned* ended, float* out, uint32_t* out_planes, BlockNumbers* out_numbers, int out_natural) {
  LOWBIT_DYNAMIC_SHARED(float, query);
  LOWBIT_SHARED(float, scores, kKeysAtOnce);
  LOWBIT_SHARED(unsigned, ended_before, 1);
  float* const sums = query + key_dim;
  float* const all_sums = sums + value_dim;
  float* const new_keys = all_sums + value_dim;
  float* const new_values = new_keys + kFewRows * key_dim;
  const int head = blockIdx.x, heads = gridDim.x, row = blockIdx.y, p = blockIdx.z;
  const Attention a = {heads, kv_heads, key_dim, value_dim, factor, causal, window, cap, bias, bias_table, reach};
  const auto kv_of = [&](int one) { return static_cast<int>(static_cast<long long>(one) * kv_heads / heads); };
  const int kv_head = kv_of(head), share = section<int>(step, step->share_of[kTokens])[row];
  const int* positions = section<int>(step, step->position[kTokens]);
  const Share& mine = section<Share>(step, step->shares)[share];
  const CacheView& view = section<CacheView>(step, step->caches)[share * step->cache_count + cache];
  Sight sight = {view.k, view.v, dtype, 0, positions[row], 0, 0, k != nullptr ? view.before : 0x7fffffff, new_keys, new_values};
  look(sight, a, view.rows);
  const int length = part_keys(sight), parts = part_count(sight, length);
  if (p >= max(parts, 1)) return;
  const double* frequencies = rope_dim > 0 ? frequencies_of(step, kTokens, rope_index, share) : nullptr;
  for (int i = threadIdx.x; i < key_dim; i += blockDim.x) query[i] = q[(static_cast<long long>(row) * heads + head) * key_dim + i];
  if (rope_dim > 0) rotate(query, frequencies, positions[row], rope_dim, interleaved, rope_factor);
  if (k != nullptr) {
    // New keys are not in the cache yet: other blocks bring them there.
    for (int n = 0; n < view.rows - view.before; ++n) {
      const int other = mine.from[kTokens] + n;
      float* const key = new_keys + n * key_dim;
      float* const value = new_values + n * value_dim;
      for (int i = threadIdx.x; i < key_dim; i += blockDim.x) key[i] = k[(static_cast<long long>(other) * kv_heads + kv_head) * key_dim + i];
      for (int i = threadIdx.x; i < value_dim; i += blockDim.x) value[i] = rounded(v[(static_cast<long long>(other) * kv_heads + kv_head) * value_dim + i], dtype);
      if (rope_dim > 0) rotate(key, frequencies, positions[other], rope_dim, interleaved, rope_factor);
      for (int i = threadIdx.x; i < key_dim; i += blockDim.x) key[i] = rounded(key[i], dtype);
      if (other != row || p > 0 || (head > 0 && kv_of(head - 1) == kv_head)) continue;
      const long long to = static_cast<long long>(view.before + n) * kv_heads + kv_head;
      for (int i = threadIdx.x; i < key_dim; i += blockDim.x) store_float(view.k, to * key_dim + i, key[i], dtype);
      for (int i = threadIdx.x; i < value_dim; i += blockDim.x) store_float(view.v, to * value_dim + i, value[i], dtype);
    }
  }
  __syncthreads();
  const int begin = sight.first + p * length;
  Softmax all = attend_part(sight, a, query, head, kv_head, begin, min(sight.end, begin + length), scores, sums);
  if (parts > 1) {
    float* const left = part_at(partial, row, head, heads, p, value_dim);
    for (int i = threadIdx.x; i < value_dim; i += blockDim.x) left[i] = sums[i];
    if (threadIdx.x == 0) left[value_dim] = all.largest, left[value_dim + 1] = all.total;
    __threadfence();
    __syncthreads();
    // Counts from 0 to parts - 1, then from 0 again.
    if (threadIdx.x == 0) ended_before[0] = atomicInc(ended + row * heads + head, static_cast<unsigned>(parts - 1));
    __syncthreads();
    if (ended_before[0] != static_cast<unsigned>(parts - 1)) return;
    __threadfence();
    for (int other = 0; other < parts; ++other) {
      const float* found = part_at(partial, row, head, heads, other, value_dim);
      const Softmax part = {__ldcg(found + value_dim), __ldcg(found + value_dim + 1)};
      float old_factor = 0, new_factor = 1;
      if (other == 0) all = part;
      else all = joined(all, part, &old_factor, &new_factor);
      for (int i = threadIdx.x; i < value_dim; i += blockDim.x) sums[i] = other == 0 ? __ldcg(found + i) : sums[i] * old_factor + __ldcg(found + i) * new_factor;
    }
  }
  const long long at = (static_cast<long long>(row) * heads + head) * value_dim;
  for (int i = threadIdx.x; i < value_dim; i += blockDim.x) {
    all_sums[i] = parts > 0 ? sums[i] / all.total : 0;
    if (out_planes == nullptr) out[at + i] = all_sums[i];
  }
  if (out_planes == nullptr) return;
  __syncthreads();
  for (int block = threadIdx.x / 32; block < value_dim / kBlock; block += 4) {
    const long long to = at / kBlock + block;
    store_block(all_sums[block * kBlock + threadIdx.x % 32], out_natural, out_planes + to * kBlockWords, out_numbers + to);
  }
}

}  // namespace lowbit
