// Memory of the fake driver: what lies outside of it is found, and it is counted.
#include "../fake/memory.h"

#include <cmath>
#include <cstring>

#include "check.h"

namespace {

volatile char sink;

bool readable(uintptr_t at) {
  return fake::guarded([](void* data) { sink = *reinterpret_cast<char*>(*static_cast<uintptr_t*>(data)); }, &at);
}
bool writable(uintptr_t at) {
  return fake::guarded([](void* data) { *reinterpret_cast<volatile char*>(*static_cast<uintptr_t*>(data)) = 1; }, &at);
}

}  // namespace

void test_memory() {
  fake::Memory memory(1 << 20);
  const uintptr_t at = memory.take(64, true);
  CHECK(at != 0 && at % 16 == 0 && memory.used() == 64);
  float first;
  std::memcpy(&first, reinterpret_cast<void*>(at), 4);
  CHECK(std::isnan(first));
  CHECK(writable(at) && writable(at + 63) && !readable(at + 64) && !writable(at + 64));
  CHECK(memory.holds(at, 64) && memory.holds(at + 60, 4) && !memory.holds(at + 60, 5) && !memory.holds(at - 1, 1) && !memory.holds(at + 65, 0));
  CHECK(memory.take(1 << 20, true) == 0);
  CHECK(memory.take(0, true) == 0);
  const uintptr_t host = memory.take(1 << 20, false);
  CHECK(host != 0 && memory.used() == 64 && memory.count() == 2);
  CHECK(!memory.give(at + 16));
  CHECK(memory.give(at) && !memory.give(at) && memory.used() == 0);
  CHECK(!readable(at));
  CHECK(memory.give(host));
  CHECK(!readable(8));
}
