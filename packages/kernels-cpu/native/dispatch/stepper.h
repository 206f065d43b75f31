// A step: what the operations of a program are to do, as stages of the pool, and what those stages share. Steps that are cut alike, as those of one token
// after another, have the same stages.
//
// stepper.cpp makes the stages and runs the operations; attention.cpp keeps the caches and attends to them.
#pragma once

#include <array>
#include <deque>
#include <map>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "product.h"
#include "program.h"

namespace lowbit {

/// What the stages of a step depend on.
struct StepCut {
  std::array<size_t, kRows> rows;
  std::vector<size_t> spans;  // first row and number of rows of every share, by domain
  int planes;
  size_t reach;  // of attention: most keys, rounded up to a power of two
  const Kernels* kernels;
  Pool* pool;
  const float* arena;

  StepCut(const StepInput& input, const Kernels& kernels, Pool& pool, const float* arena);
  bool operator==(const StepCut&) const = default;
};

/// Contexts of the stages live here.
struct Stepper {
  /// Makes the stages. Throws std::bad_alloc.
  Stepper(Program& program, const StepCut& cut, const StepInput& input);
  Stepper(const Stepper&) = delete;
  Stepper& operator=(const Stepper&) = delete;
  /// Runs a step that is cut like that of the constructor.
  void run(StepInput input);

  Program& program;
  const StepCut cut;
  const Kernels& kernels;
  Pool& pool;
  StepInput in;  // of this step

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

  std::deque<Task> tasks;
  std::deque<Product> products;
  std::deque<Joined> joined;
  std::vector<Stage> stages;
  std::vector<const Share*> share_of[kRows];  // tokens, outputs, encoder
  std::vector<size_t> position_of[kRows];
  std::vector<std::vector<Cache>*> caches_of;  // by share
  std::vector<float> scores;                   // by thread and query
  size_t score_numbers = 0;                    // of `scores`, also where they are only counted
  std::map<std::tuple<size_t, size_t, size_t>, std::vector<Queries>> queries;  // by heads, heads of keys, domain
  size_t longest = 0;
  std::vector<const Op*> rotations;
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

  /// Of what a step leaves for the next.
  size_t bytes() const;
  /// Counts caches (in bytes) and scores as `grow_caches` makes them, and takes no memory.
  size_t measure_caches();
  void place_rows();
  void turn_all();
  void grow_caches();
  void turn(const Op& op);
  void add_stages();
  void add_rows(const Op& op, size_t count, size_t work);
  void add_linear(const Op& op);
  void join(size_t first);

  void run_rows(const Op& op, size_t from, size_t to, int thread) const;
  void append(const Op& op, int k, int v, Rows rows) const;
  const std::vector<Queries>& queries_of(const Op& op);
  void attend(const Op& op, const Queries& queries, float* scores) const;
  void bend_scores(const Op& op, size_t head, int64_t distance, size_t count, float* p) const;
  size_t score_stride() const { return (longest + 2 * kKeys - 1) / kKeys * kKeys; }
  void expert(const Op& op, size_t index) const;
};

}  // namespace lowbit
