// What the fake driver pretends to be, from the variable LOWBIT_FAKE_CUDA: `name=value` separated by commas. Read at cuInit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace fake {

/// The call-th call of a function gives a result.
struct Failure {
  std::string function;
  int result = 0;
  uint64_t call = 1;
};

struct Settings {
  int devices = 1;
  int version = 13000;
  int capability = 90;
  size_t memory = size_t{8} << 30;
  uint64_t seed = 1;
  std::vector<Failure> failures;  // fail=function/result/call
  std::string wild;               // a kernel that is given an address that is not there
  std::string log;                // a file that gets a line for each launch
  std::string copies;             // and one for each copy between host and device that is enqueued
  bool deaf = false;              // streams do not wait for events: what a wait that was forgotten does
  uint64_t eager = 0;             // bit i: the i-th stream runs as soon as it can, not when somebody waits
};

/// Of the environment as it is now. What cannot be read is as if it were not there.
Settings read_settings();

}  // namespace fake
