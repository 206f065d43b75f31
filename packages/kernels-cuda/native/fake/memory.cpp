#include "memory.h"

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

namespace fake {
namespace {

/// As the driver aligns what it gives: a kernel may read 16 bytes at once. What is not a multiple leaves up to 15 bytes unguarded.
constexpr size_t kAlign = 16;
constexpr size_t kQuarantine = size_t{256} << 20;

size_t page() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

thread_local sigjmp_buf recover;
thread_local volatile sig_atomic_t inside = 0;
struct sigaction before_segv, before_bus;

void handle(int number) {
  if (inside) siglongjmp(recover, 1);
  // Somebody else's: as if there were no handler of ours.
  sigaction(number, number == SIGBUS ? &before_bus : &before_segv, nullptr);
}

}  // namespace

Memory::~Memory() {
  for (const auto& [at, taken] : taken_) munmap(taken.pages, taken.page_bytes);
  for (const Taken& taken : freed_) munmap(taken.pages, taken.page_bytes);
}

uintptr_t Memory::take(size_t bytes, bool counted) {
  if (bytes == 0 || (counted && bytes > total_ - used_)) return 0;
  const size_t rounded = (bytes + kAlign - 1) / kAlign * kAlign, inner = (rounded + page() - 1) / page() * page();
  const size_t page_bytes = inner + 2 * page();
  void* pages = mmap(nullptr, page_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (pages == MAP_FAILED) return 0;
  char* first = static_cast<char*>(pages) + page();
  if (mprotect(first, inner, PROT_READ | PROT_WRITE) != 0) {
    munmap(pages, page_bytes);
    return 0;
  }
  std::memset(first, 0xff, inner);
  const uintptr_t at = reinterpret_cast<uintptr_t>(first) + inner - rounded;
  taken_[at] = {bytes, pages, page_bytes, counted};
  if (counted) used_ += bytes;
  return at;
}

bool Memory::give(uintptr_t at) {
  const auto found = taken_.find(at);
  if (found == taken_.end()) return false;
  const Taken taken = found->second;
  taken_.erase(found);
  if (taken.counted) used_ -= taken.bytes;
  // Its pages go back to the system, its addresses stay forbidden.
  mmap(taken.pages, taken.page_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  freed_.push_back(taken);
  freed_bytes_ += taken.page_bytes;
  while (freed_bytes_ > kQuarantine || freed_.size() > 4096) {
    freed_bytes_ -= freed_.front().page_bytes;
    munmap(freed_.front().pages, freed_.front().page_bytes);
    freed_.pop_front();
  }
  return true;
}

bool Memory::holds(uintptr_t at, size_t bytes) const {
  auto after = taken_.upper_bound(at);
  if (after == taken_.begin()) return false;
  const auto& [start, taken] = *--after;
  return at - start <= taken.bytes && bytes <= taken.bytes - (at - start);
}

bool guarded(void (*body)(void*), void* data) {
  struct sigaction action = {};
  action.sa_handler = handle;
  action.sa_flags = SA_NODEFER;
  sigaction(SIGSEGV, &action, &before_segv);
  sigaction(SIGBUS, &action, &before_bus);
  volatile bool ok = true;
  if (sigsetjmp(recover, 1) == 0) {
    inside = 1;
    body(data);
  } else {
    ok = false;
  }
  inside = 0;
  sigaction(SIGSEGV, &before_segv, nullptr);
  sigaction(SIGBUS, &before_bus, nullptr);
  return ok;
}

}  // namespace fake
