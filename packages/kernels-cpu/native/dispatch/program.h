// A compiled program: its operations over row tensors in one arena, its caches, and one step of it. What the operations mean: packages/core/src/spec/program.ts.
//
// JavaScript plans (which rows belong to whom, where in the arena a tensor lies) and holds the lengths of sequences; a step trusts that and runs.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "lowbit_cpu.h"
#include "pool.h"

namespace lowbit {

enum class Rows : int { tokens = 0, outputs = 1, routed = 2, encoder = 3 };
constexpr int kRows = 4;

/// A tensor of `width` numbers a row (f32, ids: i32), at `offset` numbers a row of its domain's arena.
struct TensorPlace {
  Rows rows;
  size_t width;
  size_t offset;
};

enum class OpKind : int {
  embed, input, inject, position_embed, norm, linear, rope, attend, remember, activate, gate, add, scale, softcap, slice, select, route,
  expert_linear, combine
};

enum class Activation : int { silu, gelu, gelu_tanh, quick_gelu, relu, relu2, sigmoid, tanh, identity };

/// One operation; what a kind does not use stays at its default, -1 is none.
struct Op {
  OpKind kind = OpKind::scale;
  int out = -1, x = -1, y = -1, z = -1;  // tensors: inputs in the order of program.ts
  int linear = -1, constant = -1, constant2 = -1, cache = -1, rope = -1;
  size_t heads = 0, kv_heads = 0, key_dim = 0, value_dim = 0, dim = 0, groups = 1, offset = 0, width = 0, top_k = 0, window = 0;
  double factor = 1, eps = 0, softcap = 0;
  Activation activation = Activation::identity;
  bool layer_norm = false, interleaved = false, causal = false, sigmoid = false, normalize = false;
  double weight_offset = 0;
  std::vector<double> slopes;  // alibi
  size_t buckets = 0, max_distance = 0;
  bool bidirectional = false;
  std::vector<int> experts;
};

struct Rope {
  int kind = 0;  // 0 fixed, 1 dynamic, 2 long
  std::vector<double> frequencies, longer;
  double scale = 1, base = 0, factor = 1;
  size_t dim = 0, original = 0;
};

struct CacheUse {
  bool encoder = false;
  size_t key_width = 0, value_width = 0;
};

/// Keys in blocks of kKeys positions, [block][channel][kKeys], values in rows; numbers of the program's cache dtype.
struct Cache {
  std::vector<uint8_t> k, v;
  size_t rows = 0;
};

/// A sequence's share of a step.
struct Share {
  uint32_t id = 0;
  size_t start = 0;   // position of its first new token
  size_t length = 0;  // that dynamic rotations go by
  bool remembers = false;
  size_t from[kRows] = {};
  size_t count[kRows] = {};
  std::vector<uint32_t> wanted;
};

struct StepInput {
  std::vector<uint32_t> tokens;
  std::vector<Share> shares;
  size_t rows[kRows] = {};
  std::unordered_map<int, std::vector<float>> inputs;  // by the tensor they make
  std::unordered_map<int, std::pair<std::vector<uint32_t>, std::vector<float>>> injections;
  int planes = 3;
};

/// What a program holds: in a step, after it, and in caches.
struct ProgramBytes {
  size_t scratch = 0, kept = 0, cache = 0;
};

class Product;
struct Stepper;

/// Products with a weight in LLM.int8, and the columns of them that were computed in floating point.
struct Outliers {
  uint64_t products = 0;
  uint64_t columns = 0;
};

class Program {
 public:
  std::vector<TensorPlace> tensors;
  size_t arena_width[kRows] = {};
  std::vector<Op> ops;
  std::vector<Rope> ropes;
  std::vector<CacheUse> caches;
  std::vector<std::vector<float>> constants;
  std::vector<const Weight*> linears;
  std::vector<float> thresholds;
  size_t context_length = 0;
  Float cache_dtype = Float::f32;

  /// Runs a step. Throws std::out_of_range for indices outside of their rows, before anything is changed; std::bad_alloc where there is no memory:
  /// what the caches have then is as long as JavaScript says at the next step.
  void step(StepInput input, const Kernels& kernels, Pool& pool);
  /// Numbers of a tensor after a step, until the next.
  const float* tensor(int id) const;
  /// Of a tensor that can be read now: 0 after `trim` has given its room back.
  size_t tensor_bytes(int id) const;

  /// The first `length` tokens, and all rows of an encoder.
  void fork(uint32_t from, uint32_t to, size_t length);
  void close(uint32_t id) { sequences_.erase(id); }
  /// Of every linear, since the last call; empty if no linear counts.
  std::vector<Outliers> take_outliers() { return std::exchange(outliers_, {}); }
  size_t cache_bytes() const;
  size_t scratch_bytes() const;
  /// Gives back the room of a long step.
  void trim();
  /// What such a step would hold, caches as full as they are after it: the step is planned, and nothing runs or is written, so weights may be sizes without
  /// numbers. Throws as `step`.
  ProgramBytes measure(const StepInput& input, const Kernels& kernels, Pool& pool);

 private:
  friend struct Stepper;
  void check(const StepInput& input) const;
  /// Numbers of the arena for these rows, whose domains get their places in it.
  size_t place_domains(const StepInput& input);
  void count_outliers(size_t linear, const Product& product);

  std::unique_ptr<Stepper> stepper_;  // of the last step
  std::mutex counting_;
  std::vector<Outliers> outliers_;
  std::unordered_map<uint32_t, std::vector<Cache>> sequences_;
  std::vector<float> arena_;
  size_t arena_start_[kRows] = {};
  size_t rows_[kRows] = {};
  uint8_t* scratch_ = nullptr;
  size_t scratch_bytes_ = 0;

 public:
  ~Program();
  Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;
};

}  // namespace lowbit
