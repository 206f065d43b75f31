// Steps of a program: sequences beside one another and alone, long stages, indices beyond their rows.
#include "program.h"

#include <stdexcept>

#include "layout.h"
#include "programs.h"
#include "select.h"
#include "testing.h"

using namespace lowbit;

namespace {

template <class F>
bool refuses(F&& body) {
  try {
    body();
  } catch (const std::out_of_range&) {
    return true;
  }
  return false;
}

/// An embedding in f32.
struct Table {
  Table(size_t vocab, size_t width) : rows(random_floats(vocab * width, -1, 2)) {
    weight.out = vocab;
    weight.inp = width;
    expect(plan_layout(weight) == Status::ok, "plan_layout");
    weight.data = reinterpret_cast<const uint8_t*>(rows.data());
  }
  Table(const Table&) = delete;
  std::vector<float> rows;
  Weight weight;
};

}  // namespace

/// A layer of a model: two sequences in one step, and token by token, give the same bytes.
void test_program() {
  constexpr size_t kWidth = 32, kVocab = 11, kTokens = 9;
  const Table embedding(kVocab, kWidth);
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
      program.linears = {&embedding.weight};
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

/// Indices beyond their rows are refused before anything is read with them.
void test_bounds() {
  constexpr size_t kWidth = 8, kVocab = 5;
  const Table embedding(kVocab, kWidth);
  Pool pool(2);
  Program program;
  program.tensors = {{Rows::tokens, kWidth, 0}, {Rows::tokens, kWidth, kWidth}, {Rows::outputs, kWidth, 0}};
  program.arena_width[0] = 2 * kWidth;
  program.arena_width[1] = kWidth;
  program.linears = {&embedding.weight};
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
