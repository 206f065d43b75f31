// Caches of keys and values, and attention over them: as packages/core/src/reference/attention.ts.
#include <algorithm>
#include <cmath>

#include "elementwise.h"
#include "layout.h"
#include "stepper.h"

namespace lowbit {
namespace {

/// Numbers of a row in the dtype of a cache, `stride` bytes apart.
void narrow(const float* from, size_t count, Float dtype, uint8_t* to, size_t stride) {
  for (size_t i = 0; i < count; ++i, to += stride) write_number(dtype, to, from[i]);
}

struct CacheBytes {
  size_t k, v;
};

/// Of keys and values of so many rows: keys in whole blocks.
CacheBytes cache_bytes(const CacheUse& use, Float dtype, size_t rows) {
  const size_t number = float_bytes(dtype);
  return {(rows + kKeys - 1) / kKeys * kKeys * use.key_width * number, rows * use.value_width * number};
}

}  // namespace

size_t Stepper::measure_caches() {
  size_t bytes = 0;
  longest = 0;
  for (const Share& share : in.shares) {
    for (const CacheUse& use : program.caches) {
      const size_t rows = use.encoder ? share.count[3] : share.start + share.count[0];
      const CacheBytes own = cache_bytes(use, program.cache_dtype, rows);
      bytes += own.k + own.v;
      longest = std::max(longest, rows);
    }
    longest = std::max({longest, share.count[0], share.count[3]});
  }
  score_numbers = score_stride() * kMostQueries * static_cast<size_t>(pool.threads());
  return bytes;
}

/// Room for all rows that this step appends, and the rows of earlier steps as JavaScript counts them.
void Stepper::grow_caches() {
  caches_of.clear();
  longest = 0;
  for (const Share& share : in.shares) {
    std::vector<Cache>& caches = program.sequences_[share.id];
    caches.resize(program.caches.size());
    for (size_t i = 0; i < caches.size(); ++i) {
      const CacheUse& use = program.caches[i];
      Cache& cache = caches[i];
      cache.rows = use.encoder ? (share.remembers ? cache.rows : 0) : share.start;
      const size_t more = share.count[static_cast<size_t>(use.encoder ? Rows::encoder : Rows::tokens)];
      const size_t rows = cache.rows + more;
      const CacheBytes needed = cache_bytes(use, program.cache_dtype, rows);
      if (needed.k > cache.k.size() || needed.v > cache.v.size()) {
        const size_t limit = use.encoder ? rows : program.context_length;
        const CacheBytes room = cache_bytes(use, program.cache_dtype, std::max(rows, std::min({limit, 2 * cache.rows, cache.rows + 1024})));
        cache.k.reserve(room.k);
        cache.v.reserve(room.v);
        cache.k.resize(room.k);
        cache.v.resize(room.v);
      }
      longest = std::max(longest, rows);
    }
    caches_of.push_back(&caches);
    longest = std::max({longest, share.count[0], share.count[3]});
  }
  score_numbers = score_stride() * kMostQueries * static_cast<size_t>(pool.threads());
  scores.resize(score_numbers);
}

void Stepper::append(const Op& op, int k, int v, Rows rows) const {
  const size_t d = static_cast<size_t>(rows);
  for (const Share& share : in.shares) {
    const size_t count = share.count[d];
    if (count == 0) continue;
    Cache& cache = (*caches_of[share_index(&share)])[static_cast<size_t>(op.cache)];
    const size_t key = width(k), value = width(v);
    const Float dtype = program.cache_dtype;
    const size_t number = float_bytes(dtype);
    for (size_t i = 0; i < count; ++i) {
      const size_t position = cache.rows + i;
      uint8_t* to = cache.k.data() + (position / kKeys * key * kKeys + position % kKeys) * number;
      narrow(at(k) + (share.from[d] + i) * key, key, dtype, to, kKeys * number);
      narrow(at(v) + (share.from[d] + i) * value, value, dtype, cache.v.data() + position * value * number, number);
    }
    cache.rows += count;
  }
}

const std::vector<Stepper::Queries>& Stepper::queries_of(const Op& op) {
  const size_t d = static_cast<size_t>(domain(op.out));
  std::vector<Queries>& list = queries[{op.heads, op.kv_heads, d}];
  if (!list.empty()) return list;
  const size_t share_heads = op.heads % op.kv_heads == 0 ? op.heads / op.kv_heads : 1;
  constexpr size_t kMost = kMostQueries;
  for (size_t row = 0; row < in.rows[d];) {
    size_t end = row;
    while (end < in.rows[d] && end - row < kMost && share_of[d][end] == share_of[d][row]) ++end;
    const size_t rows = end - row;
    if (rows == 1) {
      for (size_t first = 0; first < op.heads; first += share_heads) {
        for (size_t head = 0; head < share_heads; head += kMost) {
          list.push_back({row, first + head, 1, static_cast<int>(std::min(kMost, share_heads - head))});
        }
      }
    } else {
      for (size_t head = 0; head < op.heads; ++head) list.push_back({row, head, static_cast<int>(rows), 1});
    }
    row = end;
  }
  return list;
}

/// As packages/core/src/reference/attention.ts, for queries with the same keys.
void Stepper::attend(const Op& op, const Queries& queries, float* buffer) const {
  const size_t d = static_cast<size_t>(domain(op.out));
  const Share& share = *share_of[d][queries.row];
  const size_t key_width = op.kv_heads * op.key_dim, value_width = op.kv_heads * op.value_dim;
  const size_t kv_head = queries.head * op.kv_heads / op.heads;
  const Cache* cache = op.cache < 0 ? nullptr : &(*caches_of[share_index(&share)])[static_cast<size_t>(op.cache)];
  const size_t count = cache != nullptr ? cache->rows : share.count[d];
  const int64_t from = cache != nullptr || d == 3 ? 0 : static_cast<int64_t>(share.start);
  const Float dtype = cache != nullptr ? program.cache_dtype : Float::f32;
  const size_t number = float_bytes(dtype);
  const uint8_t* v = cache != nullptr ? cache->v.data() : reinterpret_cast<const uint8_t*>(at(op.z) + share.from[d] * value_width);
  v += kv_head * op.value_dim * number;

  const int n = queries.count();
  const float* q[kMostQueries];
  float* out[kMostQueries];
  float* p[kMostQueries];
  size_t first[kMostQueries], end[kMostQueries];
  size_t least = SIZE_MAX, most = 0, common_first = 0, common_end = SIZE_MAX;
  for (int i = 0; i < n; ++i) {
    const size_t row = queries.row + static_cast<size_t>(queries.rows > 1 ? i : 0);
    const size_t head = queries.head + static_cast<size_t>(queries.rows > 1 ? 0 : i);
    const int64_t position = static_cast<int64_t>(position_of[d][row]);
    q[i] = at(op.x) + (row * op.heads + head) * op.key_dim;
    out[i] = at(op.out) + (row * op.heads + head) * op.value_dim;
    p[i] = buffer + static_cast<size_t>(i) * score_stride();
    const int64_t low = op.window == 0 ? 0 : std::max<int64_t>(0, position - static_cast<int64_t>(op.window) + 1 - from);
    const int64_t high = op.causal ? std::min(static_cast<int64_t>(count), position + 1 - from) : static_cast<int64_t>(count);
    first[i] = static_cast<size_t>(low);
    end[i] = static_cast<size_t>(std::max(low, high));
    least = std::min(least, first[i]);
    most = std::max(most, end[i]);
    common_first = std::max(common_first, first[i]);
    common_end = std::min(common_end, end[i]);
    std::fill(out[i], out[i] + op.value_dim, 0.0f);
  }
  // Scores of keys from a whole block on: p[i][j] is that of key start + j.
  const size_t start = cache != nullptr ? least / kKeys * kKeys : least;
  if (most <= start) return;
  if (cache != nullptr) {
    const size_t stride = key_width * kKeys * number;
    const uint8_t* k = cache->k.data() + start / kKeys * stride + kv_head * op.key_dim * kKeys * number;
    kernels.score_blocks(q, n, k, dtype, stride, op.key_dim, (most - start + kKeys - 1) / kKeys, p);
  } else {
    const float* k = at(op.y) + (share.from[d] + start) * key_width + kv_head * op.key_dim;
    for (int i = 0; i < n; ++i) kernels.scores(q[i], k, key_width, op.key_dim, most - start, p[i]);
  }
  float inverse[kMostQueries];
  for (int i = 0; i < n; ++i) {
    const size_t keys = end[i] - first[i];
    float* own = p[i] + (first[i] - start);
    float factor = static_cast<float>(op.factor);
    if (op.softcap > 0 || !op.slopes.empty() || op.buckets > 0) {
      const size_t row = queries.row + static_cast<size_t>(queries.rows > 1 ? i : 0);
      const size_t head = queries.head + static_cast<size_t>(queries.rows > 1 ? 0 : i);
      bend_scores(op, head, from + static_cast<int64_t>(first[i]) - static_cast<int64_t>(position_of[d][row]), keys, own);
      factor = 1;
    }
    inverse[i] = keys == 0 ? 0.0f : static_cast<float>(1 / kernels.soften(own, keys, factor));
  }
  // Values of the keys that all of them see at once, those before and after one by one: a key that is not seen must not matter, whatever it holds.
  const auto mix = [&](int i, int queries_of_call, size_t a, size_t b) {
    if (a >= b) return;
    const float* weights[kMostQueries];
    for (int j = 0; j < queries_of_call; ++j) weights[j] = p[i + j] + (a - start);
    kernels.mix_rows(weights, queries_of_call, v + a * value_width * number, dtype, value_width * number, op.value_dim, b - a, out + i);
  };
  if (common_first < common_end) {
    for (int i = 0; i < n; ++i) mix(i, 1, first[i], common_first);
    mix(0, n, common_first, common_end);
    for (int i = 0; i < n; ++i) mix(i, 1, common_end, end[i]);
  } else {
    for (int i = 0; i < n; ++i) mix(i, 1, first[i], end[i]);
  }
  for (int i = 0; i < n; ++i) {
    for (size_t k = 0; k < op.value_dim; ++k) out[i][k] *= inverse[i];
  }
}

/// Scores of consecutive keys, the first `distance` after the query (or before, where negative): factor, softcap, and what is added by distance.
void Stepper::bend_scores(const Op& op, size_t head, int64_t distance, size_t count, float* p) const {
  for (size_t j = 0; j < count; ++j, ++distance) {
    float score = p[j] * static_cast<float>(op.factor);
    if (op.softcap > 0) score = static_cast<float>(op.softcap * std::tanh(static_cast<double>(score) / op.softcap));
    if (!op.slopes.empty()) score += static_cast<float>(op.slopes[head] * static_cast<double>(distance));
    if (op.buckets > 0) {
      score += (*constant(op.constant))[relative_bucket(distance, op.buckets, op.max_distance, op.bidirectional) * op.heads + head];
    }
    p[j] = score;
  }
}

}  // namespace lowbit
