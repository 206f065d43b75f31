// See programs.cpp.
#pragma once

void test_program();
void test_long_stages();
void test_bounds();
