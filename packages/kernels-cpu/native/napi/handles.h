// What JavaScript holds by number: a number that is not (or no longer) there is an error, never a wild pointer. One table per JavaScript environment,
// whose end (a worker thread that is terminated, say) gives everything back.
#pragma once

#include <napi.h>

#include <memory>
#include <unordered_map>
#include <vector>

#include "layout.h"
#include "lowbit_cpu.h"
#include "memory.h"
#include "pool.h"
#include "program.h"

namespace lowbit {

/// Memory that ends with its owner.
class Block {
 public:
  Block() = default;
  explicit Block(size_t bytes) : Block(bytes, take_memory, give_memory) {}
  /// For a weight's codes, see memory.h.
  static Block of_weight(size_t bytes) { return {bytes, take_weight_memory, give_weight_memory}; }
  Block(Block&& other) noexcept : memory_(other.memory_), bytes_(other.bytes_), give_(other.give_) {
    other.memory_ = nullptr;
    other.bytes_ = 0;
  }
  Block& operator=(Block&& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(bytes_, other.bytes_);
    std::swap(give_, other.give_);
    return *this;
  }
  ~Block() { give_(memory_, bytes_); }

  uint8_t* data() const { return memory_; }
  float* floats() const { return reinterpret_cast<float*>(memory_); }
  size_t bytes() const { return bytes_; }

 private:
  Block(size_t bytes, uint8_t* (*take)(size_t), void (*give)(uint8_t*, size_t)) : memory_(take(bytes)), bytes_(bytes), give_(give) {
    if (memory_ == nullptr) throw std::bad_alloc();
  }

  uint8_t* memory_ = nullptr;
  size_t bytes_ = 0;
  void (*give_)(uint8_t*, size_t) = give_memory;
};

/// What V8 is told of memory that it does not see: it collects garbage sooner where there is much. On the thread of JavaScript alone.
class Reported {
 public:
  void set(napi_env env, size_t bytes) {
    const int64_t change = static_cast<int64_t>(bytes) - bytes_;
    int64_t after = 0;
    if (change == 0 || napi_adjust_external_memory(env, change, &after) != napi_ok) return;
    bytes_ += change;
    in_all += change;
  }

  /// By this thread of JavaScript. V8's own count has array buffers in it.
  inline static thread_local int64_t in_all = 0;

 private:
  int64_t bytes_ = 0;
};

/// A weight and the memory it points to.
struct HeldWeight {
  Weight weight;
  float threshold = 0;
  std::vector<Block> blocks;  // the first is `weight.data`, if it is not elsewhere; the last the bias, if there is one
  Block made;                 // of the table, for kernels
  std::shared_ptr<const void> home;  // of a weight that came from disk
  size_t home_bytes = 0;             // 0 of a mapped one: those pages are the system's
  Reported reported;

  size_t bytes() const {
    size_t sum = home_bytes + made.bytes();
    for (const Block& block : blocks) sum += block.bytes();
    return sum;
  }
};

/// Kernels, threads and scratch of one backend.
struct Machine {
  const Kernels* kernels;
  std::unique_ptr<Pool> pool;
  Block scratch;
  Reported reported;
};

template <class T>
class Handles {
 public:
  uint32_t add(std::shared_ptr<T> item) {
    items_.emplace(++last_, std::move(item));
    return last_;
  }
  /// Shared with what still runs when JavaScript lets go of the handle.
  const std::shared_ptr<T>& shared(const Napi::Value& handle) {
    const auto found = items_.find(handle.As<Napi::Number>().Uint32Value());
    if (found == items_.end()) throw Napi::Error::New(handle.Env(), "kernels-cpu: no such handle");
    return found->second;
  }
  T& at(const Napi::Value& handle) { return *shared(handle); }
  std::shared_ptr<T> remove(const Napi::Value& handle) {
    const auto found = items_.find(handle.As<Napi::Number>().Uint32Value());
    if (found == items_.end()) return nullptr;
    std::shared_ptr<T> item = std::move(found->second);
    items_.erase(found);
    return item;
  }

 private:
  std::unordered_map<uint32_t, std::shared_ptr<T>> items_;
  uint32_t last_ = 0;
};

/// A compiled program with all that it uses.
struct HeldProgram {
  Program program;
  std::vector<std::shared_ptr<HeldWeight>> linears;
  std::shared_ptr<Machine> machine;
  size_t constant_bytes = 0;
  Reported reported;

  /// Tells V8 what it takes now: not while a step runs.
  void report(napi_env env) { reported.set(env, program.scratch_bytes() + program.cache_bytes() + constant_bytes); }
};

struct State {
  Handles<HeldProgram> programs;
  Handles<Machine> machines;
  Handles<HeldWeight> weights;
};

}  // namespace lowbit
