// What products of many rows do to memory: what a GPU would be slowed down by is counted, and is none.
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "../emulator/emulator.h"
#include "../kernels/gemm-int8.cuh"
#include "check.h"

namespace {

template <class T>
T* aligned(std::vector<unsigned char>& memory, size_t count) {
  memory.assign(count * sizeof(T) + 128, 0);
  return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(memory.data()) + 127) / 128 * 128);
}

constexpr int kOut = 128, kInp = 128, kRows = 128;

struct Problem {
  std::vector<unsigned char> memory[7];
  lowbit::Weight weight = {};
  uint32_t* planes = aligned<uint32_t>(memory[0], kRows * kInp);
  lowbit::PairNumbers* numbers = aligned<lowbit::PairNumbers>(memory[1], kRows * kInp / 64);
  float* out = aligned<float>(memory[2], kRows * kOut);
  float* x = aligned<float>(memory[3], kRows * kInp);
  uint32_t* codes = aligned<uint32_t>(memory[4], kOut * kInp);
  float* scale = aligned<float>(memory[5], kOut * kInp / 64);
  float* table = aligned<float>(memory[6], 512);

  Problem(int kind, int bits, int dim, bool codebook, int round) {
    uint32_t state = 1;
    const auto next = [&] { return state = state * 1664525u + 1013904223u; };
    for (int i = 0; i < kRows * kInp; ++i) x[i] = static_cast<float>(static_cast<int>(next() >> 8) - (1 << 23)) / (1 << 23);
    for (int i = 0; i < kOut * kInp; ++i) codes[i] = kind == lowbit::kDense ? 0x3c003c00u | (next() & 0x03ff03ffu) : next();
    for (int i = 0; i < kOut * kInp / 64; ++i) scale[i] = 0.5f + static_cast<float>(next() >> 16) / 65536;
    for (int i = 0; i < 512; ++i) table[i] = static_cast<float>(i % 16 - 8) / 8;
    weight.kind = kind, weight.out = kOut, weight.inp = kInp, weight.bits = bits, weight.dim = dim, weight.axis = 1;
    weight.group = 64, weight.groups = kOut * kInp / 64, weight.per_row = kInp / 64, weight.row_words = kInp / dim * bits / 32;
    weight.codes = reinterpret_cast<uintptr_t>(codes), weight.scale = reinterpret_cast<uintptr_t>(scale);
    if (codebook) weight.table = reinterpret_cast<uintptr_t>(table);
    weight.meta = lowbit::kF32, weight.stored = lowbit::kF16, weight.round = round, weight.fixed_zero = 8;
  }
};

std::string run(const emulator::Launch& launch, void (*kernel)(void**), void** arguments) {
  try {
    emulator::run(launch, kernel, arguments);
    return "";
  } catch (const emulator::Fault& fault) {
    return fault.what();
  }
}

typedef void Gemm(const lowbit::Weight*, const uint32_t*, const lowbit::PairNumbers*, float*, int, int);

/// Counts of the tiles of a product, by a kernel, with so many planes of x.
template <Gemm* kernel>
emulator::Counts counted(Problem& p, int planes = 2) {
  const lowbit::Weight* weight = &p.weight;
  int inp = kInp, rows = kRows;
  void* of_planes[] = {&p.x, &inp, &planes, &p.planes, &p.numbers};
  CHECK(run({{(kInp / 64 + 3) / 4, kRows, 1}, {128, 1, 1}, 0, 1}, [](void** a) {
    lowbit::gemm_planes(*static_cast<float**>(a[0]), *static_cast<int*>(a[1]), *static_cast<int*>(a[2]), *static_cast<uint32_t**>(a[3]),
                        *static_cast<lowbit::PairNumbers**>(a[4]));
  }, of_planes).empty());
  void* arguments[] = {&weight, &p.planes, &p.numbers, &p.out, &rows, &planes};
  emulator::counts() = {};
  const std::string fault = run({{kOut / 128, kRows / 128, 1}, {256, 1, 1}, lowbit::kGemmShared, 1}, [](void** a) {
    kernel(*static_cast<lowbit::Weight**>(a[0]), *static_cast<uint32_t**>(a[1]), *static_cast<lowbit::PairNumbers**>(a[2]), *static_cast<float**>(a[3]), *static_cast<int*>(a[4]),
           *static_cast<int*>(a[5]));
  }, arguments);
  CHECK(fault.empty());
  if (!fault.empty()) std::fprintf(stderr, "%s\n", fault.c_str());
  // Against plain sums, of some results.
  for (int m = 3; m < kRows; m += 101) {
    for (int n = 1; n < kOut; n += 37) {
      double sum = 0, size = 0, coarse = 0;
      for (int k = 0; k < kInp; ++k) {
        // In one plane a number is off by half of a step of the largest of its 64, which is below 1.
        coarse += std::fabs(lowbit::weight_at(p.weight, n, k)) / 4094;
        const double term = static_cast<double>(p.x[m * kInp + k]) * static_cast<double>(lowbit::weight_at(p.weight, n, k));
        sum += term;
        size += std::fabs(term);
      }
      CHECK(std::fabs(p.out[m * kOut + n] - sum) < 1e-6 * size + (planes == 1 ? coarse : 0));
    }
  }
  return emulator::counts();
}

/// LLM.int8 without outliers, of the same sizes.
emulator::Counts counted_int8() {
  Problem p(lowbit::kInt8, 8, 1, false, 0);
  const lowbit::Weight* weight = &p.weight;
  p.weight.row_words = kInp / 4;
  // `planes` are codes here, and `numbers` a scale for each row.
  for (int i = 0; i < kRows * kInp / 4; ++i) p.planes[i] = p.codes[i] * 0x9e3779b9u;
  float* scale = reinterpret_cast<float*>(p.numbers);
  for (int i = 0; i < kRows; ++i) scale[i] = 0.25f + static_cast<float>(i) / kRows;
  const int* columns = nullptr;
  int rows = kRows;
  void* arguments[] = {&weight, &p.planes, &scale, &p.x, &columns, &p.out, &rows};
  emulator::counts() = {};
  const std::string fault = run({{kOut / 128, kRows / 128, 1}, {256, 1, 1}, lowbit::kGemmShared, 1}, [](void** a) {
    lowbit::gemm_int8(*static_cast<lowbit::Weight**>(a[0]), *static_cast<int8_t**>(a[1]), *static_cast<float**>(a[2]), *static_cast<float**>(a[3]),
                      *static_cast<int**>(a[4]), *static_cast<float**>(a[5]), *static_cast<int*>(a[6]));
  }, arguments);
  CHECK(fault.empty());
  const int8_t *x = reinterpret_cast<const int8_t*>(p.planes), *w = reinterpret_cast<const int8_t*>(p.codes);
  for (int m = 3; m < kRows; m += 101) {
    for (int n = 1; n < kOut; n += 37) {
      int sum = 0;
      for (int k = 0; k < kInp; ++k) sum += x[m * kInp + k] * w[n * kInp + k];
      CHECK(p.out[m * kOut + n] == static_cast<float>(sum) * scale[m] * p.scale[n] * (1.0f / 16129.0f));
    }
  }
  return emulator::counts();
}

constexpr uint64_t kTiles = uint64_t{kOut / 128} * (kRows / 128) * (kInp / 64);

/// Of one tile: products of tensor cores, bytes of the weight and of x from global memory, and rounds of shared memory.
void expect(const char* name, const emulator::Counts& counts, uint64_t products, uint64_t weight_bytes, uint64_t rounds, uint64_t planes = 2) {
  const uint64_t x_bytes = 128 * 128 * planes, numbers = 4 * 2 * 4 * 8 * 8;  // eight rows of x for each of four loads of eight warps
  const int before = failures;
  CHECK(counts.products == kTiles * products);
  CHECK(counts.bytes == kTiles * (weight_bytes + x_bytes + numbers));
  CHECK(counts.shared_rounds == counts.shared_least);  // no conflicts of banks
  CHECK(counts.shared_rounds == kTiles * rounds);
  if (failures == before) return;
  std::fprintf(stderr, "%s: a tile of 128 x 128 x 64 takes %llu products, %llu bytes, %llu rounds of shared memory (%llu at least)\n", name,
               static_cast<unsigned long long>(counts.products / kTiles), static_cast<unsigned long long>(counts.bytes / kTiles),
               static_cast<unsigned long long>(counts.shared_rounds / kTiles), static_cast<unsigned long long>(counts.shared_least / kTiles));
}

}  // namespace

void test_gemm() {
  // Two planes of 16 products of 16 x 8 x 16 for a warp at each of four steps. Shared memory, 128 bytes a round: x and one plane of the weight come once; at
  // each step, for each half of its columns, a warp takes six times four matrices, four of x and two of the weight.
  const uint64_t products = 2 * 8 * 4 * 16, x_rounds = 128 * 256 / 128, plane_rounds = 128 * 128 / 128, loads = 8 * 4 * 2 * 4;
  Problem four(lowbit::kGrouped, 4, 1, false, 0), eight(lowbit::kGrouped, 8, 1, false, 0), two(lowbit::kGrouped, 2, 1, false, 0);
  expect("4 bits", counted<lowbit::gemm_affine>(four), products, 128 * 32, x_rounds + plane_rounds + 6 * loads);
  expect("8 bits", counted<lowbit::gemm_affine>(eight), products, 128 * 64, x_rounds + plane_rounds + 6 * loads);
  expect("2 bits", counted<lowbit::gemm_affine>(two), products, 128 * 16, x_rounds + plane_rounds + 6 * loads);
  Problem pairs(lowbit::kGrouped, 8, 2, true, lowbit::kF16), dense(lowbit::kDense, 8, 1, false, 0);
  expect("pairs of 4 bits", counted<lowbit::gemm_half>(pairs), products, 128 * 32, x_rounds + plane_rounds + 6 * loads);
  expect("dense f16", counted<lowbit::gemm_half>(dense), products, 128 * 128, x_rounds + plane_rounds + 6 * loads);
  // Two planes of the weight: three products, and two loads more. Weights of f32 are read by functions that count nothing.
  Problem nf4(lowbit::kGrouped, 4, 1, true, 0), wide(lowbit::kDense, 8, 1, false, 0);
  lowbit::QuickTable quick = {};
  quick.step = 1.0f / 16384;
  for (int i = 0; i < 16; ++i) {
    // 256 high + low, in bytes with signs.
    const int number = static_cast<int>(nf4.table[i] * 16384), low = static_cast<int8_t>(number & 0xff), high = (number - low) / 256;
    quick.high[i / 4] |= static_cast<uint32_t>(high & 0xff) << 8 * (i % 4);
    quick.low[i / 4] |= static_cast<uint32_t>(low & 0xff) << 8 * (i % 4);
  }
  nf4.weight.quick = reinterpret_cast<uintptr_t>(&quick);
  expect("NF4", counted<lowbit::gemm_table>(nf4), products / 2 * 3, 128 * 32, x_rounds + 2 * plane_rounds + 8 * loads);
  wide.weight.stored = lowbit::kF32;
  expect("dense f32", counted<lowbit::gemm_float>(wide), products / 2 * 3, 0, x_rounds + 2 * plane_rounds + 8 * loads);
  // One plane of x: half of the products (of two planes of the weight: two of three), of its bytes, and of their rounds; two loads less.
  expect("4 bits, one plane", counted<lowbit::gemm_affine>(four, 1), products / 2, 128 * 32, x_rounds / 2 + plane_rounds + 4 * loads, 1);
  expect("8 bits, one plane", counted<lowbit::gemm_affine>(eight, 1), products / 2, 128 * 64, x_rounds / 2 + plane_rounds + 4 * loads, 1);
  expect("pairs of 4 bits, one plane", counted<lowbit::gemm_half>(pairs, 1), products / 2, 128 * 32, x_rounds / 2 + plane_rounds + 4 * loads, 1);
  expect("dense f16, one plane", counted<lowbit::gemm_half>(dense, 1), products / 2, 128 * 128, x_rounds / 2 + plane_rounds + 4 * loads, 1);
  expect("NF4, one plane", counted<lowbit::gemm_table>(nf4, 1), products, 128 * 32, x_rounds / 2 + 2 * plane_rounds + 6 * loads, 1);
  expect("dense f32, one plane", counted<lowbit::gemm_float>(wide, 1), products, 0, x_rounds / 2 + 2 * plane_rounds + 6 * loads, 1);
  const emulator::Counts int8 = counted_int8();
  CHECK(int8.shared_rounds == int8.shared_least);
  // One tile of 128 inputs: codes of both, and six times four matrices for each of four steps of a warp.
  CHECK(int8.shared_least == 2 * plane_rounds + 8 * 4 * 6 * 4);
}
