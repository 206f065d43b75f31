// Tests of what the tests of kernels stand on: the emulator, and the memory of the fake driver.
#include "check.h"

void test_emulator();
void test_gemm();
void test_memory();

int main() {
  test_emulator();
  test_memory();
  test_gemm();
  if (failures == 0) std::puts("ok");
  return failures == 0 ? 0 : 1;
}
