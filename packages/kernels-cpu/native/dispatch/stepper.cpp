#include "stepper.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>

#include "elementwise.h"
#include "layout.h"
#include "memory.h"

namespace lowbit {

StepCut::StepCut(const StepInput& input, const Kernels& of_kernels, Pool& of_pool, const float* of_arena)
    : planes(input.planes), reach(1), kernels(&of_kernels), pool(&of_pool), arena(of_arena) {
  std::copy(input.rows, input.rows + kRows, rows.begin());
  size_t longest = 1;
  for (const Share& share : input.shares) {
    for (int d = 0; d < kRows; ++d) spans.insert(spans.end(), {share.from[d], share.count[d]});
    longest = std::max({longest, share.start + share.count[0], share.count[3]});
  }
  while (reach < longest) reach *= 2;
}

Stepper::Stepper(Program& of_program, const StepCut& of_cut, const StepInput& input)
    : program(of_program), cut(of_cut), kernels(*of_cut.kernels), pool(*of_cut.pool), in(input) {
  place_rows();
  add_stages();
}

size_t Stepper::bytes() const {
  size_t numbers = score_numbers * sizeof(float) + products.size() * sizeof(Product) + stages.size() * sizeof(Stage);
  for (const auto& [key, turned] : turns) numbers += turned.size() * sizeof(double);
  return numbers;
}

void Stepper::run(StepInput input) {
  in = std::move(input);
  place_rows();
  grow_caches();
  turn_all();
  pool.run(stages.data(), stages.size());
}

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

void Stepper::turn_all() {
  turns.clear();
  for (const Op* op : rotations) turn(*op);
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

struct Give {
  size_t bytes;
  void operator()(uint8_t* memory) const { give_memory(memory, bytes); }
};

/// All rows of one expert, by the thread that is at it: its weight is read once for them, and LLM.int8 finds their outliers together.
void Stepper::expert(const Op& op, size_t index) const {
  const size_t top_k = width(op.y), inp = width(op.x), out = width(op.out);
  const int32_t* ids = reinterpret_cast<const int32_t*>(at(op.y));
  std::vector<size_t> mine;
  for (size_t row = 0; row < rows(op.out); ++row) {
    if (ids[row] == static_cast<int32_t>(index)) mine.push_back(row);
  }
  if (mine.empty()) return;
  const size_t linear = static_cast<size_t>(op.experts[index]);
  Product product(kernels, *program.linears[linear], in.planes, mine.size(), 1);
  product.threshold = program.thresholds[linear];
  const size_t scratch = (product.scratch_bytes() + 63) / 64 * 64;
  const size_t bytes = scratch + mine.size() * (inp + out) * sizeof(float);
  uint8_t* memory = take_memory(bytes);
  if (memory == nullptr) throw std::bad_alloc();
  const std::unique_ptr<uint8_t, Give> holds(memory, Give{bytes});
  float* x = reinterpret_cast<float*>(memory + scratch);
  float* y = x + mine.size() * inp;
  for (size_t i = 0; i < mine.size(); ++i) {
    const size_t from = domain(op.x) == Rows::tokens ? mine[i] / top_k : mine[i];
    std::memcpy(x + i * inp, at(op.x) + from * inp, inp * sizeof(float));
  }
  std::vector<Stage> list;
  product.stages(x, y, memory, list);
  for (const Stage& stage : list) {
    for (uint32_t chunk = 0; chunk < stage.chunks; ++chunk) stage.run(stage.context, chunk, 0);
  }
  for (size_t i = 0; i < mine.size(); ++i) std::memcpy(at(op.out) + mine[i] * out, y + i * out, out * sizeof(float));
  program.count_outliers(linear, product);
}

/// Rows [from, to) of an operation; of attend, groups of queries; of expert_linear, experts.
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
      const auto given = in.inputs.find(op.out);
      if (given != in.inputs.end()) std::memcpy(out, given->second.data(), given->second.size() * sizeof(float));
      break;
    }
    case OpKind::inject: {
      std::memcpy(out, at(op.x), in.rows[d] * n * sizeof(float));
      const auto given = in.injections.find(op.out);
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
      for (size_t index = from; index < to; ++index) expert(op, index);
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
        if (op.kind == OpKind::attend && rows(op.out) > 0) add_rows(op, queries_of(op).size(), cut.reach * (op.key_dim + op.value_dim) / 4);
        break;
      }
      case OpKind::input:
      case OpKind::inject:
        add_rows(op, rows(op.out) > 0 ? 1 : 0, 1);
        break;
      case OpKind::expert_linear:
        add_rows(op, rows(op.out) > 0 ? op.experts.size() : 0, size_t{1} << 20);
        break;
      case OpKind::rope:
        rotations.push_back(&op);
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

}  // namespace lowbit
