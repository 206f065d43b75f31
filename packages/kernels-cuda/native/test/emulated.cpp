// The emulator: what a GPU promises holds, and what it leaves undefined is found.
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "../emulator/emulator.h"
#include "../kernels/mma.cuh"
#include "check.h"

namespace {

/// Runs a kernel with one argument; the message of the fault, empty if there is none.
template <class T>
std::string run(void (*kernel)(void**), T* argument, unsigned blocks, unsigned threads, size_t shared = 0, uint64_t seed = 1) {
  void* arguments[] = {&argument};
  try {
    emulator::run({{blocks, 1, 1}, {threads, 1, 1}, shared, seed}, kernel, arguments);
    return "";
  } catch (const emulator::Fault& fault) {
    return fault.what();
  }
}

#define ARGUMENT(type) (*static_cast<type**>(arguments[0]))

bool mentions(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

void test_indices() {
  std::vector<int> out(3 * 70, -1);
  const auto kernel = [](void** arguments) { ARGUMENT(int)[blockIdx.x * blockDim.x + threadIdx.x] = static_cast<int>(1000 * blockIdx.x + threadIdx.x); };
  CHECK(run<int>(kernel, out.data(), 3, 70).empty());
  for (int i = 0; i < 210; ++i) CHECK(out[static_cast<size_t>(i)] == 1000 * (i / 70) + i % 70);
}

void test_shuffles() {
  std::vector<float> out(64);
  const auto sum = [](void** arguments) { ARGUMENT(float)[threadIdx.x] = lowbit::warp_sum(static_cast<float>(threadIdx.x)); };
  CHECK(run<float>(sum, out.data(), 1, 64).empty());
  for (unsigned i = 0; i < 64; ++i) CHECK(out[i] == (i < 32 ? 496.0f : 1520.0f));

  std::vector<int> bits(40);
  const auto others = [](void** arguments) {
    const int lane = static_cast<int>(threadIdx.x);
    int* to = ARGUMENT(int);
    // Several in a row: nobody must see a value of the next one.
    int sum = 0;
    for (int round = 0; round < 50; ++round) sum += __shfl_sync(0xffffffffu, lane + round, 3);
    to[lane] = sum + 100000 * __shfl_down_sync(0xffffffffu, lane, 2);
  };
  CHECK(run<int>(others, bits.data(), 1, 32).empty());
  for (int i = 0; i < 32; ++i) CHECK(bits[static_cast<size_t>(i)] == 50 * 3 + 49 * 25 + 100000 * (i < 30 ? i + 2 : i));

  std::vector<unsigned> votes(32);
  const auto vote = [](void** arguments) { ARGUMENT(unsigned)[threadIdx.x] = __ballot_sync(0xffffffffu, threadIdx.x % 3 == 0); };
  CHECK(run<unsigned>(vote, votes.data(), 1, 32).empty());
  for (const unsigned got : votes) CHECK(got == 0x49249249u);
}

void test_barriers() {
  std::vector<int> out(100);
  // Through shared memory, backwards, twice: wrong without each of the barriers.
  const auto kernel = [](void** arguments) {
    LOWBIT_SHARED(int, values, 100);
    LOWBIT_DYNAMIC_SHARED(int, more);
    const int i = static_cast<int>(threadIdx.x);
    values[i] = i;
    __syncthreads();
    more[i] = values[99 - i];
    __syncthreads();
    ARGUMENT(int)[i] = more[(i + 1) % 100];
  };
  for (uint64_t seed = 1; seed < 20; ++seed) {
    CHECK(run<int>(kernel, out.data(), 1, 100, 400, seed).empty());
    for (int i = 0; i < 100; ++i) CHECK(out[static_cast<size_t>(i)] == 99 - (i + 1) % 100);
  }
  // Threads that have ended are not waited for.
  const auto early = [](void** arguments) {
    if (threadIdx.x >= 50) return;
    __syncthreads();
    ARGUMENT(int)[threadIdx.x] = 7;
  };
  CHECK(run<int>(early, out.data(), 1, 100).empty() && out[49] == 7);
}

void test_tiles() {
  // Against plain sums of a [16, 32] b [32, 8], both of them bytes of every size.
  struct Tile {
    uint8_t a[16][32];
    int8_t b[32][8];
    int expected[16][8], got[16][8];
  } tile;
  for (const bool is_signed : {false, true}) {
    for (int row = 0; row < 16; ++row) {
      for (int k = 0; k < 32; ++k) tile.a[row][k] = static_cast<uint8_t>(row * 37 + k * 101 + 5);
    }
    for (int k = 0; k < 32; ++k) {
      for (int column = 0; column < 8; ++column) tile.b[k][column] = static_cast<int8_t>(k * 59 + column * 83 - 128);
    }
    for (int row = 0; row < 16; ++row) {
      for (int column = 0; column < 8; ++column) {
        tile.expected[row][column] = 7;
        for (int k = 0; k < 32; ++k) {
          const int left = is_signed ? static_cast<int8_t>(tile.a[row][k]) : tile.a[row][k];
          tile.expected[row][column] += left * tile.b[k][column];
        }
      }
    }
    const auto multiply = []<bool kSigned>(void** arguments) {
      Tile& t = *ARGUMENT(Tile);
      const int group = static_cast<int>(threadIdx.x) / 4, quarter = static_cast<int>(threadIdx.x) % 4;
      uint32_t a[4], b[2] = {};
      for (int i = 0; i < 4; ++i) std::memcpy(&a[i], &t.a[group + i % 2 * 8][4 * quarter + i / 2 * 16], 4);
      for (int i = 0; i < 8; ++i) b[i / 4] |= static_cast<uint32_t>(static_cast<uint8_t>(t.b[4 * quarter + i % 4 + i / 4 * 16][group])) << (8 * (i % 4));
      int d[4] = {7, 7, 7, 7};
      lowbit::multiply_tile<kSigned>(d, a, b);
      for (int i = 0; i < 4; ++i) t.got[group + i / 2 * 8][2 * quarter + i % 2] = d[i];
    };
    if (is_signed) CHECK(run<Tile>([](void** arguments) { decltype(multiply)().operator()<true>(arguments); }, &tile, 1, 32).empty());
    else CHECK(run<Tile>([](void** arguments) { decltype(multiply)().operator()<false>(arguments); }, &tile, 1, 32).empty());
    CHECK(std::memcmp(tile.expected, tile.got, sizeof tile.got) == 0);
  }
}

void test_faults() {
  std::vector<int> out(64);
  const auto half = [](void**) {
    if (threadIdx.x < 16) __syncwarp();
    else __syncthreads();
  };
  CHECK(!run<int>(half, out.data(), 1, 32).empty());
  const auto two = [](void** arguments) {
    if (threadIdx.x < 32) {
      __syncthreads();
    } else {
      ARGUMENT(int)[0] = 1;
      __syncthreads();
    }
  };
  CHECK(mentions(run<int>(two, out.data(), 1, 64), "meet at barriers"));
  const auto outside = [](void**) { __shfl_sync(0xfu, 1, 0); };
  CHECK(mentions(run<int>(outside, out.data(), 1, 32), "not in its own mask"));
  // Parts of a warp meet by themselves, one oftener than another; not if they have lanes in common.
  const auto parts = [](void** arguments) {
    const unsigned mask = 0xffu << (threadIdx.x / 8 * 8);
    int sum = static_cast<int>(threadIdx.x);
    for (unsigned i = 0; i <= threadIdx.x / 8; ++i) sum += __shfl_xor_sync(mask, sum, 4);
    ARGUMENT(int)[threadIdx.x] = sum;
  };
  CHECK(run<int>(parts, out.data(), 1, 32).empty());
  for (int i = 0; i < 32; ++i) CHECK(out[static_cast<size_t>(i)] == (i + (i ^ 4)) << (i / 8));
  const auto common = [](void**) { __shfl_sync(threadIdx.x < 8 ? 0xffffu : 0xffff00u, 1, 8); };
  CHECK(mentions(run<int>(common, out.data(), 1, 24), "lanes of a warp meet"));
  const auto ended = [](void**) {
    if (threadIdx.x > 0) lowbit::warp_sum(1);
  };
  CHECK(mentions(run<int>(ended, out.data(), 1, 32), "wait for each other"));
  const auto past = [](void**) {
    LOWBIT_DYNAMIC_SHARED(int, values);
    values[threadIdx.x] = 1;
  };
  CHECK(run<int>(past, out.data(), 1, 32, 128).empty());
  CHECK(mentions(run<int>(past, out.data(), 1, 33, 128), "past the shared memory"));
  const auto much = [](void**) { LOWBIT_SHARED(float, values, 20000); values[0] = 1; };
  CHECK(mentions(run<int>(much, out.data(), 1, 32), "more shared memory"));
  CHECK(!run<int>(past, out.data(), 0, 32, 128).empty());
  CHECK(!run<int>(past, out.data(), 1, 1025, 128).empty());
  // What a block finds in shared memory is not what the one before it left.
  std::vector<float> found(2);
  const auto unwritten = [](void** arguments) {
    LOWBIT_SHARED(float, value, 1);
    ARGUMENT(float)[blockIdx.x] = value[0];
    value[0] = 1;
  };
  CHECK(run<float>(unwritten, found.data(), 2, 1).empty() && std::isnan(found[0]) && std::isnan(found[1]));
}

void test_order() {
  // A race: the last one wins, and which that is changes with the seed.
  int first = -1;
  bool differs = false;
  const auto race = [](void** arguments) { *ARGUMENT(int) = static_cast<int>(threadIdx.x); };
  for (uint64_t seed = 1; seed < 10; ++seed) {
    int last = 0, again = 0;
    CHECK(run<int>(race, &last, 1, 64, 0, seed).empty());
    CHECK(run<int>(race, &again, 1, 64, 0, seed).empty() && last == again);
    if (first < 0) first = last;
    differs = differs || last != first;
  }
  CHECK(differs);
}

void test_missing_barriers() {
  // Warps hand a value on through shared memory in a loop, with shuffles between: wrong without either of the barriers.
  struct Out {
    int values[64];
  } out;
  const auto pass = []<int kLeft>(void** arguments) {
    LOWBIT_SHARED(float, shared, 64);
    const int i = static_cast<int>(threadIdx.x);
    int sum = 0;
    for (int round = 0; round < 4; ++round) {
      shared[i] = lowbit::warp_sum(static_cast<float>(round));
      if (kLeft != 1) __syncthreads();
      sum += static_cast<int>(shared[(i + 32) % 64] == 32.0f * static_cast<float>(round));
      if (kLeft != 2) __syncthreads();
    }
    ARGUMENT(Out)->values[i] = sum;
  };
  const auto right = [&](void (*kernel)(void**)) {
    bool all = true;
    for (uint64_t seed = 1; seed < 9; ++seed) {
      CHECK(run<Out>(kernel, &out, 1, 64, 0, seed).empty());
      for (const int value : out.values) all = all && value == 4;
    }
    return all;
  };
  CHECK(right([](void** arguments) { decltype(pass)().operator()<0>(arguments); }));
  CHECK(!right([](void** arguments) { decltype(pass)().operator()<1>(arguments); }));
  CHECK(!right([](void** arguments) { decltype(pass)().operator()<2>(arguments); }));
}

void test_functions() {
  CHECK(__dp4a(static_cast<int>(0x80ff0102u), 0x017f0304, 10) == 10 + (-128) * 1 + (-1) * 127 + 1 * 3 + 2 * 4);
  CHECK(__byte_perm(0x33221100u, 0x77665544u, 0x7410u) == 0x77441100u);
  CHECK(__byte_perm(0x0000ff00u, 0, 0x1001u) == 0xff0000ffu);
  CHECK(__byte_perm(0x000000f0u, 0, 0x0008u) == 0xf0f0f0ffu);
  CHECK(__funnelshift_r(0x80000001u, 0x3u, 31) == 7 && __funnelshift_r(5, 9, 0) == 5);
  // Halves: every one there and back; rounding to even; what is too large.
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = lowbit::from_f16(static_cast<uint16_t>(bits));
    if (value != value) CHECK(lowbit::to_f16(value) == 0x7fff);
    else CHECK(lowbit::to_f16(value) == bits);
  }
  CHECK(lowbit::to_f16(65519.0f) == 0x7bff && lowbit::to_f16(65520.0f) == 0x7c00);
  CHECK(lowbit::to_f16(2049.0f) == lowbit::to_f16(2048.0f) && lowbit::to_f16(2051.0f) == lowbit::to_f16(2052.0f));
  CHECK(lowbit::to_f16(2.9802322387695312e-8f) == 0 && lowbit::to_f16(2.99e-8f) == 1);
  CHECK(lowbit::to_bf16(1.00390625f) == 0x3f80 && lowbit::to_bf16(1.01171875f) == 0x3f82);
  CHECK(lowbit::from_bf16(lowbit::to_bf16(-3.5f)) == -3.5f);
}

}  // namespace

void test_emulator() {
  test_indices();
  test_shuffles();
  test_barriers();
  test_tiles();
  test_faults();
  test_order();
  test_missing_barriers();
  test_functions();
}
