#pragma once

void test_packing();
