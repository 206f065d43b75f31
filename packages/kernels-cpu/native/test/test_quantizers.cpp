// Routines of quantizers on odd sizes, at odd addresses and with memory of exactly the size that is asked for: the same bytes on all instruction sets and
// with any number of threads. That these are the bytes of the TypeScript is tested where both can be called: e2e/kernels-cpu-quantize.test.ts.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "layout.h"
#include "power.h"
#include "quantizer_tests.h"
#include "routines-bnb.h"
#include "routines-hqq-fit.h"
#include "routines-hqq.h"
#include "routines-int8.h"

using namespace lowbit;

namespace {

struct HqqCase {
  size_t groups, size;
  int bits, lanes, word_bytes, axis;
  size_t word_rows, extent;
  std::vector<size_t> lane_groups;
  bool solved;
};

void test_hqq() {
  const HqqCase cases[] = {
      {37, 19, 4, 2, 1, 1, 19, 19, {19, 18}, true},   {37, 19, 4, 2, 1, 1, 19, 19, {19, 18}, false},
      {1, 1, 8, 1, 1, 1, 1, 1, {1}, true},            {600, 64, 4, 2, 1, 1, 300, 300, {300, 300}, true},
      {21, 64, 3, 10, 4, 1, 3, 3, {3, 3, 3, 3, 3, 3, 3, 0, 0, 0}, true},
      {45, 130, 4, 2, 1, 0, 65, 45, {}, true},        {7, 20, 3, 10, 4, 0, 2, 7, {}, false},
      {19, 16, 1, 8, 1, 0, 2, 19, {}, true},
  };
  for (const HqqCase& c : cases) {
    const std::vector<float> values = weights_of(c.groups * c.size, 7);
    const OddBytes bytes(values.data(), values.size() * 4);
    const TileWeights w{bytes.data, Float::f32, c.groups, c.size};
    const TilePacking packing{c.bits, c.lanes, c.word_bytes, c.axis, c.word_rows, c.extent, c.lane_groups.data()};
    const int levels = 1 << c.bits;
    same_everywhere("hqq", [&](const Kernels& kernels, Pool& pool) {
      std::vector<uint8_t> all, settled(c.groups);
      std::vector<float> inverse(c.groups), zero(c.groups), scale(c.groups), zeros(5 * c.groups);
      double sums[15];
      hqq_min_max(kernels, pool, w, {levels, false, true}, inverse.data(), zero.data());
      const double betas[] = {10, 11, 12, 13, 14};
      for (int i = 0; i < 3; ++i) {
        hqq_proximal_steps(kernels, pool, w, {levels, 0.7, betas, 5, 14}, inverse.data(), zero.data(), zeros.data(), settled.data(), sums);
        std::copy(zeros.end() - static_cast<std::ptrdiff_t>(c.groups), zeros.end(), zero.begin());
        append(all, zeros.data(), zeros.size());
        append(all, sums, 15);
      }
      append(all, settled.data(), settled.size());
      for (size_t g = 0; g < c.groups; ++g) scale[g] = 1 / inverse[g];
      std::vector<uint8_t> words(packing.words(c.size) * static_cast<size_t>(c.word_bytes), 0xff);
      const OddBytes target(words.data(), words.size());
      const TileGrid grid{scale.data(), zero.data(), c.solved ? inverse.data() : nullptr, c.solved ? zero.data() : nullptr};
      expect(hqq_finish(kernels, pool, w, levels, grid, packing, target.data, sums) == Status::ok, "hqq_finish");
      append(all, target.data, words.size());
      append(all, sums, 3);
      return all;
    });
    Pool pool(1);
    std::vector<uint8_t> words(packing.words(c.size + 1) * 4);
    std::vector<float> ones(c.groups + 1, 1.0f);
    double sums[3];
    TilePacking wrong = packing;
    wrong.extent += c.axis == 0 ? 1 : 0;
    std::vector<size_t> more = c.lane_groups;
    if (c.axis == 1) more[0] += 1;
    wrong.lane_groups = more.data();
    expect(hqq_finish(*usable_kernels(Isa::scalar), pool, w, levels, {ones.data(), ones.data(), nullptr, nullptr}, wrong, words.data(), sums) ==
               Status::bad_argument,
           "a packing that does not fit is refused");
  }
}

void test_least_squares() {
  struct Case {
    size_t groups, size;
    int levels;
    Float scale, zero;
    int axis;
    size_t inp;  // 0: all channels alike
  };
  const Case cases[] = {
      {37, 19, 16, Float::f16, Float::f16, 1, 0},  {600, 64, 16, Float::f16, Float::f16, 1, 40}, {45, 130, 256, Float::f32, Float::f32, 0, 7},
      {1, 1, 2, Float::bf16, Float::f16, 1, 1},    {3, 9000, 8, Float::f16, Float::bf16, 1, 100}, {21, 64, 3, Float::f32, Float::f32, 0, 1},
      {2, 20000, 256, Float::f32, Float::f32, 1, 0},
  };
  for (const Case& c : cases) {
    std::vector<float> values = weights_of(c.groups * c.size, 5);
    std::fill(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(c.size), -0.25f);  // the first group is constant
    const OddBytes bytes(values.data(), values.size() * 4);
    const TileWeights w{bytes.data, Float::f32, c.groups, c.size};
    std::vector<double> counts(c.inp);
    for (size_t i = 0; i < c.inp; ++i) counts[i] = i % 5 == 0 ? 1000.0 : 0.01 * static_cast<double>(i + 1);
    std::vector<size_t> numbers(c.groups);
    for (size_t i = 0; i < c.groups; ++i) numbers[i] = 3 + i + (i > c.groups / 2 ? 11 : 0);
    const TileChannels channels{c.inp == 0 ? nullptr : counts.data(), c.inp, c.axis, 30, numbers.data()};
    same_everywhere("least squares", [&](const Kernels& kernels, Pool& pool) {
      std::vector<float> scale(c.groups), zero(c.groups);
      hqq_least_squares(kernels, pool, w, {c.levels, 8, c.scale, c.zero}, channels, scale.data(), zero.data());
      expect((0 - zero[0]) * scale[0] == -0.25f, "a constant group is exact");
      for (size_t g = 0; g < c.groups; ++g) {
        float lo = values[g * c.size], hi = lo;
        for (size_t i = 0; i < c.size; ++i) {
          lo = std::min(lo, values[g * c.size + i]);
          hi = std::max(hi, values[g * c.size + i]);
        }
        expect(scale[g] > 0 && std::isfinite(zero[g]), "a grid", static_cast<long>(g));
        // No grid is much wider than the range, and none lies beside it.
        expect(g == 0 || c.size < 2 || scale[g] * static_cast<float>(c.levels - 1) <= 1.5f * (hi - lo), "no wider than the range", static_cast<long>(g));
        expect((0 - zero[g]) * scale[g] <= hi && (static_cast<float>(c.levels - 1) - zero[g]) * scale[g] >= lo, "where the weights are", static_cast<long>(g));
      }
      std::vector<uint8_t> all;
      append(all, scale.data(), scale.size());
      append(all, zero.data(), zero.size());
      return all;
    });
    for (const float broken : {NAN, INFINITY, -INFINITY}) {
      values.back() = broken;
      Pool pool(2);
      std::vector<float> scale(c.groups), zero(c.groups);
      const TileWeights damaged{reinterpret_cast<const uint8_t*>(values.data()), Float::f32, c.groups, c.size};
      hqq_least_squares(*usable_kernels(Isa::scalar), pool, damaged, {c.levels, 8, c.scale, c.zero}, channels, scale.data(), zero.data());
      expect(std::isnan(scale.back()) && (c.groups == 1 || std::isfinite(scale[0])), "a group that is not finite says so");
    }
  }
}

void test_bnb() {
  const uint8_t codes[16] = {15, 14, 13, 12, 11, 10, 9, 8, 0, 1, 2, 3, 4, 5, 6, 7};
  float values[16], cuts[15];
  for (int i = 0; i < 16; ++i) values[i] = static_cast<float>(i - 8) / 8;
  for (int i = 0; i < 15; ++i) cuts[i] = (values[i] + values[i + 1]) / 2;
  for (const size_t size : {size_t{32}, size_t{64}, size_t{4096}}) {
    for (const size_t count : {size_t{1}, size_t{63}, size_t{64}, size_t{65}, size_t{17 * 64 + 31}, size_t{70000}}) {
      for (const bool broken : {false, true}) {
        std::vector<float> weights = weights_of(count, 3);
        if (broken) weights[count / 2] = count % 2 == 0 ? NAN : -INFINITY;
        const OddBytes bytes(weights.data(), count * 4);
        const BlockRun run{bytes.data, Float::f32, count, size, count % 3 == 0};
        same_everywhere("bnb", [&](const Kernels& kernels, Pool& pool) {
          std::vector<float> absmax(run.blocks());
          std::vector<uint8_t> packed((count + 1) / 2), all;
          std::vector<double> errors(3 * run.blocks());
          bnb_four_bit(kernels, pool, run, {cuts, codes, values}, nullptr, absmax.data(), packed.data(), errors.data());
          for (size_t b = 0; b < run.blocks(); ++b) {
            float largest = 0;
            for (size_t i = b * size; i < std::min(count, (b + 1) * size); ++i) {
              largest = std::isnan(weights[i]) || std::fabs(weights[i]) > largest ? std::fabs(weights[i]) : largest;
              if (std::isnan(weights[i])) break;
            }
            expect(absmax[b] == largest || (std::isnan(absmax[b]) && std::isnan(largest)), "absmax", static_cast<long>(b));
            expect(!std::isfinite(absmax[b]) || errors[2 * run.blocks() + b] <= 0.126 * static_cast<double>(largest), "an error of 4 bits");
          }
          append(all, absmax.data(), absmax.size());
          append(all, packed.data(), packed.size());
          append(all, errors.data(), errors.size());
          return all;
        });
      }
    }
  }
}

/// Scales of blocks that lie in the middle of a weight, or at its end, with a map that has its steps of 1 / 128.
void test_nested() {
  float map[256], bounds[255];
  for (int i = 0; i < 256; ++i) map[i] = static_cast<float>(i - 127) / 128;
  for (int i = 0; i < 255; ++i) bounds[i] = (map[i] + map[i + 1]) / 2;
  const size_t size = 32, count = 300 * size - 5;
  const std::vector<float> weights = weights_of(count, 9);
  const OddBytes bytes(weights.data(), count * 4);
  const BlockRun run{bytes.data, Float::f32, count, size, false};
  const float magnitudes[] = {0.6f, 0.5f, 0.7f};
  const uint8_t codes[16] = {};
  const float none[16] = {};
  for (const size_t all_blocks : {size_t{700}, size_t{768}}) {
    for (const float offset : {0.25f, NAN}) {
      same_everywhere("nested", [&](const Kernels& kernels, Pool& pool) {
        std::vector<float> absmax(300), scale(300);
        std::vector<uint8_t> packed((count + 1) / 2), nested_codes(300), all;
        std::vector<double> errors(900);
        const NestedScales nested{400, all_blocks, offset, magnitudes, map, bounds, nested_codes.data(), scale.data()};
        bnb_four_bit(kernels, pool, run, {none, codes, none}, &nested, absmax.data(), packed.data(), errors.data());
        for (size_t b = 0; b < 300; ++b) {
          const float largest = magnitudes[(400 + b) / 256];
          const bool near = std::fabs(scale[b] - std::min(absmax[b], offset + largest)) <= largest / 128;
          expect(std::isnan(offset) ? std::isnan(scale[b]) && nested_codes[b] == 0 && errors[b] == 0 : near, "a scale of 8 bits", static_cast<long>(b));
        }
        append(all, nested_codes.data(), nested_codes.size());
        append(all, scale.data(), scale.size());
        append(all, packed.data(), packed.size());
        return all;
      });
    }
  }
}

/// Codes as bitsandbytes defines them: rounded to float16, times a factor, rounded to an integer.
uint8_t int8_by_rule(float weight, float largest) {
  const float factor = largest == 0 ? 0 : 1.0f / largest * 127.0f;
  return static_cast<uint8_t>(static_cast<int>(std::nearbyint(from_f16(to_f16(weight)) * factor)));
}

void test_int8() {
  const size_t shapes[][2] = {{1, 1}, {3, 2}, {17, 5}, {40, 4096}, {5, 9003}, {33, 700}};
  for (const auto& [count, size] : shapes) {
    for (const float factor : {1.0f, 3e-6f, 1e-40f}) {
      for (const bool few : {false, true}) {
        std::vector<float> weights = weights_of(count * size, 3);
        for (float& x : weights) x *= factor;
        if (count > 2) weights[2 * size] = few ? INFINITY : NAN;
        const OddBytes bytes(weights.data(), weights.size() * 4);
        const Int8Rows rows{{bytes.data, Float::f32, count, size}, few, false};
        same_everywhere("int8", [&](const Kernels& kernels, Pool& pool) {
          std::vector<float> magnitudes(count);
          std::vector<uint8_t> codes(count * size), all;
          std::vector<double> errors(3 * count);
          bnb_int8(kernels, pool, rows, magnitudes.data(), codes.data(), errors.data());
          for (size_t r = 0; r < count; ++r) {
            const float largest = from_f16(to_f16(magnitudes[r]));
            expect(std::isfinite(largest) == (r != 2), "a row that float16 has");
            size_t wrong = 0;
            for (size_t i = 0; i < size; ++i) wrong += codes[r * size + i] != (r == 2 ? 0 : int8_by_rule(weights[r * size + i], largest));
            expect(wrong == 0, "codes by the rule", static_cast<long>(r), static_cast<long>(size));
            const double most = static_cast<double>(magnitudes[r]) / 200 + 0x1p-24;  // half a code, and what float16 loses
            expect(errors[2 * count + r] <= (r == 2 ? 0 : most), "an error of 8 bits");
          }
          append(all, magnitudes.data(), magnitudes.size());
          append(all, codes.data(), codes.size());
          append(all, errors.data(), errors.size());
          return all;
        });
      }
    }
  }
}

/// The bits that packages/hqq/src/solvers/power.test.ts has.
void test_power() {
  const struct {
    double x, y;
    uint64_t bits;
  } cases[] = {{0.1708, -0.3, 0x3ffb3011d71ca096}, {52.982025146484375, -0.1, 0x3fe583c9508e2e53}, {1.4e-45, -0.99, 0x4926ce43ee25fbac}, {3.4e38, -0.7, 0x3a551fd893949d0c}};
  for (const auto& c : cases) {
    const double got = power(c.x, c.y);
    uint64_t bits;
    std::memcpy(&bits, &got, 8);
    expect(bits == c.bits, "power");
  }
}

}  // namespace

void test_quantizers() {
  test_hqq();
  test_least_squares();
  test_bnb();
  test_nested();
  test_int8();
  test_higgs();
  test_power();
}
