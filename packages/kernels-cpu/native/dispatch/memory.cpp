#include "memory.h"

#include <cstdlib>
#include <cstring>
#include <new>

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

}  // namespace lowbit
