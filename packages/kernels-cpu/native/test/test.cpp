// All C++ tests. Run by run.mjs, for arm64 by run-arm64.mjs.
//
// --hashes prints what the products and routines of each case gave, for a comparison between machines; --isas the instruction sets that run here.
#include <cstdio>
#include <string>

#include "machinery.h"
#include "packing.h"
#include "products.h"
#include "programs.h"
#include "quantizer_tests.h"
#include "select.h"
#include "testing.h"

using namespace lowbit;

int main(int count, char** arguments) {
  for (int i = 1; i < count; ++i) {
    const std::string argument = arguments[i];
    if (argument == "--isas") {
      for (int isa = kIsaCount - 1; isa >= 0; --isa) {
        if (usable_kernels(static_cast<Isa>(isa)) != nullptr) std::printf("%s\n", isa_name(static_cast<Isa>(isa)));
      }
      return 0;
    }
    if (argument != "--hashes") {
      std::fprintf(stderr, "usage: lowbit_test [--isas | --hashes]\n");
      return 2;
    }
    print_hashes = true;
  }
  test_f16();
  test_pool();
  test_failures();
  test_long_stages();
  test_bounds();
  test_memory();
  test_tiles();
  test_codebooks();
  test_rotation();
  test_sharing();
  test_rows();
  test_int8_products();
  test_extremes();
  test_edges();
  test_largest_sums();
  test_program();
  test_quantizers();
  test_packing();
  if (failures > 0) return 1;
  if (!print_hashes) std::puts("native tests: ok");
  return 0;
}
