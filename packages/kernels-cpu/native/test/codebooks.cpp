// Codebooks, rotations and products that share them.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "memory.h"
#include "product.h"
#include "products.h"
#include "rotation.h"
#include "testing.h"

using namespace lowbit;

/// Codebooks of numbers and of pairs, rotated and not, with rounded products and without, of numbers that are f16 and of others.
void test_codebooks() {
  struct Turn {
    size_t rotate, blocks, filling;  // of a row
  };
  for (const Codes codes : {Codes::table4, Codes::pairs8, Codes::pairs6, Codes::pairs4}) {
    for (const Float round : {Float::none, Float::f16, Float::bf16}) {
      for (const Turn turn : {Turn{0, 3, 0}, Turn{unit_inputs(codes), 5, 3}, Turn{256, 2, 130}, Turn{512, 1, 0}}) {
        Weight w;
        w.kind = Kind::tiles;
        w.out = 37;
        w.codes = codes;
        w.meta = round == Float::none ? Float::f32 : round;
        w.round = round;
        w.dim = is_pairs(codes) ? 2 : 1;
        w.rotate = turn.rotate;
        w.block = turn.rotate == 0 ? 96 : std::min<size_t>(turn.rotate, 128);
        w.inp = turn.blocks * (turn.rotate == 0 ? w.block : turn.rotate);
        w.features = w.inp - turn.filling;
        expect(plan_layout(w) == Status::ok, "plan_layout");
        const bool halves = turn.rotate != 256;
        std::vector<float> table = random_floats(static_cast<size_t>(levels(codes)) * w.dim, -1, 2);
        for (float& number : table) number = halves ? from_f16(to_f16(number)) : number;
        table[0] = 0;
        const std::vector<float> bias = random_floats(w.out, -1, 2);
        w.bias = bias.data();
        w.table = table.data();
        std::vector<uint8_t> data(w.data_bytes), bytes(is_pairs(codes) ? pair_table_bytes(codes) : 0);
        w.data = data.data();
        for (size_t row = 0; row < w.out; ++row) {
          for (size_t b = 0; b < w.blocks; ++b) {
            put_numbers(w, data.data(), row, b, round_to(round, 0.04f + 0.001f * static_cast<float>((row * 7 + b) % 31)), 0);
          }
        }
        if (is_pairs(codes)) {
          set_pair_table(w, table.data(), bytes.data());
          expect((w.pair_halves != nullptr) == halves, "a table of f16 numbers is taken for another, or the reverse");
        } else {
          set_table(w, table.data());
        }
        each_machine(w, random_codes(w.out * code_columns(w), levels(codes)));
      }
    }
  }
  // What no tile takes: groups across rows, rows of any length.
  for (const size_t dim : {size_t{1}, size_t{2}}) {
    for (const int bits : {2, 4, 8}) {
      for (const size_t rotate : {size_t{0}, size_t{4}, size_t{32}}) {
        Weight w;
        w.kind = Kind::grouped;
        w.out = 13;
        w.inp = rotate == 0 ? 26 : 3 * rotate;
        w.features = rotate == 0 ? w.inp : w.inp - 1;
        w.rotate = rotate;
        w.bits = bits;
        w.dim = dim;
        w.group = 10;
        w.groups = (w.out * w.inp + 9) / 10;
        w.round = rotate == 0 ? Float::none : dim == 1 ? Float::f16 : Float::bf16;
        expect(plan_layout(w) == Status::ok, "plan_layout");
        const std::vector<float> scale = random_floats(w.groups, 0.04f, 0.04f);
        const std::vector<float> table = random_floats((size_t{1} << bits) * dim, -1, 2);
        w.scale = scale.data();
        w.table = table.data();
        std::vector<uint8_t> data(w.data_bytes);
        w.data = data.data();
        each_machine(w, random_codes(w.out * code_columns(w), 1 << bits));
      }
    }
  }
  Weight w;
  w.kind = Kind::tiles;
  w.out = 16;
  w.inp = w.block = 64;
  w.codes = Codes::pairs8;
  w.meta = w.round = Float::f16;
  w.dim = 2;
  const auto refused = [&](auto&& edit) {
    Weight bad = w;
    edit(bad);
    return plan_layout(bad) == Status::bad_argument;
  };
  expect(!refused([](Weight&) {}), "a codebook of pairs is refused");
  expect(refused([](Weight& bad) { bad.dim = 1; }), "pairs of one");
  expect(refused([](Weight& bad) { bad.inp = 72; }), "a short block of pairs");
  expect(refused([](Weight& bad) { bad.rotate = 24; }), "a Hadamard block of 24");
  expect(refused([](Weight& bad) { bad.rotate = 128; }), "a Hadamard block longer than the row");
  expect(refused([](Weight& bad) { bad.features = 60; }), "filling without a rotation");
  expect(refused([](Weight& bad) { bad.features = 65; bad.rotate = 64; }), "more features than inputs");
  expect(refused([](Weight& bad) { bad.round = Float::bf16; }), "products rounded to another dtype than the scales have");
  expect(refused([](Weight& bad) { bad.meta = bad.round = Float::none; }), "pairs without scales");
}

/// Products of one x share its rotated rows, if they have the same blocks; the results are those of each alone.
void test_sharing() {
  constexpr size_t kFeatures = 200;
  const auto weight = [](Codes codes, Float round, size_t rotate, size_t features, std::vector<uint8_t>& data, std::vector<float>& table,
                         std::vector<uint8_t>& bytes) {
    Weight w;
    w.kind = Kind::tiles;
    w.out = 40;
    w.codes = codes;
    w.dim = is_pairs(codes) ? 2 : 1;
    w.meta = Float::f16;
    w.round = round;
    w.rotate = rotate;
    w.inp = 256;
    w.features = features;
    w.block = 64;
    expect(plan_layout(w) == Status::ok, "plan_layout");
    data.resize(w.data_bytes);
    w.data = data.data();
    table = random_floats(static_cast<size_t>(levels(codes)) * w.dim, -1, 2);
    w.table = table.data();
    bytes.resize(is_pairs(codes) ? pair_table_bytes(codes) : 0);
    if (is_pairs(codes)) {
      set_pair_table(w, w.table, bytes.data());
    } else {
      set_table(w, w.table);
    }
    expect(put_codes(w, data.data(), 0, w.out, random_codes(w.out * code_columns(w), levels(codes)).data()) == Status::ok, "put_codes");
    for (size_t row = 0; row < w.out; ++row) {
      for (size_t b = 0; b < w.blocks; ++b) put_numbers(w, data.data(), row, b, 0.5f, 0);
    }
    return w;
  };
  std::vector<uint8_t> data[6], bytes[6];
  std::vector<float> table[6];
  const Weight weights[] = {weight(Codes::pairs8, Float::f16, 64, kFeatures, data[0], table[0], bytes[0]),
                            weight(Codes::pairs6, Float::f16, 64, kFeatures, data[1], table[1], bytes[1]),
                            weight(Codes::table4, Float::f16, 64, kFeatures, data[2], table[2], bytes[2]),
                            weight(Codes::pairs8, Float::none, 64, kFeatures, data[3], table[3], bytes[3]),
                            weight(Codes::pairs8, Float::f16, 128, kFeatures, data[4], table[4], bytes[4]),
                            weight(Codes::pairs8, Float::f16, 64, kFeatures + 1, data[5], table[5], bytes[5])};
  const Kernels& kernels = *best_kernels();
  Pool pool(2);
  constexpr size_t kRowsOf = 5;
  const std::vector<float> x = random_floats(kRowsOf * (kFeatures + 1), -1, 2);
  for (const int planes : {2, 3}) {
    for (size_t a = 0; a < 6; ++a) {
      for (size_t b = 0; b < 6; ++b) {
        Product first(kernels, weights[a], planes, kRowsOf, pool.threads()), second(kernels, weights[b], planes, kRowsOf, pool.threads());
        const bool shared = second.shares(first);
        // With three planes the rounded ones take rows in their order; with two, pairs take them in another than single codes.
        const auto kind = [&](size_t i) { return i > 3 ? i : planes == 3 ? i == 3 : i == 2; };
        expect(shared == (kind(a) == kind(b)), "what shares rows: planes, first, second", planes, static_cast<long>(a), static_cast<long>(b));
        if (!shared) continue;
        std::vector<float> out(kRowsOf * 40), alone(out);
        const size_t scratch_bytes = std::max(first.scratch_bytes(), second.scratch_bytes());
        uint8_t* scratch = take_memory(scratch_bytes);
        std::vector<Stage> stages;
        first.stages(x.data(), out.data(), scratch, stages);
        second.stages(x.data(), out.data(), scratch, stages, true);
        pool.run(stages.data(), stages.size());
        give_memory(scratch, scratch_bytes);
        run_product(kernels, pool, weights[b], planes, kRowsOf, x.data(), alone.data());
        expect(out == alone, "shared rows give other results: planes, first, second", planes, static_cast<long>(a), static_cast<long>(b));
      }
    }
  }
}

/// Rows in the rotated basis are those of the double sums, whatever the block; roundings to 16 bits are those of the scalar functions.
void test_rotation() {
  for (int isa = 0; isa < kIsaCount; ++isa) {
    const Kernels* kernels = usable_kernels(static_cast<Isa>(isa));
    if (kernels == nullptr) continue;
    for (const size_t block : {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096}) {
      const size_t columns = 3 * block, features = columns - (block > 1 ? block / 2 + 1 : 0);
      Exact<float> x(features), out(columns), mixed(columns);
      for (size_t i = 0; i < features; ++i) x.data[i] = number();
      std::vector<float> plain(x.data, x.data + features);
      plain.resize(columns);
      hadamard(plain.data(), columns, block);
      kernels->rotate(x.data, features, columns, block, false, out.data);
      double worst = 0;
      for (size_t i = 0; i < columns; ++i) worst = std::max(worst, std::fabs(static_cast<double>(out.data[i]) - plain[i]));
      expect(worst < 1e-6, "a rotation is far from that in double: isa, block", isa, static_cast<long>(block));
      kernels->rotate(x.data, features, columns, block, true, mixed.data);
      for (size_t i = 0; i < columns; ++i) {
        const size_t from = i / 8 * 8 + 8 <= columns ? i / 8 * 8 + i % 4 * 2 + i % 8 / 4 : i;
        expect(mixed.data[i] == out.data[from], "evens and odds: isa, block", isa, static_cast<long>(block));
      }
    }
    // Products of every scale's fraction with all numbers of a table, by a product with one row of x that picks a column.
    for (const Float round : {Float::f16, Float::bf16}) {
      Weight w;
      w.kind = Kind::tiles;
      w.out = 2048;
      w.inp = w.block = 8;
      w.codes = Codes::pairs8;
      w.dim = 2;
      w.meta = w.round = round;
      expect(plan_layout(w) == Status::ok, "plan_layout");
      std::vector<float> table = random_floats(512, -4, 8);
      for (size_t i = 0; i < 512; ++i) {
        const float smaller = i < 64 ? table[i] * std::ldexp(1.0f, -static_cast<int>(i % 16)) : table[i];
        table[i] = std::fabs(smaller) < 1e-4f ? 0 : round_to(round, smaller);
      }
      std::vector<uint8_t> data(w.data_bytes), bytes(pair_table_bytes(w.codes));
      w.data = data.data();
      w.table = table.data();
      set_pair_table(w, table.data(), bytes.data());
      expect(w.pair_halves != nullptr, "a table is not of f16 numbers");
      const std::vector<uint8_t> codes = random_codes(w.out * 4, 256);
      expect(put_codes(w, data.data(), 0, w.out, codes.data()) == Status::ok, "put_codes");
      for (const int exponent : {0, -6, -14}) {  // the last one: products below the normal numbers of f16
        for (size_t row = 0; row < w.out; ++row) {
          const float scale = std::ldexp(1.0f + static_cast<float>(row % 1024) / 1024, exponent);
          put_numbers(w, data.data(), row, 0, round_to(round, row < 1024 ? scale : -scale), 0);
        }
        for (size_t tile = 0; tile < w.class_tiles; ++tile) {
          Exact<float> strip(8 * kTileRows);
          kernels->expand[static_cast<int>(w.codes)](w, data.data() + tile * tile_bytes(w), 0, 1, strip.data);
          for (size_t lane = 0; lane < kTileRows; ++lane) {
            float row[8];
            fill_stored_row(*kernels, w, tile * kTileRows + lane, row);
            for (size_t k = 0; k < 8; ++k) expect(strip.data[k * kTileRows + lane] == row[k], "a rounded product: isa, dtype, exponent", isa,
                                                  static_cast<long>(round), exponent);
          }
        }
      }
    }
  }
}
