// Fibers: stacks of their own that a thread of the processor moves between.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

namespace emulator {

/// Runs bodies on stacks of their own. Stacks are kept for the next time.
class Fibers {
 public:
  Fibers();
  ~Fibers();
  Fibers(const Fibers&) = delete;
  Fibers& operator=(const Fibers&) = delete;

  /// Makes fiber `index` ready to run body(index) from its beginning. What was on its stack is forgotten.
  void start(size_t index, void (*body)(size_t));
  /// Runs fiber `index` until it yields or its body has ended.
  void resume(size_t index);
  /// Within a fiber: back to whoever resumed it.
  void yield();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace emulator
