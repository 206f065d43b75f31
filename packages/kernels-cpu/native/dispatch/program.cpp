#include "program.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <new>
#include <stdexcept>
#include <tuple>

#include "elementwise.h"
#include "layout.h"
#include "memory.h"
#include "product.h"

namespace lowbit {
namespace {

size_t number_bytes(Float dtype) { return dtype == Float::f32 ? 4 : 2; }

/// Numbers of a row in the dtype of a cache, `stride` bytes apart.
void narrow(const float* from, size_t count, Float dtype, uint8_t* to, size_t stride) {
  for (size_t i = 0; i < count; ++i, to += stride) {
    if (dtype == Float::f32) {
      std::memcpy(to, from + i, 4);
    } else {
      const uint16_t half = dtype == Float::f16 ? to_f16(from[i]) : to_bf16(from[i]);
      std::memcpy(to, &half, 2);
    }
  }
}

}  // namespace

/// One run of a step: contexts of its stages live here.
struct Stepper {
  Program& program;
  const StepInput& in;
  const Kernels& kernels;
  Pool& pool;

  struct Task {
    const Stepper* self;
    const Op* op;
    size_t rows;
    size_t rows_of_chunk;
  };
  /// Queries that attend to the same keys, at once: several rows of one head, or several heads of one row.
  struct Queries {
    size_t row, head;
    int rows, heads;
    int count() const { return rows * heads; }
  };
  struct Joined {  // stages whose chunks run side by side
    std::vector<Stage> stages;
  };
  struct Run {  // stages of one chunk, one after another
    std::vector<Stage> stages;
  };

  std::deque<Task> tasks;
  std::deque<Product> products;
  std::deque<Joined> joined;
  std::deque<Run> runs;
  std::vector<Stage> stages;
  std::vector<const Share*> share_of[kRows];  // tokens, outputs, encoder
  std::vector<size_t> position_of[kRows];
  std::vector<std::vector<Cache>*> caches_of;  // by share
  std::vector<float> scores;                   // by thread and query
  std::map<std::tuple<size_t, size_t, size_t>, std::vector<Queries>> queries;  // by heads, heads of keys, domain
  size_t longest = 0;
  // cos and sin of every row, by rope and domain: [row][pair][2]
  std::unordered_map<int, std::vector<double>> turns;

  float* at(int id) const {
    const TensorPlace& place = program.tensors[static_cast<size_t>(id)];
    const size_t domain = static_cast<size_t>(place.rows);
    return program.arena_.data() + program.arena_start_[domain] + place.offset * in.rows[domain];
  }
  size_t width(int id) const { return program.tensors[static_cast<size_t>(id)].width; }
  Rows domain(int id) const { return program.tensors[static_cast<size_t>(id)].rows; }
  size_t rows(int id) const { return in.rows[static_cast<size_t>(domain(id))]; }
  const std::vector<float>* constant(int id) const { return id < 0 ? nullptr : &program.constants[static_cast<size_t>(id)]; }
  /// Whether two tensors have no number in common.
  bool apart(int a, int b) const {
    const float* first = at(a);
    const float* second = at(b);
    return first + rows(a) * width(a) <= second || second + rows(b) * width(b) <= first;
  }
  size_t share_index(const Share* share) const { return static_cast<size_t>(share - in.shares.data()); }

  void place_rows();
  void grow_caches();
  void turn(const Op& op);
  void add_stages();
  void add_rows(const Op& op, size_t count, size_t work);
  void add_linear(const Op& op);
  void join(size_t first);
  void merge();

  void run_rows(const Op& op, size_t from, size_t to, int thread) const;
  void append(const Op& op, int k, int v, Rows rows) const;
  const std::vector<Queries>& queries_of(const Op& op);
  void attend(const Op& op, const Queries& queries, float* scores) const;
  void bend_scores(const Op& op, size_t head, int64_t distance, size_t count, float* p) const;
  size_t score_stride() const { return (longest + 2 * kKeys - 1) / kKeys * kKeys; }
  void expert(const Op& op, size_t row) const;
};

void Stepper::place_rows() {
  for (const Rows rows : {Rows::tokens, Rows::outputs, Rows::encoder}) {
    const size_t d = static_cast<size_t>(rows);
    share_of[d].resize(in.rows[d]);
    position_of[d].resize(in.rows[d]);
    for (const Share& share : in.shares) {
      for (size_t i = 0; i < share.count[d]; ++i) {
        share_of[d][share.from[d] + i] = &share;
        position_of[d][share.from[d] + i] = rows == Rows::encoder ? i : share.start + (rows == Rows::outputs ? share.wanted[i] : i);
      }
    }
  }
}

/// Room for all rows that this step appends, and the rows of earlier steps as JavaScript counts them.
void Stepper::grow_caches() {
  for (const Share& share : in.shares) {
    std::vector<Cache>& caches = program.sequences_[share.id];
    caches.resize(program.caches.size());
    for (size_t i = 0; i < caches.size(); ++i) {
      const CacheUse& use = program.caches[i];
      Cache& cache = caches[i];
      cache.rows = use.encoder ? (share.remembers ? cache.rows : 0) : share.start;
      const size_t more = share.count[static_cast<size_t>(use.encoder ? Rows::encoder : Rows::tokens)];
      const size_t rows = cache.rows + more;
      const size_t number = number_bytes(program.cache_dtype);
      const size_t key_bytes = kKeys * use.key_width * number, value_bytes = use.value_width * number;
      if ((rows + kKeys - 1) / kKeys * key_bytes > cache.k.size() || rows * value_bytes > cache.v.size()) {
        const size_t limit = use.encoder ? rows : program.context_length;
        const size_t room = std::max(rows, std::min({limit, 2 * cache.rows, cache.rows + 1024}));
        const size_t blocks = (room + kKeys - 1) / kKeys;
        cache.k.reserve(blocks * key_bytes);
        cache.v.reserve(room * value_bytes);
        cache.k.resize(blocks * key_bytes);
        cache.v.resize(room * value_bytes);
      }
      longest = std::max(longest, rows);
    }
    caches_of.push_back(&caches);
    longest = std::max({longest, share.count[0], share.count[3]});
  }
  scores.resize(score_stride() * kMostQueries * static_cast<size_t>(pool.threads()));
}

/// cos and sin for the rows of a rotation's domain, once a step.
void Stepper::turn(const Op& op) {
  const size_t d = static_cast<size_t>(domain(op.out));
  const int key = op.rope * kRows + static_cast<int>(d);
  if (turns.count(key) != 0) return;
  const Rope& rope = program.ropes[static_cast<size_t>(op.rope)];
  const size_t half = op.dim / 2;
  std::vector<double>& turned = turns[key];
  turned.resize(in.rows[d] * half * 2);
  const Share* last = nullptr;
  std::vector<double> frequencies;
  const double scale = rope.kind == 1 ? 1 : rope.scale;
  for (size_t row = 0; row < in.rows[d]; ++row) {
    const Share* share = share_of[d][row];
    if (share != last) frequencies = rope_frequencies(rope, d == 3 ? share->count[3] : share->length);
    last = share;
    for (size_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(position_of[d][row]) * frequencies[i];
      turned[(row * half + i) * 2] = std::cos(angle) * scale;
      turned[(row * half + i) * 2 + 1] = std::sin(angle) * scale;
    }
  }
}

void Stepper::append(const Op& op, int k, int v, Rows rows) const {
  const size_t d = static_cast<size_t>(rows);
  for (const Share& share : in.shares) {
    const size_t count = share.count[d];
    if (count == 0) continue;
    Cache& cache = (*caches_of[share_index(&share)])[static_cast<size_t>(op.cache)];
    const size_t key = width(k), value = width(v);
    const Float dtype = program.cache_dtype;
    const size_t number = number_bytes(dtype);
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
  const size_t number = number_bytes(dtype);
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

struct Give {
  size_t bytes;
  void operator()(uint8_t* memory) const { give_memory(memory, bytes); }
};

/// One row of one expert, by the thread that is at it.
void Stepper::expert(const Op& op, size_t row) const {
  const size_t top_k = width(op.y);
  const int32_t id = reinterpret_cast<const int32_t*>(at(op.y))[row];
  const size_t linear = static_cast<size_t>(op.experts[static_cast<size_t>(id)]);
  const size_t from = domain(op.x) == Rows::tokens ? row / top_k : row;
  Product product(kernels, *program.linears[linear], in.planes, 1, 1);
  product.threshold = program.thresholds[linear];
  const size_t bytes = product.scratch_bytes();
  uint8_t* memory = take_memory(bytes);
  if (memory == nullptr) throw std::bad_alloc();
  const std::unique_ptr<uint8_t, Give> holds(memory, Give{bytes});
  std::vector<Stage> list;
  product.stages(at(op.x) + from * width(op.x), at(op.out) + row * width(op.out), memory, list);
  for (const Stage& stage : list) {
    for (uint32_t chunk = 0; chunk < stage.chunks; ++chunk) stage.run(stage.context, chunk, 0);
  }
  program.count_outliers(linear, product);
}

/// Rows [from, to) of an operation; of attend, groups of queries.
void Stepper::run_rows(const Op& op, size_t from, size_t to, int thread) const {
  const size_t n = op.out >= 0 ? width(op.out) : 0;
  const size_t d = op.out >= 0 ? static_cast<size_t>(domain(op.out)) : 0;
  float* out = op.out >= 0 ? at(op.out) : nullptr;
  switch (op.kind) {
    case OpKind::embed:
      for (size_t row = from; row < to; ++row) {
        fill_row(kernels, *program.linears[static_cast<size_t>(op.linear)], in.tokens[row], out + row * n);
        for (size_t i = 0; i < n; ++i) out[row * n + i] = static_cast<float>(static_cast<double>(out[row * n + i]) * op.factor);
      }
      break;
    case OpKind::input: {
      const auto given = in.inputs.find(static_cast<int>(&op - program.ops.data()));
      if (given != in.inputs.end()) std::memcpy(out, given->second.data(), given->second.size() * sizeof(float));
      break;
    }
    case OpKind::inject: {
      std::memcpy(out, at(op.x), in.rows[d] * n * sizeof(float));
      const auto given = in.injections.find(static_cast<int>(&op - program.ops.data()));
      if (given == in.injections.end()) break;
      const auto& [rows, values] = given->second;
      for (size_t i = 0; i < rows.size(); ++i) std::memcpy(out + rows[i] * n, values.data() + i * n, n * sizeof(float));
      break;
    }
    case OpKind::position_embed:
      for (size_t row = from; row < to; ++row) {
        const float* table = constant(op.constant)->data() + (position_of[d][row] + op.offset) * n;
        for (size_t i = 0; i < n; ++i) out[row * n + i] = at(op.x)[row * n + i] + table[i];
      }
      break;
    case OpKind::norm:
      for (size_t row = from; row < to; ++row) {
        norm_row(op, at(op.x) + row * n, n, constant(op.constant), constant(op.constant2), out + row * n);
      }
      break;
    case OpKind::rope: {
      const std::vector<double>& turned = turns.at(op.rope * kRows + static_cast<int>(d));
      const size_t half = op.dim / 2, part = n / op.heads;
      std::memcpy(out + from * n, at(op.x) + from * n, (to - from) * n * sizeof(float));
      for (size_t row = from; row < to; ++row) {
        for (size_t head = 0; head < op.heads; ++head) {
          float* v = out + row * n + head * part;
          for (size_t i = 0; i < half; ++i) {
            const double cosine = turned[(row * half + i) * 2], sine = turned[(row * half + i) * 2 + 1];
            float& first = v[op.interleaved ? 2 * i : i];
            float& second = v[op.interleaved ? 2 * i + 1 : i + half];
            const double a = static_cast<double>(first), b = static_cast<double>(second);
            first = static_cast<float>(a * cosine - b * sine);
            second = static_cast<float>(b * cosine + a * sine);
          }
        }
      }
      break;
    }
    case OpKind::attend: {
      const std::vector<Queries>& list = queries.at({op.heads, op.kv_heads, d});
      float* buffer = const_cast<float*>(scores.data()) + static_cast<size_t>(thread) * kMostQueries * score_stride();
      for (size_t i = from; i < to; ++i) attend(op, list[i], buffer);
      break;
    }
    case OpKind::activate:
      if (op.activation == Activation::silu) {
        kernels.silu(at(op.x) + from * n, nullptr, (to - from) * n, out + from * n);
        break;
      }
      for (size_t i = from * n; i < to * n; ++i) out[i] = activate(op.activation, at(op.x)[i]);
      break;
    case OpKind::gate: {
      const bool one = width(op.y) == 1;
      const float* gate = at(op.y);
      const float* x = at(op.x);
      if (!one && op.activation == Activation::silu) {
        kernels.silu(gate + from * n, x + from * n, (to - from) * n, out + from * n);
        break;
      }
      for (size_t row = from; row < to; ++row) {
        const float shared = one ? activate(op.activation, gate[row]) : 0;
        for (size_t i = row * n; i < (row + 1) * n; ++i) out[i] = (one ? shared : activate(op.activation, gate[i])) * x[i];
      }
      break;
    }
    case OpKind::add:
      for (size_t i = from * n; i < to * n; ++i) {
        out[i] = static_cast<float>(static_cast<double>(at(op.x)[i]) + op.factor * static_cast<double>(at(op.y)[i]));
      }
      break;
    case OpKind::scale:
      for (size_t i = from * n; i < to * n; ++i) out[i] = static_cast<float>(static_cast<double>(at(op.x)[i]) * op.factor);
      break;
    case OpKind::softcap:
      for (size_t i = from * n; i < to * n; ++i) {
        out[i] = static_cast<float>(op.softcap * std::tanh(static_cast<double>(at(op.x)[i]) / op.softcap));
      }
      break;
    case OpKind::slice: {
      const size_t whole = width(op.x), part = whole / op.groups;
      for (size_t row = from; row < to; ++row) {
        for (size_t g = 0; g < op.groups; ++g) {
          std::memcpy(out + row * n + g * op.width, at(op.x) + row * whole + g * part + op.offset, op.width * sizeof(float));
        }
      }
      break;
    }
    case OpKind::select:
      for (size_t row = from; row < to; ++row) {
        const Share& share = *share_of[1][row];
        const size_t source = share.from[0] + share.wanted[row - share.from[1]];
        std::memcpy(out + row * n, at(op.x) + source * n, n * sizeof(float));
      }
      break;
    case OpKind::route: {
      const size_t experts = width(op.x);
      for (size_t row = from; row < to; ++row) {
        route_row(op, at(op.x) + row * experts, experts, reinterpret_cast<int32_t*>(out) + row * n, at(op.y) + row * n);
      }
      break;
    }
    case OpKind::expert_linear:
      for (size_t row = from; row < to; ++row) expert(op, row);
      break;
    case OpKind::combine: {
      const size_t top_k = width(op.y);
      for (size_t row = from; row < to; ++row) {
        for (size_t i = 0; i < n; ++i) {
          double sum = 0;
          for (size_t j = 0; j < top_k; ++j) {
            sum += static_cast<double>(at(op.y)[row * top_k + j]) * static_cast<double>(at(op.x)[(row * top_k + j) * n + i]);
          }
          out[row * n + i] = static_cast<float>(sum);
        }
      }
      break;
    }
    case OpKind::remember:
    case OpKind::linear:
      break;
  }
}

/// `count` rows in chunks; short ones in one, as a step of one token has many.
void Stepper::add_rows(const Op& op, size_t count, size_t work) {
  if (count == 0) return;
  constexpr size_t kWorth = 4096;  // numbers of a chunk that is worth another thread
  // A stage has so many chunks at most: rows that are long enough make longer ones.
  const size_t of_chunk = std::max({size_t{1}, kWorth / std::max<size_t>(1, work), (count - 1) / pool.most_chunks() + 1});
  tasks.push_back({this, &op, count, std::min(count, of_chunk)});
  const Task& task = tasks.back();
  stages.push_back({[](const void* context, size_t chunk, int thread) {
                      const Task& t = *static_cast<const Task*>(context);
                      const size_t from = chunk * t.rows_of_chunk;
                      t.self->run_rows(*t.op, from, std::min(t.rows, from + t.rows_of_chunk), thread);
                    },
                    &task, static_cast<uint32_t>((count + task.rows_of_chunk - 1) / task.rows_of_chunk)});
}

void Stepper::add_linear(const Op& op) {
  const size_t count = rows(op.x);
  if (count == 0) return;
  const size_t linear = static_cast<size_t>(op.linear);
  products.emplace_back(kernels, *program.linears[linear], in.planes, count, pool.threads());
  products.back().threshold = program.thresholds[linear];
}

void Stepper::add_stages() {
  // Products first: one piece of scratch, as large as the largest needs, serves them all, one after another.
  for (const Op& op : program.ops) {
    if (op.kind == OpKind::linear) add_linear(op);
  }
  // q, k and v, gate and up: products of the same rows share one quantization of them, and run side by side.
  std::vector<size_t> alike(products.size(), 0);  // how many products, from the first on
  size_t index = 0;
  for (size_t i = 0; i < program.ops.size(); ++i) {
    const Op& op = program.ops[i];
    if (op.kind != OpKind::linear || rows(op.x) == 0) continue;
    const Op* before = i == 0 ? nullptr : &program.ops[i - 1];
    bool same = index > 0 && before->kind == OpKind::linear && before->x == op.x && products[index].shares(products[index - 1]);
    // A result that nobody reads may share its place with the next one.
    for (size_t j = 0; same && j <= alike[index - 1]; ++j) same = apart(program.ops[i - 1 - j].out, op.out);
    alike[index] = same ? alike[index - 1] + 1 : 0;
    ++index;
  }
  for (size_t end = products.size(); end-- > 0;) {
    const size_t first = end - alike[end];
    size_t most = 0;
    for (size_t i = first; i <= end; ++i) most = std::max(most, products[i].thread_bytes());
    for (size_t i = first; i <= end; ++i) products[i].set_thread_bytes(most);
    end = first;
  }
  size_t bytes = 0;
  for (const Product& product : products) bytes = std::max(bytes, product.scratch_bytes());
  if (program.scratch_bytes_ < bytes) {
    give_memory(program.scratch_, program.scratch_bytes_);
    program.scratch_bytes_ = 0;
    program.scratch_ = take_memory(bytes);
    if (program.scratch_ == nullptr) throw std::bad_alloc();
    program.scratch_bytes_ = bytes;
  }
  index = 0;
  size_t group = 0;  // where the stages of the products begin that run side by side
  for (const Op& op : program.ops) {
    switch (op.kind) {
      case OpKind::linear: {
        if (rows(op.x) == 0) break;
        Product& product = products[index];
        if (alike[index] == 0) group = stages.size() + 1;  // after the quantization
        product.stages(at(op.x), at(op.out), program.scratch_, stages, alike[index] > 0);
        const bool last = index + 1 == products.size() || alike[index + 1] == 0;
        if (last && alike[index] > 0) join(group);
        ++index;
        continue;
      }
      case OpKind::remember:
      case OpKind::attend: {
        const bool fills = op.kind == OpKind::remember || (op.cache >= 0 && op.y >= 0);
        if (fills) {
          tasks.push_back({this, &op, 0, 0});
          stages.push_back({[](const void* context, size_t, int) {
                              const Task& t = *static_cast<const Task*>(context);
                              const bool encoder = t.op->kind == OpKind::remember;
                              t.self->append(*t.op, t.op->y, t.op->z, encoder ? Rows::encoder : Rows::tokens);
                            },
                            &tasks.back(), 1});
        }
        if (op.kind == OpKind::attend && rows(op.out) > 0) add_rows(op, queries_of(op).size(), longest * (op.key_dim + op.value_dim) / 4);
        break;
      }
      case OpKind::input:
      case OpKind::inject:
        add_rows(op, rows(op.out) > 0 ? 1 : 0, 1);
        break;
      case OpKind::expert_linear:
        add_rows(op, rows(op.out), size_t{1} << 20);
        break;
      case OpKind::rope:
        turn(op);
        add_rows(op, rows(op.out), width(op.out));
        break;
      case OpKind::gate:
      case OpKind::activate:
        add_rows(op, rows(op.out), width(op.out) * 4);
        break;
      default:
        add_rows(op, rows(op.out), width(op.out));
        break;
    }
  }
  merge();
}

/// Stages from `first` on become one.
void Stepper::join(size_t first) {
  const auto from = stages.begin() + static_cast<std::ptrdiff_t>(first);
  size_t chunks = 0;
  for (auto stage = from; stage != stages.end(); ++stage) chunks += stage->chunks;
  if (chunks > pool.most_chunks()) return;
  joined.push_back({std::vector<Stage>(from, stages.end())});
  stages.erase(from, stages.end());
  stages.push_back({[](const void* context, size_t chunk, int thread) {
                      for (const Stage& stage : static_cast<const Joined*>(context)->stages) {
                        if (chunk < stage.chunks) return stage.run(stage.context, chunk, thread);
                        chunk -= stage.chunks;
                      }
                    },
                    &joined.back(), static_cast<uint32_t>(chunks)});
}

/// Stages of one chunk in a row become one: a step of one token has many of them, and each boundary costs a meeting of all threads.
void Stepper::merge() {
  std::vector<Stage> merged;
  for (size_t i = 0; i < stages.size();) {
    size_t end = i;
    while (end < stages.size() && stages[end].chunks == 1) ++end;
    if (end - i < 2) {
      merged.push_back(stages[i++]);
      continue;
    }
    runs.push_back({std::vector<Stage>(stages.begin() + static_cast<std::ptrdiff_t>(i), stages.begin() + static_cast<std::ptrdiff_t>(end))});
    merged.push_back({[](const void* context, size_t, int thread) {
                        for (const Stage& stage : static_cast<const Run*>(context)->stages) stage.run(stage.context, 0, thread);
                      },
                      &runs.back(), 1});
    i = end;
  }
  stages = std::move(merged);
}

/// LLM.int8: experts of several rows run side by side.
void Program::count_outliers(size_t linear, const Product& product) {
  if (linears[linear]->kind != Kind::int8) return;
  const std::lock_guard lock(counting_);
  if (outliers_.size() < linears.size()) outliers_.resize(linears.size());
  outliers_[linear].products += 1;
  outliers_[linear].columns += product.outlier_columns();
}

/// Throws std::out_of_range for an index that is not among the rows which it names: everything after this trusts them.
void Program::check(const StepInput& input) const {
  const auto expect = [](bool holds, const char* what) {
    if (!holds) throw std::out_of_range(what);
  };
  expect(input.planes >= 1 && input.planes <= kMaxPlanes, "1 to 3 planes");
  expect(input.tokens.size() == input.rows[0], "there are not as many tokens as rows");
  for (const Op& op : ops) {
    if (op.kind != OpKind::embed) continue;
    const size_t vocabulary = linears[static_cast<size_t>(op.linear)]->out;
    for (const uint32_t token : input.tokens) expect(token < vocabulary, "a token is outside of the vocabulary");
  }
  for (const Share& share : input.shares) {
    for (int d = 0; d < kRows; ++d) {
      expect(share.from[d] <= input.rows[d] && share.count[d] <= input.rows[d] - share.from[d], "a share is outside of the rows");
    }
    expect(share.wanted.size() == share.count[1], "there are not as many wanted rows as outputs");
    for (const uint32_t wanted : share.wanted) expect(wanted < share.count[0], "a wanted row is outside of the tokens");
  }
  const auto of_op = [&](int id) {
    expect(id >= 0 && static_cast<size_t>(id) < ops.size() && ops[static_cast<size_t>(id)].out >= 0, "there is no such operation");
    return tensors[static_cast<size_t>(ops[static_cast<size_t>(id)].out)];
  };
  for (const auto& [id, values] : input.inputs) {
    const TensorPlace place = of_op(id);
    expect(values.size() <= place.width * input.rows[static_cast<size_t>(place.rows)], "an input has too many numbers");
  }
  for (const auto& [id, given] : input.injections) {
    const TensorPlace place = of_op(id);
    expect(given.second.size() == given.first.size() * place.width, "an injection has another number of rows than of places");
    for (const uint32_t at : given.first) expect(at < input.rows[static_cast<size_t>(place.rows)], "an injection is outside of the rows");
  }
}

void Program::step(const StepInput& input, const Kernels& kernels, Pool& pool) {
  check(input);
  Stepper stepper{*this, input, kernels, pool, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, 0, {}};
  size_t floats = 0;
  for (int d = 0; d < kRows; ++d) {
    rows_[d] = input.rows[d];
    arena_start_[d] = floats;
    floats += arena_width[d] * input.rows[d];
  }
  if (arena_.size() < floats) arena_.resize(floats);
  stepper.place_rows();
  stepper.grow_caches();
  stepper.add_stages();
  pool.run(stepper.stages.data(), stepper.stages.size());
  auto product = stepper.products.begin();
  for (const Op& op : ops) {
    if (op.kind == OpKind::linear && stepper.rows(op.x) > 0) count_outliers(static_cast<size_t>(op.linear), *product++);
  }
}

const float* Program::tensor(int id) const {
  const TensorPlace& place = tensors[static_cast<size_t>(id)];
  const size_t domain = static_cast<size_t>(place.rows);
  return arena_.data() + arena_start_[domain] + place.offset * rows_[domain];
}

size_t Program::tensor_bytes(int id) const {
  const TensorPlace& place = tensors[static_cast<size_t>(id)];
  const size_t domain = static_cast<size_t>(place.rows);
  const size_t end = arena_start_[domain] + (place.offset + place.width) * rows_[domain];
  return end > arena_.size() ? 0 : place.width * rows_[domain] * sizeof(float);
}

void Program::fork(uint32_t from, uint32_t to) {
  const auto found = sequences_.find(from);
  if (found == sequences_.end()) return;
  std::vector<Cache> copy;
  for (size_t i = 0; i < found->second.size(); ++i) {
    const Cache& cache = found->second[i];
    const size_t number = number_bytes(cache_dtype);
    const auto part = [](const std::vector<uint8_t>& bytes, size_t count) {
      return std::vector<uint8_t>(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(count));
    };
    const size_t blocks = (cache.rows + kKeys - 1) / kKeys;
    copy.push_back({part(cache.k, blocks * kKeys * caches[i].key_width * number), part(cache.v, cache.rows * caches[i].value_width * number),
                    cache.rows});
  }
  sequences_[to] = std::move(copy);
}

size_t Program::cache_bytes() const {
  size_t bytes = 0;
  for (const auto& [id, caches] : sequences_) {
    for (const Cache& cache : caches) bytes += cache.k.size() + cache.v.size();
  }
  return bytes;
}

void Program::trim() {
  constexpr size_t kKeep = size_t{4} << 20;
  if (scratch_bytes_ > kKeep) {
    give_memory(scratch_, scratch_bytes_);
    scratch_ = nullptr;
    scratch_bytes_ = 0;
  }
  if (arena_.size() * sizeof(float) > kKeep) std::vector<float>().swap(arena_);
}

Program::~Program() { give_memory(scratch_, scratch_bytes_); }

}  // namespace lowbit
