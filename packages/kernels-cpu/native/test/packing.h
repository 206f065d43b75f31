#pragma once

/// Number of failures.
int test_packing();
