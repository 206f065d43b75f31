// Routines of HIGGS: the nearest points by their definition; the same bytes on all instruction sets and with any number of threads; FLUTE's fields.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "quantizer_tests.h"
#include "routines-higgs.h"

namespace {

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

void test_code() {
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

}  // namespace

void test_higgs() {
  test_nearest();
  test_code();
  test_flute();
}
