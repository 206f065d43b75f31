// Products of a weight against plain loops: what tests of all its kinds share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "layout.h"
#include "pool.h"
#include "select.h"

/// Prints what the products of each case gave, for a comparison between machines.
inline bool print_hashes = false;

inline int levels(lowbit::Codes codes) { return 1 << lowbit::code_bits(codes); }

void run_product(const lowbit::Kernels& kernels, lowbit::Pool& pool, const lowbit::Weight& w, int planes, size_t rows, const float* x, float* out);

/// Checks products of a weight on every instruction set, with one thread and with several.
void each_machine(lowbit::Weight& w, const std::vector<uint8_t>& codes);

void test_tiles();
void test_rows();
void test_int8_products();
void test_extremes();
void test_codebooks();
void test_rotation();
void test_sharing();
void test_edges();
void test_largest_sums();
