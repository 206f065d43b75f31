// The least of a test library: a failure is counted and said.
#pragma once

#include <cstdio>

inline int failures = 0;

#define CHECK(condition)                                                                     \
  do {                                                                                       \
    if (!(condition)) {                                                                      \
      ++failures;                                                                            \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                   \
    }                                                                                        \
  } while (false)
