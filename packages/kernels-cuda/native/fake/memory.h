// Device memory of the fake driver: memory of this process between pages that nobody may touch, so that a kernel that reads or writes one number too far
// stops there. It begins as NaN; what was freed stays untouchable for a while.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>

namespace fake {

class Memory {
 public:
  explicit Memory(size_t total) : total_(total) {}
  ~Memory();

  /// 0: there is no room.
  uintptr_t take(size_t bytes, bool counted);
  /// False: nothing begins there.
  bool give(uintptr_t at);
  /// Whether [at, at + bytes) lies within one allocation.
  bool holds(uintptr_t at, size_t bytes) const;
  size_t total() const { return total_; }
  size_t used() const { return used_; }
  size_t count() const { return taken_.size(); }

 private:
  struct Taken {
    size_t bytes;
    void* pages;
    size_t page_bytes;
    bool counted;
  };
  size_t total_, used_ = 0;
  std::map<uintptr_t, Taken> taken_;
  std::deque<Taken> freed_;
  size_t freed_bytes_ = 0;
};

/// Runs `body`; false where it touched memory that it must not (SIGSEGV, SIGBUS). What it held on its stack is lost then.
bool guarded(void (*body)(void*), void* data);

}  // namespace fake
