// See machinery.cpp.
#pragma once

void test_memory();
void test_f16();
void test_pool();
void test_failures();
