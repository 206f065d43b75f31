// Products at the edges of what they take.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "memory.h"
#include "product.h"
#include "products.h"
#include "rotation.h"
#include "testing.h"

using namespace lowbit;

namespace {

/// A weight of tiles, 37 rows of 3 blocks: of random codes, or of the largest one alone.
struct EdgeWeight {
  EdgeWeight(Codes codes, size_t block, bool largest) {
    w.kind = Kind::tiles;
    w.out = 37;
    w.codes = codes;
    w.dim = is_pairs(codes) ? 2 : 1;
    w.meta = Float::f32;
    w.zeros = !is_table(codes);
    w.block = block;
    w.inp = 3 * block;
    expect(plan_layout(w) == Status::ok, "plan_layout");
    data.resize(w.data_bytes);
    w.data = data.data();
    const size_t entries = static_cast<size_t>(levels(codes));
    table = random_floats(entries * w.dim, -1, 2);
    // The last entry is the largest.
    for (size_t i = 0; i < w.dim; ++i) table[table.size() - 1 - i] = 1.0f;
    w.table = table.data();
    bytes.resize(is_pairs(codes) ? pair_table_bytes(codes) : 0);
    if (is_pairs(codes)) set_pair_table(w, table.data(), bytes.data());
    if (codes == Codes::table4) set_table(w, table.data());
    std::vector<uint8_t> all = random_codes(w.out * code_columns(w), levels(codes));
    if (largest) std::fill(all.begin(), all.end(), static_cast<uint8_t>(entries - 1));
    expect(put_codes(w, data.data(), 0, w.out, all.data()) == Status::ok, "put_codes");
    for (size_t row = 0; row < w.out; ++row) {
      for (size_t b = 0; b < w.blocks; ++b) put_numbers(w, data.data(), row, b, 0.5f, largest || is_table(codes) ? 0 : 1.5f);
    }
  }
  Weight w;
  std::vector<float> table;
  std::vector<uint8_t> data, bytes;
};

constexpr Codes kEdgeCodes[] = {Codes::c8, Codes::c4, Codes::c3, Codes::c1, Codes::table4, Codes::pairs8, Codes::pairs6, Codes::pairs4};

template <class F>
void each_product(const Weight& w, size_t rows, const std::vector<float>& x, F&& check) {
  for (int planes = kMinPlanes; planes <= kMaxPlanes; ++planes) {
    for (int isa = 0; isa < kIsaCount; ++isa) {
      const Kernels* kernels = usable_kernels(static_cast<Isa>(isa));
      if (kernels == nullptr) continue;
      Pool pool(2);
      std::vector<float> out(rows * w.out);
      run_product(*kernels, pool, w, planes, rows, x.data(), out.data());
      check(*kernels, pool, planes, out);
    }
  }
}

}  // namespace

/// Rows that are nothing, tiny, huge, not finite, or have one number far above its neighbours: each is what it is by itself, whatever the rows beside it,
/// and the same on every instruction set; NaN and infinity make their own row NaN and no other.
void test_edges() {
  constexpr size_t kRowsOf = 20;
  for (const Codes codes : kEdgeCodes) {
    const EdgeWeight edge(codes, 64, false);
    const Weight& w = edge.w;
    std::vector<float> x = random_floats(kRowsOf * w.inp, -1, 2);
    const auto row = [&](size_t r) { return x.data() + r * w.inp; };
    row(1)[70] = NAN;
    row(2)[70] = INFINITY;
    row(3)[191] = -INFINITY;
    std::fill(row(4), row(5), 0.0f);
    std::fill(row(5), row(5) + 64, 0.0f);
    for (size_t k = 0; k < w.inp; ++k) row(6)[k] *= 0x1p-110f;
    for (size_t k = 0; k < w.inp; ++k) row(7)[k] *= 1e30f;
    row(8)[65] = 1000;
    row(18)[65] = -1000;
    std::vector<std::vector<float>> firsts(kMaxPlanes + 1);
    each_product(w, kRowsOf, x, [&](const Kernels& kernels, Pool& pool, int planes, const std::vector<float>& out) {
      const long isa = static_cast<long>(kernels.isa), c = static_cast<long>(codes);
      std::vector<float>& first = firsts[static_cast<size_t>(planes)];
      if (first.empty()) first = out;
      std::vector<float> alone(w.out);
      for (size_t r = 0; r < kRowsOf; ++r) {
        const float* got = out.data() + r * w.out;
        if (r >= 1 && r <= 3) {
          expect(std::all_of(got, got + w.out, [](float y) { return std::isnan(y); }), "a row that is not finite gives numbers: isa, codes, row", isa, c,
                 static_cast<long>(r));
          continue;
        }
        expect(std::equal(got, got + w.out, first.data() + r * w.out), "other bytes at the edges: isa, codes, row", isa, c, static_cast<long>(r));
        run_product(kernels, pool, w, planes, 1, row(r), alone.data());
        expect(std::equal(got, got + w.out, alone.begin()), "a row at the edges depends on others: isa, codes, row", isa, c, static_cast<long>(r));
        if (r == 4 || r == 6) expect(std::all_of(got, got + w.out, [](float y) { return y == 0; }), "nothing gives something: isa, codes", isa, c);
        if (r != 8 && r != 18) continue;
        // Beside a number that is a thousand times as large the others keep 5 bits (of a table 3) and more.
        std::vector<float> dense(w.inp);
        for (size_t i = 0; i < w.out; ++i) {
          fill_row(kernels, w, i, dense.data());
          double sum = 0, size = 0;
          for (size_t k = 0; k < w.inp; ++k) {
            sum += static_cast<double>(row(r)[k]) * dense[k];
            size += std::fabs(static_cast<double>(dense[k]));
          }
          const double table = is_table(codes) ? 1000 * 0.5 / kShortNumber : 0;
          expect(std::fabs(sum - got[i]) <= 1000.0 / largest_code(2, is_table(codes)) * size + table, "a large number spoils its block: isa, codes, row", isa, c,
                 static_cast<long>(r));
        }
      }
    });
  }
}

/// The largest codes of weights and activations in the longest block: sums end just below 2^31.
void test_largest_sums() {
  for (const Codes codes : kEdgeCodes) {
    const EdgeWeight edge(codes, 128, true);
    const Weight& w = edge.w;
    const double number = 0.5 * (is_table(codes) ? 1 : levels(codes) - 1);
    for (const size_t rows : {size_t{1}, size_t{9}}) {
      std::vector<float> x(rows * w.inp, 1.0f);
      for (size_t k = 0; k < w.inp; ++k) x[(rows - 1) * w.inp + k] = -1.0f;
      each_product(w, rows, x, [&](const Kernels& kernels, Pool&, int planes, const std::vector<float>& out) {
        for (size_t i = 0; i < out.size(); ++i) {
          const double sum = (i / w.out == rows - 1 ? -1 : 1) * number * static_cast<double>(w.inp);
          expect(std::fabs(out[i] - sum) <= 1e-5 * std::fabs(sum), "the largest sums: isa, codes, planes", static_cast<long>(kernels.isa),
                 static_cast<long>(codes), planes);
        }
      });
    }
  }
}
