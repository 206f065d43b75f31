// Speed of products against the machine's own limits in the same run: bytes of weights read against a plain read of as many bytes, operations against
// a loop of nothing but vpdpbusd. Prints a JSON line per measurement: medians of interleaved rounds. Run by bench/kernels-cpu.mjs.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "layout.h"
#include "memory.h"
#include "pool.h"
#include "product.h"
#include "select.h"

using namespace lowbit;

namespace {

bool processor_time = false;

/// Seconds: of one thread, processor time where there is a clock for it, so that other processes on the machine count less.
double now() {
#ifdef CLOCK_PROCESS_CPUTIME_ID
  if (processor_time) {
    timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  }
#endif
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

volatile uint64_t sink;

struct Piece {
  const uint8_t* data;
  size_t bytes;
  size_t chunks;
};

#if defined(__x86_64__)
__attribute__((target("avx512f"))) uint64_t read_avx512(const uint8_t* p, size_t n) {
  __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
  for (size_t i = 0; i + 256 <= n; i += 256) {
    _mm_prefetch(reinterpret_cast<const char*>(p + i + 4096), _MM_HINT_T0);
    a = _mm512_xor_si512(a, _mm512_loadu_si512(p + i));
    b = _mm512_xor_si512(b, _mm512_loadu_si512(p + i + 64));
    c = _mm512_xor_si512(c, _mm512_loadu_si512(p + i + 128));
    d = _mm512_xor_si512(d, _mm512_loadu_si512(p + i + 192));
  }
  a = _mm512_xor_si512(_mm512_xor_si512(a, b), _mm512_xor_si512(c, d));
  return static_cast<uint64_t>(_mm512_reduce_or_epi64(a));
}

__attribute__((target("avx512f,avx512vnni"))) uint64_t vnni_loop(size_t rounds) {
  __m512i acc[12];
  for (auto& v : acc) v = _mm512_setzero_si512();
  const __m512i x = _mm512_set1_epi8(3), y = _mm512_set1_epi8(2);
  for (size_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < 12; ++j) acc[j] = _mm512_dpbusd_epi32(acc[j], x, y);
  }
  for (int j = 1; j < 12; ++j) acc[0] = _mm512_add_epi32(acc[0], acc[j]);
  return static_cast<uint64_t>(_mm512_reduce_add_epi32(acc[0]));
}
#endif

uint64_t read_bytes(const uint8_t* p, size_t n) {
#if defined(__x86_64__)
  if (usable_kernels(Isa::avx512) != nullptr) return read_avx512(p, n);
#endif
  uint64_t sum = 0;
  for (size_t i = 0; i + 8 <= n; i += 8) {
    uint64_t v;
    std::memcpy(&v, p + i, 8);
    sum ^= v;
  }
  return sum;
}

/// Seconds of one read of all bytes with the pool's threads.
double time_read(Pool& pool, const uint8_t* data, size_t bytes) {
  const Piece piece{data, bytes, static_cast<size_t>(pool.threads()) * 8};
  const Stage stage{[](const void* context, size_t chunk, int) {
                      const Piece& p = *static_cast<const Piece*>(context);
                      const size_t size = p.bytes / p.chunks;
                      sink = sink ^ read_bytes(p.data + chunk * size, size);
                    },
                    &piece, static_cast<uint32_t>(piece.chunks)};
  const double start = now();
  pool.run(&stage, 1);
  return now() - start;
}

constexpr size_t kLoop = 2000000;

/// Operations (two a multiply-add) a second of all threads.
double vnni_rate([[maybe_unused]] Pool& pool) {
#if defined(__x86_64__)
  if (usable_kernels(Isa::avx512) == nullptr) return 0;
  const Stage stage{[](const void*, size_t, int) { sink = sink ^ vnni_loop(kLoop / 8); }, nullptr,
                    static_cast<uint32_t>(pool.threads()) * 8};
  const double start = now();
  pool.run(&stage, 1);
  return static_cast<double>(pool.threads()) * static_cast<double>(kLoop) * 12 * 64 * 2 / (now() - start);
#else
  return 0;
#endif
}

struct Layer {
  Weight weight;
  uint8_t* data;
};

/// Tables of pairs.
struct Pairs {
  std::vector<float> table;
  std::vector<uint8_t> bytes;
};

Weight format(const std::string& name, size_t out, size_t inp, std::vector<float>& columns, const float* table, Pairs& pairs) {
  Weight w;
  w.out = out;
  w.inp = inp;
  w.kind = Kind::tiles;
  w.block = 64;
  w.meta = Float::f16;
  w.zeros = true;
  if (name == "hqq8") w.codes = Codes::c8;
  if (name == "hqq4") w.codes = Codes::c4;
  if (name == "hqq3") w.codes = Codes::c3;
  if (name == "hqq2") w.codes = Codes::c2;
  if (name == "hqq1") w.codes = Codes::c1;
  if (name == "hqq4-axis0") {
    w.codes = Codes::c4;
    w.meta = Float::none;
    w.zeros = false;
    w.classes = out / 64;
    columns.assign(w.classes * inp, 0.01f);
    w.scale = w.zero = columns.data();
  }
  if (name == "nf4") {
    w.codes = Codes::table4;
    w.meta = Float::f32;
    w.zeros = false;
    w.table = table;
    set_table(w, table);
  }
  if (name == "bf16") {
    w.kind = Kind::dense;
    w.dtype = Float::bf16;
    w.meta = Float::none;
    w.zeros = false;
  }
  if (name == "int8") {
    w.kind = Kind::int8;
    w.codes = Codes::c8;
    w.meta = Float::none;
    w.zeros = false;
    columns.assign(out, 0.01f);
    w.scale = columns.data();
  }
  if (name.rfind("higgs", 0) == 0) {  // groups of 256, Hadamard blocks of 512, or the largest that divide the row
    w.codes = name == "higgs4" ? Codes::pairs8 : name == "higgs3" ? Codes::pairs6 : Codes::pairs4;
    w.zeros = false;
    w.dim = 2;
    w.round = Float::f16;
    for (w.rotate = 512; inp % w.rotate != 0;) w.rotate /= 2;
    w.block = std::min<size_t>(128, w.rotate);
    const size_t entries = pair_entries(w.codes);
    pairs.table.resize(2 * entries);
    pairs.bytes.resize(pair_table_bytes(w.codes));
    for (size_t i = 0; i < 2 * entries; ++i) pairs.table[i] = from_f16(to_f16(static_cast<float>(i * 37 % 509) / 90 - 2.8f));
    w.table = pairs.table.data();
    set_pair_table(w, w.table, pairs.bytes.data());
  }
  if (plan_layout(w) != Status::ok) std::exit(2);
  return w;
}

}  // namespace

int main(int argc, char** argv) {
  const size_t out = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 4096;
  const size_t inp = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 4096;
  const size_t layers = argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 16;
  const int rounds = argc > 4 ? std::atoi(argv[4]) : 9;
  const int most_threads = argc > 5 ? std::atoi(argv[5]) : 2;
  const std::string only = argc > 6 ? argv[6] : "";
  const size_t only_rows = argc > 7 ? std::strtoull(argv[7], nullptr, 10) : 0;
  const int only_planes = argc > 8 ? std::atoi(argv[8]) : 0;
  const std::string isa = argc > 9 ? argv[9] : "";
  const Kernels* chosen = best_kernels();
  for (int i = 0; i < kIsaCount; ++i) {
    const Kernels* found = usable_kernels(static_cast<Isa>(i));
    if (found != nullptr && isa == isa_name(static_cast<Isa>(i))) chosen = found;
  }
  const Kernels& kernels = *chosen;
  float table[16];
  for (int i = 0; i < 16; ++i) table[i] = static_cast<float>(i - 7) / 8.1f;
  for (const char* name : {"hqq4", "nf4", "hqq4-axis0", "hqq8", "int8", "hqq3", "hqq2", "hqq1", "bf16", "higgs4", "higgs3", "higgs2"}) {
    if (!only.empty() && only != name) continue;
    std::vector<float> columns;
    Pairs pairs;
    Weight w = format(name, out, inp, columns, table, pairs);
    std::vector<uint8_t*> data;
    for (size_t l = 0; l < layers; ++l) {
      data.push_back(take_memory(w.data_bytes));
      uint32_t seed = static_cast<uint32_t>(l);
      for (size_t i = 0; i + 4 <= w.data_bytes; i += 4) {
        seed = seed * 1664525u + 1013904223u;
        std::memcpy(data.back() + i, &seed, 4);
      }
      if (w.meta == Float::none) continue;
      for (size_t row = 0; row < out; ++row) {
        for (size_t b = 0; b < w.blocks; ++b) {
          put_numbers(w, data.back(), row, b, 0.01f + static_cast<float>((row + b) % 7) * 0.001f, 7.5f);
        }
      }
    }
    for (int threads = 1; threads <= most_threads; ++threads) {
      Pool pool(threads);
      processor_time = threads == 1;
      for (const size_t rows : {size_t{1}, size_t{4}, size_t{128}, size_t{512}}) {
        if (only_rows != 0 && rows != only_rows) continue;
        std::vector<float> x(rows * inp, 0.5f), y(rows * out);
        for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 37 % 255) / 127.0f - 1;
        for (const int planes : {2, 3}) {
          if ((w.kind == Kind::int8 && planes > kMinPlanes) || (only_planes != 0 && planes != only_planes)) continue;
          const size_t used = rows >= 128 ? 1 : layers;
          const auto run = [&] {
            for (size_t l = 0; l < used; ++l) {
              w.data = data[l];
              Product product(kernels, w, planes, rows, threads);
              const size_t bytes = product.scratch_bytes();
              uint8_t* scratch = take_memory(bytes);
              std::vector<Stage> stages;
              product.stages(x.data(), y.data(), scratch, stages);
              pool.run(stages.data(), stages.size());
              give_memory(scratch, bytes);
            }
          };
          run();
          std::vector<double> seconds, ratios, limits;
          for (int round = 0; round < rounds; ++round) {
            double limit = 0;
            if (rows < 128) {
              double reading = 0;
              for (size_t l = 0; l < used; ++l) reading += time_read(pool, data[l], w.data_bytes);
              limit = static_cast<double>(used * w.data_bytes) / reading;
            } else {
              limit = vnni_rate(pool);
            }
            const double start = now();
            run();
            const double took = now() - start;
            const double work = rows < 128 ? static_cast<double>(used * w.data_bytes) : 2.0 * static_cast<double>(rows * out * inp * used);
            seconds.push_back(took);
            limits.push_back(limit);
            if (limit > 0) ratios.push_back(work / took / limit);
          }
          std::printf("{\"format\":\"%s\",\"rows\":%zu,\"planes\":%d,\"threads\":%d,\"ms\":%.3f,\"limit\":%.1f,\"unit\":\"%s\",\"ratio\":%.3f,"
                      "\"low\":%.3f,\"high\":%.3f}\n",
                      name, rows, planes, threads, median(seconds) * 1e3, median(limits) / 1e9, rows < 128 ? "GB/s" : "GOP/s",
                      ratios.empty() ? 0 : median(ratios), ratios.empty() ? 0 : *std::min_element(ratios.begin(), ratios.end()),
                      ratios.empty() ? 0 : *std::max_element(ratios.begin(), ratios.end()));
          std::fflush(stdout);
        }
      }
    }
    for (uint8_t* layer : data) give_memory(layer, w.data_bytes);
  }
}
