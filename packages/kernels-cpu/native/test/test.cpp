// Products of every layout against plain loops, on every instruction set, with memory of exactly the size that is asked for: built with sanitizers, a
// read beyond it ends the test. Also the pool under many short lists. Run by run.mjs, for arm64 by run-arm64.mjs.
//
// --hashes prints what the products and routines of each case gave, for a comparison between machines; --isas the instruction sets that run here.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "extremes.h"
#include "layout.h"
#include "memory.h"
#include "packing.h"
#include "pool.h"
#include "product.h"
#include "program.h"
#include "rotation.h"
#include "select.h"

using namespace lowbit;

/// Routines of quantizers: test_quantizers.cpp. Gives the number of failures.
int test_quantizers();

namespace {

int failures = 0;

void expect(bool condition, const char* what, long a = 0, long b = 0, long c = 0) {
  if (condition) return;
  std::fprintf(stderr, "FAILED: %s (%ld, %ld, %ld)\n", what, a, b, c);
  ++failures;
}

uint32_t seed = 1;
uint32_t next() { return seed = seed * 1664525u + 1013904223u; }
float number() { return static_cast<float>(next() >> 8) / 8388608.0f - 1.0f; }

/// Memory of exactly so many elements.
template <class T>
struct Exact {
  explicit Exact(size_t n) : data(static_cast<T*>(std::malloc(std::max<size_t>(1, n * sizeof(T))))), count(n) {}
  ~Exact() { std::free(data); }
  Exact(const Exact&) = delete;
  Exact& operator=(const Exact&) = delete;
  T* data;
  size_t count;
};

bool print_hashes = false;

/// FNV-1a.
template <class T>
uint64_t hash_of(const std::vector<T>& values, uint64_t hash = 0xcbf29ce484222325u) {
  for (size_t i = 0; i < values.size() * sizeof(T); ++i) hash = (hash ^ reinterpret_cast<const uint8_t*>(values.data())[i]) * 0x100000001b3u;
  return hash;
}

int levels(Codes codes) {
  switch (codes) {
    case Codes::c8:
    case Codes::pairs8:
      return 256;
    case Codes::pairs6:
      return 64;
    case Codes::c3:
      return 8;
    case Codes::c2:
      return 4;
    case Codes::c1:
      return 2;
    default:
      return 16;
  }
}

void run_product(const Kernels& kernels, Pool& pool, const Weight& w, int planes, size_t rows, const float* x, float* out) {
  Product product(kernels, w, planes, rows, pool.threads());
  const size_t bytes = product.scratch_bytes();
  uint8_t* scratch = take_memory(bytes);
  std::vector<Stage> stages;
  product.stages(x, out, scratch, stages);
  pool.run(stages.data(), stages.size());
  give_memory(scratch, bytes);
}

/// Compares with float rows of the weight in double, and results with the first ones: of any instruction set, or of the same one where products are in f32.
void check_weight(Weight& w, const std::vector<uint8_t>& codes, Pool& pool, std::vector<std::vector<float>>& firsts,
                  std::vector<std::vector<float>>& own, const Kernels& kernels) {
  uint8_t* data = take_memory(w.data_bytes);
  std::memcpy(data, w.data, w.data_bytes);  // dense and numbers were put there
  const uint8_t* given = w.data;
  w.data = data;
  if (!codes.empty()) {
    const size_t half = w.out / 2;
    expect(put_codes(w, data, half, w.out - half, codes.data() + half * code_columns(w)) == Status::ok, "put_codes");
    expect(put_codes(w, data, 0, half, codes.data()) == Status::ok, "put_codes");
  }
  const size_t inp = w.features;
  std::vector<std::vector<float>> dense(w.out, std::vector<float>(inp));
  for (size_t i = 0; i < w.out; ++i) fill_row(kernels, w, i, dense[i].data());
  size_t at = 0;
  for (const size_t rows : {size_t{1}, size_t{2}, size_t{3}, size_t{7}, size_t{26}}) {
    Exact<float> x(rows * inp), out(rows * w.out);
    seed = static_cast<uint32_t>(rows);
    for (size_t i = 0; i < x.count; ++i) x.data[i] = number();
    for (int planes = kMinPlanes; planes <= kMaxPlanes; ++planes, ++at) {
      for (size_t i = 0; i < out.count; ++i) out.data[i] = NAN;
      run_product(kernels, pool, w, planes, rows, x.data, out.data);
      double worst = 0;
      for (size_t r = 0; r < rows; ++r) {
        for (size_t i = 0; i < w.out; ++i) {
          double sum = 0;
          for (size_t k = 0; k < inp; ++k) sum += static_cast<double>(x.data[r * inp + k]) * dense[i][k];
          if (w.bias != nullptr) sum += w.bias[i];
          const double error = std::fabs(sum - out.data[r * w.out + i]);
          worst = error <= worst ? worst : error;  // NaN counts
        }
      }
      const double bounds[] = {w.round == Float::none ? 3e-3 : 3e-2, 3e-4};
      expect(worst < (w.kind == Kind::int8 ? 0.3 : bounds[planes - kMinPlanes]), "far from the plain loop: kind, planes, rows",
             static_cast<long>(w.kind), planes, static_cast<long>(rows));
      const std::vector<float> got(out.data, out.data + out.count);
      if (firsts.size() <= at) firsts.push_back(got);
      if (own.size() <= at) own.push_back(got);
      expect(own[at] == got, "other bytes with other threads: kind, isa, planes", static_cast<long>(w.kind), static_cast<long>(kernels.isa), planes);
      const bool integers = (w.kind == Kind::tiles && (w.round == Float::none || planes < kMaxPlanes)) || w.kind == Kind::int8;
      expect(!integers || firsts[at] == got, "other bytes than the first instruction set gives: kind, isa, planes", static_cast<long>(w.kind),
             static_cast<long>(kernels.isa), planes);
      // The last row by itself.
      if (w.kind != Kind::int8) {
        Exact<float> alone(w.out);
        run_product(kernels, pool, w, planes, 1, x.data + (rows - 1) * inp, alone.data);
        expect(std::equal(alone.data, alone.data + w.out, got.end() - static_cast<std::ptrdiff_t>(w.out)), "a row depends on its batch: kind, isa, planes",
               static_cast<long>(w.kind), static_cast<long>(kernels.isa), planes);
      }
    }
  }
  give_memory(data, w.data_bytes);
  w.data = given;
}

void each_machine(Weight& w, const std::vector<uint8_t>& codes) {
  std::vector<std::vector<float>> firsts;
  for (int isa = 0; isa < kIsaCount; ++isa) {
    const Kernels* kernels = usable_kernels(static_cast<Isa>(isa));
    if (kernels == nullptr) continue;
    std::vector<std::vector<float>> own;
    for (const int threads : {1, 3}) {
      Pool pool(threads);
      check_weight(w, codes, pool, firsts, own, *kernels);
    }
  }
  // Integer products alone have the same bytes everywhere.
  if (!print_hashes || firsts.empty() || !((w.kind == Kind::tiles && w.round == Float::none) || w.kind == Kind::int8)) return;
  uint64_t hash = 0;
  for (const std::vector<float>& first : firsts) hash = hash_of(first, hash);
  std::printf("kind %d, codes %d, numbers %d, block %zu: %016llx\n", static_cast<int>(w.kind), static_cast<int>(w.codes), static_cast<int>(w.meta),
              w.block, static_cast<unsigned long long>(hash));
}

std::vector<uint8_t> random_codes(size_t count, int below) {
  std::vector<uint8_t> codes(count);
  for (uint8_t& code : codes) code = static_cast<uint8_t>((next() >> 16) % static_cast<uint32_t>(below));
  return codes;
}

std::vector<float> random_floats(size_t count, float low, float span) {
  std::vector<float> values(count);
  for (float& value : values) value = low + span * (number() * 0.5f + 0.5f);
  return values;
}

void test_tiles() {
  for (int c = 0; c < kCodesCount; ++c) {
    const Codes codes = static_cast<Codes>(c);
    if (is_pairs(codes)) continue;
    for (const Float meta : {Float::f32, Float::f16, Float::bf16, Float::none}) {
      if (codes == Codes::table4 && meta == Float::none) continue;
      Weight w;
      w.kind = Kind::tiles;
      w.classes = meta == Float::none ? 3 : 1;
      w.out = meta == Float::none ? 3 * 19 : 37;
      w.codes = codes;
      w.meta = meta;
      w.zeros = meta != Float::none && codes != Codes::table4;
      // f16 and 8 bits: 12, an odd number of vectors
      w.block = meta == Float::f16 ? unit_inputs(codes) * (codes == Codes::c8 ? 3 : 1) : meta == Float::bf16 ? 128 : 64;
      w.inp = meta == Float::none ? 101 : w.block * 3;
      expect(plan_layout(w) == Status::ok, "plan_layout");
      const float unit = 1.0f / static_cast<float>(levels(codes));
      std::vector<float> scale = random_floats(w.classes * w.inp, unit, unit);
      std::vector<float> zero = random_floats(w.classes * w.inp, 0, static_cast<float>(levels(codes)));
      const std::vector<float> table = random_floats(16, -1, 2);
      const std::vector<float> bias = random_floats(w.out, -1, 2);
      w.bias = bias.data();
      std::vector<uint8_t> data(w.data_bytes);
      w.data = data.data();
      if (meta == Float::none) {
        w.scale = scale.data();
        w.zero = zero.data();
      } else {
        for (size_t row = 0; row < w.out; ++row) {
          for (size_t b = 0; b < w.blocks; ++b) {
            put_numbers(w, data.data(), row, b, unit * static_cast<float>(1 + row % 3), static_cast<float>((row + b) % 8) * 0.25f);
          }
        }
      }
      if (codes == Codes::table4) {
        w.table = table.data();
        set_table(w, table.data());
      }
      each_machine(w, random_codes(w.out * w.inp, levels(codes)));
    }
  }
}

void test_rows() {
  for (const size_t inp : {size_t{1}, size_t{15}, size_t{16}, size_t{77}}) {
    for (const Float dtype : {Float::f32, Float::f16, Float::bf16}) {
      Weight w;
      w.out = 23;
      w.inp = inp;
      w.dtype = dtype;
      expect(plan_layout(w) == Status::ok, "plan_layout");
      Exact<uint8_t> data(w.data_bytes);
      for (size_t i = 0; i < w.out * inp; ++i) {
        const float value = number();
        const uint16_t half = to_f16(value);
        if (dtype == Float::f32) {
          std::memcpy(data.data + 4 * i, &value, 4);
        } else if (dtype == Float::f16) {
          std::memcpy(data.data + 2 * i, &half, 2);
        } else {
          std::memcpy(data.data + 2 * i, reinterpret_cast<const uint8_t*>(&value) + 2, 2);
        }
      }
      w.data = data.data;
      each_machine(w, {});
    }
    for (const int bits : {1, 2, 4, 8}) {
      for (const int axis : {0, 1}) {
        Weight w;
        w.kind = Kind::grouped;
        w.out = 14;
        w.inp = inp;
        w.bits = bits;
        w.axis = axis;
        w.group = 7;
        w.groups = 2 * inp;
        expect(plan_layout(w) == Status::ok, "plan_layout");
        const std::vector<float> scale = random_floats(w.groups, 0.01f, 0.01f);
        const std::vector<float> zero = random_floats(w.groups, 0, 8);
        w.scale = scale.data();
        w.zero = zero.data();
        std::vector<uint8_t> data(w.data_bytes);
        w.data = data.data();
        each_machine(w, random_codes(w.out * inp, 1 << bits));
      }
    }
  }
}

#include "codebooks.h"
#include "edges.h"

void test_int8() {
  for (const size_t block : {size_t{64}, size_t{12}}) {
    Weight w;
    w.kind = Kind::int8;
    w.codes = Codes::c8;
    w.out = 33;
    w.inp = 131;
    w.block = block;
    expect(plan_layout(w) == Status::ok, "plan_layout");
    const std::vector<float> scale = random_floats(w.out, 0.5f, 0.5f);
    w.scale = scale.data();
    std::vector<uint8_t> data(w.data_bytes);
    w.data = data.data();
    std::vector<uint8_t> codes = random_codes(w.out * w.inp, 255);
    for (uint8_t& code : codes) code = static_cast<uint8_t>(code - 127);
    each_machine(w, codes);
  }
}

void test_extremes() {
  for (int isa = 0; isa < kIsaCount; ++isa) {
    const Kernels* kernels = usable_kernels(static_cast<Isa>(isa));
    if (kernels != nullptr) expect(wrong_extremes(*kernels) == 0, "wrong sums of extreme bytes: isa", isa);
  }
}

/// Weights of all sizes, taken and given back in another order by several threads: zero, aligned, and nobody else's while they are held.
void test_memory() {
  const auto work = [](uint8_t mark) {
    for (int round = 0; round < 3; ++round) {
      std::vector<std::pair<uint8_t*, size_t>> held;
      for (const size_t bytes : {size_t{0}, size_t{100}, size_t{40000}, size_t{1} << 20, size_t{2000001}, size_t{3} << 20}) {
        for (int i = 0; i < 9; ++i) {
          uint8_t* memory = take_weight_memory(bytes);
          expect(memory != nullptr && reinterpret_cast<uintptr_t>(memory) % 64 == 0, "memory of a weight is not aligned", static_cast<long>(bytes));
          expect(std::all_of(memory, memory + bytes, [](uint8_t byte) { return byte == 0; }), "memory of a weight is not zero", static_cast<long>(bytes));
          std::memset(memory, mark, bytes);
          held.emplace_back(memory, bytes);
        }
      }
      for (size_t i = 0; i < held.size(); ++i) {
        const auto [memory, bytes] = held[i * 5 % held.size()];  // 5 and 54 have no divisor in common: each once
        expect(std::all_of(memory, memory + bytes, [mark](uint8_t byte) { return byte == mark; }), "somebody wrote to a weight", static_cast<long>(bytes));
        give_weight_memory(memory, bytes);
      }
    }
  };
  std::thread other(work, 1);
  work(2);
  other.join();
}

void test_f16() {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = from_f16(static_cast<uint16_t>(bits));
    if (std::isnan(value)) continue;
    expect(to_f16(value) == bits, "an f16 changes on the way through f32", static_cast<long>(bits));
  }
}

/// A layer of a model: two sequences in one step, and token by token, give the same bytes.
void test_program() {
  constexpr size_t kWidth = 32, kVocab = 11, kTokens = 9;
  Weight table;
  table.out = kVocab;
  table.inp = kWidth;
  expect(plan_layout(table) == Status::ok, "plan_layout");
  const std::vector<float> rows = random_floats(kVocab * kWidth, -1, 2);
  table.data = reinterpret_cast<const uint8_t*>(rows.data());
  for (int isa = 0; isa < kIsaCount; ++isa) {
    const Kernels* kernels = usable_kernels(static_cast<Isa>(isa));
    if (kernels == nullptr) continue;
    for (const int threads : {1, 3}) {
      Pool pool(threads);
      Program program;
      for (int i = 0; i < 6; ++i) program.tensors.push_back({Rows::tokens, kWidth, kWidth * static_cast<size_t>(i)});
      program.tensors.push_back({Rows::outputs, kWidth, 0});
      program.tensors.push_back({Rows::outputs, kVocab, kWidth});
      program.arena_width[0] = 6 * kWidth;
      program.arena_width[1] = kWidth + kVocab;
      program.linears = {&table};
      program.thresholds = {0};
      program.constants = {std::vector<float>(kWidth, 0.5f)};
      program.caches = {{false, kWidth, kWidth}};
      Rope rope;
      rope.frequencies = {1, 0.1, 0.01, 0.001};
      program.ropes = {rope};
      program.context_length = 64;
      const auto add = [&](OpKind kind, int out, int x) -> Op& {
        program.ops.emplace_back();
        program.ops.back().kind = kind;
        program.ops.back().out = out;
        program.ops.back().x = x;
        return program.ops.back();
      };
      add(OpKind::embed, 0, -1).linear = 0;
      Op& norm = add(OpKind::norm, 1, 0);
      norm.constant = 0;
      norm.eps = 1e-5;
      Op& turn = add(OpKind::rope, 2, 1);
      turn.rope = 0;
      turn.heads = 4;
      turn.dim = 8;
      Op& attend = add(OpKind::attend, 3, 2);
      attend.y = 2;
      attend.z = 1;
      attend.cache = 0;
      attend.heads = attend.kv_heads = 4;
      attend.key_dim = attend.value_dim = 8;
      attend.causal = true;
      Op& gate = add(OpKind::gate, 4, 3);
      gate.y = 1;
      gate.activation = Activation::silu;
      add(OpKind::add, 5, 4).y = 0;
      add(OpKind::select, 6, 5);
      add(OpKind::linear, 7, 6).linear = 0;
      const auto step = [&](const std::vector<std::pair<uint32_t, size_t>>& who, size_t from, size_t count) {
        StepInput in;
        for (const auto& [id, salt] : who) {
          Share share;
          share.id = id;
          share.start = from;
          share.length = from + count;
          share.from[0] = share.from[1] = in.rows[0];
          share.count[0] = share.count[1] = count;
          for (size_t i = 0; i < count; ++i) {
            share.wanted.push_back(static_cast<uint32_t>(i));
            in.tokens.push_back(static_cast<uint32_t>((from + i) * 5 + salt) % kVocab);
          }
          in.rows[0] += count;
          in.rows[1] += count;
          in.shares.push_back(share);
        }
        program.step(in, *kernels, pool);
        const float* out = program.tensor(7);
        return std::vector<float>(out, out + in.rows[1] * kVocab);
      };
      const std::vector<float> both = step({{1, 0}, {2, 3}}, 0, kTokens);
      std::vector<float> one;
      for (size_t i = 0; i < kTokens; ++i) {
        const std::vector<float> row = step({{3, 3}}, i, 1);
        one.insert(one.end(), row.begin(), row.end());
      }
      expect(std::equal(one.begin(), one.end(), both.begin() + static_cast<std::ptrdiff_t>(kTokens * kVocab)), "a step depends on its batch", isa);
      program.fork(1, 9, SIZE_MAX);
      const std::vector<float> more = step({{1, 0}}, kTokens, 3);
      expect(more == step({{9, 0}}, kTokens, 3), "a fork differs", isa);
      for (const uint32_t id : {1u, 2u, 3u, 9u}) program.close(id);
      expect(program.cache_bytes() == 0, "caches are left", isa);
    }
  }
}

/// More rows than a stage may have chunks: they go into longer chunks, and the numbers are those of one chunk after another.
void test_long_stages() {
  constexpr size_t kRowsOf = 300, kHeads = 4, kDim = 8, kWidth = kHeads * kDim;
  const std::vector<float> values = random_floats(kRowsOf * kWidth, -1, 2);
  std::vector<float> first;
  for (const uint32_t most : {kMostChunks, 1u, 7u, 64u}) {
    for (const int threads : {1, 2}) {
      Pool pool(threads, most);
      Program program;
      for (size_t i = 0; i < 3; ++i) program.tensors.push_back({Rows::tokens, kWidth, kWidth * i});
      program.arena_width[0] = 3 * kWidth;
      program.ops.resize(3);
      program.ops[0].kind = OpKind::input;
      program.ops[0].out = 0;
      Op& attend = program.ops[1];
      attend.kind = OpKind::attend;
      attend.out = 1;
      attend.x = attend.y = attend.z = 0;
      attend.heads = attend.kv_heads = kHeads;
      attend.key_dim = attend.value_dim = kDim;
      Op& scale = program.ops[2];
      scale.out = 2;
      scale.x = 1;
      scale.factor = 0.5;
      StepInput in;
      in.tokens.resize(kRowsOf);
      in.rows[0] = kRowsOf;
      Share share;
      share.id = 1;
      share.length = share.count[0] = kRowsOf;
      in.shares = {share};
      in.inputs.emplace(0, values);
      program.step(in, *scalar_kernels(), pool);
      const float* out = program.tensor(2);
      const std::vector<float> got(out, out + kRowsOf * kWidth);
      if (first.empty()) first = got;
      expect(got == first, "long stages give other numbers: most chunks, threads", static_cast<long>(most), threads);
    }
  }
}

template <class F>
bool refuses(F&& body) {
  try {
    body();
  } catch (const std::out_of_range&) {
    return true;
  }
  return false;
}

/// Indices beyond their rows are refused before anything is read with them.
void test_bounds() {
  constexpr size_t kWidth = 8, kVocab = 5;
  Weight table;
  table.out = kVocab;
  table.inp = kWidth;
  expect(plan_layout(table) == Status::ok, "plan_layout");
  const std::vector<float> rows = random_floats(kVocab * kWidth, -1, 2);
  table.data = reinterpret_cast<const uint8_t*>(rows.data());
  Pool pool(2);
  Program program;
  program.tensors = {{Rows::tokens, kWidth, 0}, {Rows::tokens, kWidth, kWidth}, {Rows::outputs, kWidth, 0}};
  program.arena_width[0] = 2 * kWidth;
  program.arena_width[1] = kWidth;
  program.linears = {&table};
  program.thresholds = {0};
  program.ops.resize(3);
  program.ops[0].kind = OpKind::embed;
  program.ops[0].linear = 0;
  program.ops[1].kind = OpKind::inject;
  program.ops[2].kind = OpKind::select;
  for (int i = 0; i < 3; ++i) {
    program.ops[static_cast<size_t>(i)].out = i;
    program.ops[static_cast<size_t>(i)].x = i - 1;
  }
  const auto step = [&](auto&& edit) {
    StepInput in;
    in.tokens = {1, kVocab - 1};
    in.rows[0] = 2;
    in.rows[1] = 1;
    Share share;
    share.id = 1;
    share.length = 2;
    share.count[0] = 2;
    share.count[1] = 1;
    share.wanted = {1};
    in.shares = {share};
    in.injections.emplace(1, std::make_pair(std::vector<uint32_t>{1}, std::vector<float>(kWidth, 3)));
    edit(in);
    program.step(in, *scalar_kernels(), pool);
  };
  expect(!refuses([&] { step([](StepInput&) {}); }), "a step is refused");
  expect(program.tensor(2)[0] == 3, "the injected row is not there");
  expect(refuses([&] { step([](StepInput& in) { in.tokens[0] = kVocab; }); }), "a token outside of the vocabulary");
  expect(refuses([&] { step([](StepInput& in) { in.tokens[0] = 0xffffffffu; }); }), "a token that was negative");
  expect(refuses([&] { step([](StepInput& in) { in.tokens.pop_back(); }); }), "a token too few");
  expect(refuses([&] { step([](StepInput& in) { in.shares[0].wanted[0] = 2; }); }), "a wanted row outside of the tokens");
  expect(refuses([&] { step([](StepInput& in) { in.shares[0].wanted.clear(); }); }), "a wanted row too few");
  expect(refuses([&] { step([](StepInput& in) { in.shares[0].from[0] = 1; }); }), "a share outside of the rows");
  expect(refuses([&] { step([](StepInput& in) { in.injections[1].first[0] = 2; }); }), "an injection outside of the rows");
  expect(refuses([&] { step([](StepInput& in) { in.injections[1].second.pop_back(); }); }), "an injection of another size");
}

struct Counting {
  std::atomic<uint32_t> ran{0};
  const std::atomic<uint32_t>* before = nullptr;
  uint32_t expected = 0;
  std::atomic<bool> early{false};
};

/// Every chunk of every stage runs once, and after all of the stage before, in many short lists from several callers.
void test_pool() {
  for (const int threads : {1, 2, 3, 5}) {
    Pool pool(threads);
    const auto caller = [&pool](uint32_t salt) {
      for (uint32_t round = 0; round < 2000; ++round) {
        Counting counts[5];
        std::vector<Stage> stages;
        for (uint32_t s = 0; s < 5; ++s) {
          const uint32_t chunks = (round * 7 + s * 3 + salt) % 9;
          counts[s].before = s == 0 ? nullptr : &counts[s - 1].ran;
          counts[s].expected = s == 0 ? 0 : stages[s - 1].chunks;
          stages.push_back({[](const void* context, size_t, int) {
                              Counting& c = *const_cast<Counting*>(static_cast<const Counting*>(context));
                              if (c.before != nullptr && c.before->load() != c.expected) c.early = true;
                              c.ran.fetch_add(1);
                            },
                            &counts[s], chunks});
        }
        pool.run(stages.data(), stages.size());
        for (uint32_t s = 0; s < 5; ++s) {
          expect(counts[s].ran == stages[s].chunks && !counts[s].early, "a stage was not run once in order", static_cast<long>(round), s);
        }
      }
    };
    std::thread other(caller, 4);
    caller(0);
    other.join();
  }
}

/// What a chunk throws comes out of run, once; what comes after it in the list is passed over, and the next list runs as ever.
void test_failures() {
  struct Failing {
    std::atomic<uint32_t> ran{0};
    bool fails = false;
  };
  for (const int threads : {1, 2, 4}) {
    Pool pool(threads, 100);
    for (int round = 0; round < 200; ++round) {
      Failing bad, after;
      bad.fails = round % 2 == 0;
      const auto run = [](const void* context, size_t chunk, int) {
        Failing& self = *const_cast<Failing*>(static_cast<const Failing*>(context));
        self.ran.fetch_add(1);
        if (self.fails && chunk % 5 == 3) throw std::bad_alloc();
      };
      const Stage stages[] = {{run, &bad, 20}, {run, &after, 9}};
      bool thrown = false;
      try {
        pool.run(stages, 2);
      } catch (const std::bad_alloc&) {
        thrown = true;
      }
      expect(thrown == bad.fails, "an exception of a chunk is lost or made up: threads", threads);
      expect(after.ran == (bad.fails ? 0u : 9u), "a stage after a failure runs, or one after none does not: threads", threads);
      expect(bad.fails || bad.ran == 20, "a chunk is passed over: threads", threads);
    }
    Failing long_one;
    const Stage too_long{[](const void* context, size_t, int) { const_cast<Failing*>(static_cast<const Failing*>(context))->ran.fetch_add(1); },
                         &long_one, 101};
    bool refused = false;
    try {
      pool.run(&too_long, 1);
    } catch (const std::length_error&) {
      refused = true;
    }
    expect(refused && long_one.ran == 0, "a stage of too many chunks is begun: threads", threads);
  }
}

}  // namespace

int main(int count, char** arguments) {
  for (int i = 1; i < count; ++i) {
    const std::string argument = arguments[i];
    if (argument == "--isas") {
      for (int isa = kIsaCount - 1; isa >= 0; --isa) {
        if (usable_kernels(static_cast<Isa>(isa)) != nullptr) std::printf("%s\n", isa_name(static_cast<Isa>(isa)));
      }
      return 0;
    }
    if (argument != "--hashes") {
      std::fprintf(stderr, "usage: lowbit_test [--isas | --hashes]\n");
      return 2;
    }
    print_hashes = true;
  }
  test_f16();
  test_pool();
  test_failures();
  test_long_stages();
  test_bounds();
  test_memory();
  test_tiles();
  test_codebooks();
  test_rotation();
  test_sharing();
  test_rows();
  test_int8();
  test_extremes();
  test_edges();
  test_largest_sums();
  test_program();
  failures += test_quantizers();
  failures += test_packing();
  if (failures > 0) return 1;
  if (!print_hashes) std::puts("native tests: ok");
  return 0;
}
