// Products of every layout against plain loops, on every instruction set, with memory of exactly the size that is asked for: built with sanitizers, a
// read beyond it ends the test.
#include "products.h"

#include <cmath>
#include <cstring>

#include "extremes.h"
#include "memory.h"
#include "product.h"
#include "testing.h"

using namespace lowbit;

namespace {

/// FNV-1a.
template <class T>
uint64_t hash_of(const std::vector<T>& values, uint64_t hash = 0xcbf29ce484222325u) {
  for (size_t i = 0; i < values.size() * sizeof(T); ++i) hash = (hash ^ reinterpret_cast<const uint8_t*>(values.data())[i]) * 0x100000001b3u;
  return hash;
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

}  // namespace

void run_product(const Kernels& kernels, Pool& pool, const Weight& w, int planes, size_t rows, const float* x, float* out) {
  Product product(kernels, w, planes, rows, pool.threads());
  const size_t bytes = product.scratch_bytes();
  uint8_t* scratch = take_memory(bytes);
  std::vector<Stage> stages;
  product.stages(x, out, scratch, stages);
  pool.run(stages.data(), stages.size());
  give_memory(scratch, bytes);
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

void test_int8_products() {
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
