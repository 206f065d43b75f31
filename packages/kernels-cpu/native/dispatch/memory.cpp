#include "memory.h"

#include <cstdlib>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <new>
#include <vector>

#if defined(__linux__) || defined(__APPLE__)
#include <sys/mman.h>
#include <unistd.h>
#define LOWBIT_MMAP 1
#endif

namespace lowbit {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

}  // namespace

uint8_t* take_memory(size_t bytes) {
#ifdef LOWBIT_MMAP
  if (bytes >= kHugePage) {
    // Fresh pages are zero and cost nothing until they are written.
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return nullptr;
#ifdef MADV_HUGEPAGE
    madvise(memory, bytes, MADV_HUGEPAGE);  // advice: where it is refused, small pages do
#endif
    return static_cast<uint8_t*>(memory);
  }
#endif
  const size_t rounded = bytes == 0 ? 64 : bytes;
  void* memory = ::operator new(rounded, std::align_val_t{64}, std::nothrow);
  if (memory != nullptr) std::memset(memory, 0, rounded);
  return static_cast<uint8_t*>(memory);
}

void give_pages(uint8_t* memory, size_t bytes) {
#if defined(LOWBIT_MMAP) && defined(MADV_DONTNEED)
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t from = (reinterpret_cast<uintptr_t>(memory) + page - 1) / page * page;
  const uintptr_t to = (reinterpret_cast<uintptr_t>(memory) + bytes) / page * page;
  if (to > from) madvise(reinterpret_cast<void*>(from), to - from, MADV_DONTNEED);
#else
  (void)memory;
  (void)bytes;
#endif
}

void give_memory(uint8_t* memory, size_t bytes) {
  if (memory == nullptr) return;
#ifdef LOWBIT_MMAP
  if (bytes >= kHugePage) {
    munmap(memory, bytes);
    return;
  }
#endif
  ::operator delete(memory, std::align_val_t{64});
}

#if defined(LOWBIT_MMAP) && !defined(__SANITIZE_ADDRESS__)
namespace {

constexpr size_t kSlab = 8 * kHugePage;
/// Below this a weight costs more by its place in a piece than it gains.
constexpr size_t kSmall = size_t{32} << 10;

/// A piece of memory that weights share: taken from front to back, given back as a whole.
struct Slab {
  uint8_t* mapping;
  uint8_t* base;  // aligned to a huge page
  size_t used;
  size_t live;
};

std::mutex slabs_in_use;
std::vector<Slab> slabs;

constexpr size_t aligned(size_t bytes) { return (bytes + 63) & ~size_t{63}; }

}  // namespace

uint8_t* take_weight_memory(size_t bytes) {
  if (bytes < kSmall || bytes >= kHugePage) return take_memory(bytes);
  const std::lock_guard lock(slabs_in_use);
  if (slabs.empty() || kSlab - slabs.back().used < aligned(bytes)) {
    uint8_t* mapping = take_memory(kSlab + kHugePage);
    if (mapping == nullptr) return nullptr;
    const uintptr_t at = reinterpret_cast<uintptr_t>(mapping);
    slabs.push_back({mapping, mapping + ((at + kHugePage - 1) / kHugePage * kHugePage - at), 0, 0});
  }
  Slab& slab = slabs.back();
  uint8_t* memory = slab.base + slab.used;
  slab.used += aligned(bytes);
  ++slab.live;
  return memory;
}

void give_weight_memory(uint8_t* memory, size_t bytes) {
  if (memory == nullptr || bytes < kSmall || bytes >= kHugePage) return give_memory(memory, bytes);
  const std::lock_guard lock(slabs_in_use);
  for (size_t i = 0; i < slabs.size(); ++i) {
    Slab& slab = slabs[i];
    if (memory < slab.base || memory >= slab.base + kSlab) continue;
    if (--slab.live > 0) return;
    give_memory(slab.mapping, kSlab + kHugePage);
    slabs.erase(slabs.begin() + static_cast<std::ptrdiff_t>(i));
    return;
  }
}
#else
// Sanitizers see the bounds of each weight by itself.
uint8_t* take_weight_memory(size_t bytes) { return take_memory(bytes); }
void give_weight_memory(uint8_t* memory, size_t bytes) { give_memory(memory, bytes); }
#endif

}  // namespace lowbit
