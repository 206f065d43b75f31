// Routines of quantizers on odd sizes, at odd addresses and with memory of exactly the size that is asked for: the same bytes on all instruction sets and
// with any number of threads. That these are the bytes of the TypeScript is tested where both can be called: src/routines-*.test.ts.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#include "layout.h"
#include "power.h"
#include "routines-bnb.h"
#include "routines-higgs.h"
#include "routines-hqq.h"
#include "routines-int8.h"
#include "select.h"

using namespace lowbit;

int test_quantizers();

namespace {

int failures = 0;

void expect(bool condition, const char* what, long a = 0, long b = 0) {
  if (condition) return;
  std::fprintf(stderr, "FAILED: %s (%ld, %ld)\n", what, a, b);
  ++failures;
}

/// Memory of exactly so many bytes, and no float lies where a float may.
struct OddBytes {
  explicit OddBytes(const void* from, size_t count) : memory(static_cast<uint8_t*>(std::malloc(count + 1))), data(memory + 1) {
    std::memcpy(data, from, count);
  }
  ~OddBytes() { std::free(memory); }
  OddBytes(const OddBytes&) = delete;
  OddBytes& operator=(const OddBytes&) = delete;
  uint8_t* memory;
  uint8_t* data;
};

/// Bell-shaped numbers, a few of them large, so that the shrinkage acts.
std::vector<float> weights_of(size_t count, uint32_t seed) {
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) {
    float sum = 0;
    for (int k = 0; k < 3; ++k) {
      seed = seed * 1664525u + 1013904223u;
      sum += static_cast<float>(seed >> 8) / 16777216.0f - 0.5f;
    }
    values[i] = sum * (i % 331 == 0 ? 6.0f : 0.3f);
  }
  return values;
}

/// What `run` gives must be the same for all instruction sets and 1 to 3 threads.
void same_everywhere(const char* what, const std::function<std::vector<uint8_t>(const Kernels&, Pool&)>& run) {
  std::vector<uint8_t> first;
  for (int isa = 0; isa < kIsaCount; ++isa) {
    const Kernels* kernels = usable_kernels(static_cast<Isa>(isa));
    if (kernels == nullptr) continue;
    for (int threads = 1; threads <= 3; ++threads) {
      Pool pool(threads);
      const std::vector<uint8_t> got = run(*kernels, pool);
      if (first.empty()) first = got;
      expect(got == first, what, isa, threads);
    }
  }
}

template <class T>
void append(std::vector<uint8_t>& bytes, const T* values, size_t count) {
  const auto* from = reinterpret_cast<const uint8_t*>(values);
  bytes.insert(bytes.end(), from, from + count * sizeof(T));
}

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

struct MadeGrid {
  std::vector<float> points, norms;
  int dim;

  Grid grid() const { return {points.data(), norms.data(), norms.size(), dim}; }
};

/// Normal points, and the same one twice.
MadeGrid made_grid(size_t size, int dim) {
  MadeGrid made{weights_of(size * static_cast<size_t>(dim), 5), std::vector<float>(size), dim};
  for (float& x : made.points) x *= 8;
  for (int k = 0; k < dim; ++k) made.points[made.points.size() - 1 - static_cast<size_t>(k)] = made.points[static_cast<size_t>(dim - 1 - k)];
  for (size_t c = 0; c < size; ++c) {
    const float* point = made.points.data() + c * static_cast<size_t>(dim);
    made.norms[c] = point[0] * point[0] + (dim == 2 ? point[1] * point[1] : 0.0f);
  }
  return made;
}

/// By looking at every point.
uint8_t nearest_by_definition(const Grid& grid, const float* v) {
  size_t best = 0;
  float most = -INFINITY;
  for (size_t c = 0; c < grid.size; ++c) {
    const float* point = grid.points + c * static_cast<size_t>(grid.dim);
    const float first = 2 * v[0] * point[0];
    const float dot = grid.dim == 2 ? first + 2 * v[1] * point[1] : first;
    if (dot - grid.norms[c] > most) {
      most = dot - grid.norms[c];
      best = c;
    }
  }
  return static_cast<uint8_t>(best);
}

/// Numbers of all kinds: ordinary ones, far ones, borders of cells, and the middles between points with their neighbours.
std::vector<float> vectors_for(const Grid& grid) {
  std::vector<float> v = weights_of(4000, 11);
  for (size_t i = 0; i < v.size(); ++i) v[i] *= i % 5 == 0 ? 40.0f : 7.0f;
  for (int i = -130; i <= 130; ++i) {
    const float border = static_cast<float>(i) / 32;
    for (const float x : {border, std::nextafterf(border, 9), std::nextafterf(border, -9), 0.0f, 0.25f}) v.push_back(x);
  }
  const size_t dim = static_cast<size_t>(grid.dim);
  for (size_t a = 0; a < grid.size; ++a) {
    for (size_t b = a + 1; b < grid.size; b += 1 + grid.size / 16) {
      for (const float shift : {0.0f, 1e-7f, -1e-7f, 3e-6f, -3e-6f}) {
        for (size_t k = 0; k < dim; ++k) v.push_back((grid.points[a * dim + k] + grid.points[b * dim + k]) / 2 + shift);
      }
    }
  }
  for (const float x : {0.0f, -0.0f, 1e-45f, -1e-45f, 4.0f, -4.0f, 1e20f, -1e20f}) v.insert(v.end(), {x, x, 0.0f, x, x, 1.0f});
  v.resize(v.size() / 2 * 2);
  return v;
}

void test_nearest() {
  for (const int dim : {1, 2}) {
    for (const size_t size : {size_t{1}, size_t{2}, size_t{16}, size_t{256}}) {
      const MadeGrid made = made_grid(size, dim);
      const std::vector<float> vectors = vectors_for(made.grid());
      const size_t count = vectors.size() / static_cast<size_t>(dim);
      std::vector<uint8_t> expected;
      for (size_t i = 0; i < count; ++i) expected.push_back(nearest_by_definition(made.grid(), vectors.data() + i * static_cast<size_t>(dim)));
      const auto points = nearest_points(made.grid());
      expect(points == nearest_points(made.grid()) && points->of(made.grid()), "a grid is kept");
      for (int isa = 0; isa < kIsaCount; ++isa) {
        const Kernels* kernels = usable_kernels(static_cast<Isa>(isa));
        if (kernels == nullptr) continue;
        for (const size_t part : {count, size_t{1}, size_t{7}}) {
          std::vector<uint8_t> codes(part);
          std::vector<uint32_t> room(2 * part);
          for (size_t from = 0; from + part <= count; from += part) {
            points->find(*kernels, vectors.data() + from * static_cast<size_t>(dim), part, codes.data(), room.data());
            expect(std::memcmp(codes.data(), expected.data() + from, part) == 0, "the nearest point", isa, static_cast<long>(size));
          }
        }
      }
    }
  }
}

struct HiggsCase {
  size_t inp, first, blocks, block, group;
  size_t size;
  int dim;
};

void test_higgs() {
  const HiggsCase cases[] = {
      {512, 0, 40, 512, 256, 256, 2}, {1100, 5, 37, 512, 64, 64, 2}, {5, 0, 3, 8, 8, 16, 1},  {77, 3, 133, 8, 2, 16, 2},
      {40, 1, 19, 16, 16, 4, 1},      {700, 0, 4, 1024, 4, 256, 2},  {3000, 0, 1, 32768, 32768, 8, 1},
  };
  for (const HiggsCase& c : cases) {
    const MadeGrid made = made_grid(c.size, c.dim);
    for (const Float dtype : {Float::f32, Float::f16, Float::bf16}) {
      RotatedRun run{nullptr, Float::f32, c.inp, c.first, c.blocks, c.block, c.group, dtype};
      std::vector<float> weights = weights_of(run.start(run.blocks), 3);
      for (size_t i = 0; i < run.numbers_of(0); ++i) weights[i] = 0;
      const OddBytes bytes(weights.data(), weights.size() * 4);
      run.data = bytes.data;
      same_everywhere("higgs", [&](const Kernels& kernels, Pool& pool) {
        std::vector<uint8_t> codes(c.blocks * c.block / static_cast<size_t>(c.dim)), all;
        std::vector<float> scales(c.blocks * (c.block / c.group));
        double sums[3];
        higgs_code(kernels, pool, run, made.grid(), made.points.data(), codes.data(), scales.data(), sums);
        expect(scales[0] == 0 && codes[0] == 0, "a block of zeros");
        expect(sums[1] > 0 || c.blocks == 1, "squares of weights");
        expect(sums[0] <= sums[1] || c.size < 16, "codes that say something");
        append(all, codes.data(), codes.size());
        append(all, scales.data(), scales.size());
        append(all, sums, 3);
        return all;
      });
      weights[weights.size() / 2] = 3e38f;  // beyond all scales, as is what is infinite
      const OddBytes large(weights.data(), weights.size() * 4);
      run.data = large.data;
      std::vector<uint8_t> codes(c.blocks * c.block / static_cast<size_t>(c.dim));
      std::vector<float> scales(c.blocks * (c.block / c.group));
      double sums[3];
      Pool pool(2);
      higgs_code(*usable_kernels(Isa::scalar), pool, run, made.grid(), made.points.data(), codes.data(), scales.data(), sums);
      expect(std::count(scales.begin(), scales.end(), INFINITY) == static_cast<long>(c.block / c.group), "a scale that does not fit");
    }
  }
}

/// The field of feature n as FLUTE's kernel finds it.
uint32_t flute_field(const FlutePacking& p, const uint32_t* words, size_t fields, size_t n, size_t j) {
  const size_t c = n / p.tile, t = n % p.tile;
  const auto word = [&](size_t row) { return words[row * fields + j]; };
  if (p.bits != 3) return word(t) >> (2 * static_cast<size_t>(p.bits) * c) & ((1u << 2 * p.bits) - 1);
  const size_t upper = p.tile + 64 * (t / 32) + t % 32;
  const uint32_t three[] = {word(t), word(upper), word(upper + 32)};
  if (c < 15) return three[c % 3] >> (6 * (c / 3)) & 63;
  return three[0] >> 30 | three[1] >> 30 << 2 | three[2] >> 30 << 4;
}

void test_flute() {
  for (const int bits : {2, 3, 4}) {
    for (const size_t dim : {size_t{1}, size_t{2}}) {
      for (const size_t tile : {size_t{32}, size_t{64}}) {
        const FlutePacking packing{bits, dim, tile};
        const size_t columns = 14, rows = packing.rows(), fields = columns * dim / 2;
        std::vector<uint8_t> codes(rows * columns);
        for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>(i * 2654435761u >> 13 & ((1u << static_cast<size_t>(bits) * dim) - 1));
        for (int threads = 1; threads <= 3; ++threads) {
          Pool pool(threads);
          std::vector<uint32_t> words(packing.words(columns), 0xdeadbeef);
          flute_pack(pool, packing, codes.data(), columns, words.data());
          size_t wrong = 0;
          for (size_t n = 0; n < rows; ++n) {
            for (size_t j = 0; j < fields; ++j) {
              const uint8_t* code = codes.data() + n * columns + 2 * j / dim;
              const uint32_t field = dim == 2 ? code[0] : static_cast<uint32_t>(code[0] << bits | code[1]);
              wrong += flute_field(packing, words.data(), fields, n, j) != field;
            }
          }
          expect(wrong == 0, "a field of FLUTE", bits, static_cast<long>(tile));
        }
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

int test_quantizers() {
  test_hqq();
  test_bnb();
  test_nested();
  test_int8();
  test_nearest();
  test_higgs();
  test_flute();
  test_power();
  return failures;
}
