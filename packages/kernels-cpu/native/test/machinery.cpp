// What products and programs stand on: memory of weights, half precision, the pool under many short lists.
#include "machinery.h"

#include <atomic>
#include <cmath>
#include <cstring>
#include <new>
#include <stdexcept>
#include <thread>

#include "layout.h"
#include "memory.h"
#include "pool.h"
#include "select.h"
#include "testing.h"

using namespace lowbit;

namespace {

struct Counting {
  std::atomic<uint32_t> ran{0};
  const std::atomic<uint32_t>* before = nullptr;
  uint32_t expected = 0;
  std::atomic<bool> early{false};
};

}  // namespace

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
