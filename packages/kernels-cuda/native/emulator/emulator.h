// CUDA C++ as plain C++, for kernels on a machine without a GPU. Include it before a kernel in place of what nvcc has built in.
//
// The threads of a block are fibers of one thread of the processor. One runs until it waits (a barrier, a shuffle) or ends; which one is next follows
// from a seed, so races show as results that change with it. Shared memory begins as NaN. What a GPU leaves undefined (a barrier that part of a warp
// reaches, a shuffle with a lane that is not in its mask) ends the launch with a message here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#define LOWBIT_EMULATOR 1

#define __global__ inline  // several files may have it
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

namespace emulator {

/// What went wrong in a kernel.
struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

constexpr unsigned kWarp = 32;

struct Block;

/// A copy into shared memory that was begun: of nothing, zeros.
struct Copy {
  void* to;
  const void* from;
  unsigned bytes, group;
};

/// A thread of the block that is running.
struct Thread {
  dim3 index;
  unsigned flat = 0;
  unsigned lane = 0;
  unsigned warp = 0;
  size_t shared_used = 0;  // by its static arrays so far
  Block* block = nullptr;
  std::vector<Copy> copies = {};  // begun and not waited for
  unsigned groups = 0;            // committed
};

extern thread_local Thread* self;
extern thread_local dim3 block_index, block_dim, grid_dim;

/// Waits until all threads of the block that have not ended are at the same barrier (`line`).
void barrier(int line);
/// Waits until all lanes of `mask` have put a value; that of `source`.
uint32_t exchange(uint32_t mask, uint32_t value, unsigned source, int line);
/// As exchange: bit i is whether lane i put something other than 0.
uint32_t vote(uint32_t mask, bool value, int line);
constexpr unsigned kMostGathered = 6;
/// What every lane of a whole warp puts: `count` values, all[i] those at i of all lanes.
void gather(const uint32_t* values, unsigned count, uint32_t (*all)[kWarp], int line);
/// Memory of the block: the same for the n-th call of each thread.
void* shared_array(size_t bytes);
/// What the launch asked for.
void* dynamic_shared();

/// What every lane of a whole warp puts.
void gather_addresses(const void* at, const void* (&all)[kWarp], int line);

/// Begins a copy: what is there is lost at once, and what comes is there when it was waited for, as late as may be.
void copy_async(void* to, const void* from, unsigned bytes);
void commit_copies();
/// Ends all groups but the last `later`.
void wait_copies(unsigned later);

/// mma.sync.m16n8k16 of halves, see kernels/tiles.cuh.
void multiply_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, int line);

/// What instructions that are counted did. Shared memory: in rounds, of 128 bytes from banks that differ; `least` is what as many bytes need.
struct Counts {
  uint64_t shared_rounds = 0, shared_least = 0;
  uint64_t sectors = 0, bytes = 0;  // of 32 bytes each, from global memory; bytes that were asked for, each once
  uint64_t products = 0;            // of tensor cores, by warps
};
/// Since it was last set; nothing is counted before it is asked for.
Counts& counts();
/// A whole warp at shared memory, `bytes` a lane; at global memory (nullptr: this lane is not).
void count_shared(const void* at, unsigned bytes, int line);
void count_global(const void* at, unsigned bytes, int line);

/// What a launch takes.
struct Launch {
  dim3 grid, block;
  size_t shared_bytes = 0;
  uint64_t seed = 0;
};

/// Most threads of a block and bytes of its shared memory, as of every GPU from sm_80 on without asking for more; and with.
constexpr unsigned kMostThreads = 1024;
constexpr size_t kMostShared = 48 << 10;
constexpr size_t kMostAsked = 99 << 10;

/// Runs a kernel. Throws Fault.
void run(const Launch& launch, void (*kernel)(void** arguments), void** arguments);

}  // namespace emulator

#define threadIdx (emulator::self->index)
#define blockIdx (emulator::block_index)
#define blockDim (emulator::block_dim)
#define gridDim (emulator::grid_dim)
#define warpSize 32

#define __syncthreads() emulator::barrier(__LINE__)
#define __syncwarp() ((void)emulator::vote(0xffffffffu, true, __LINE__))
#define __ballot_sync(mask, value) emulator::vote(mask, (value) != 0, __LINE__)
#define __shfl_sync(mask, value, lane) emulator::shuffle(mask, value, static_cast<unsigned>(lane) % 32, __LINE__)
#define __shfl_xor_sync(mask, value, bits) emulator::shuffle(mask, value, (emulator::self->lane ^ static_cast<unsigned>(bits)) % 32, __LINE__)
#define __shfl_down_sync(mask, value, by) \
  emulator::shuffle(mask, value, emulator::self->lane + (by) < 32 ? emulator::self->lane + (by) : emulator::self->lane, __LINE__)

namespace emulator {
template <class T>
T shuffle(uint32_t mask, T value, unsigned source, int line) {
  static_assert(sizeof(T) == 4, "shuffles of 32 bits");
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  bits = exchange(mask, bits, source, line);
  std::memcpy(&value, &bits, 4);
  return value;
}
}  // namespace emulator

// Fibers of one thread: nothing runs between read and write.
template <class T>
T atomicXor(T* at, T value) {
  const T before = *at;
  *at = before ^ value;
  return before;
}
/// One more, or 0 where it has come to the limit.
inline unsigned atomicInc(unsigned* at, unsigned limit) {
  const unsigned before = *at;
  *at = before >= limit ? 0 : before + 1;
  return before;
}
/// What one thread writes the next sees at once.
inline void __threadfence() {}
inline float __ldcg(const float* at) { return *at; }
template <class T>
T atomicMax(T* at, T value) {
  const T before = *at;
  if (before < value) *at = value;
  return before;
}
template <class T>
T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
T max(T a, T b) {
  return a < b ? b : a;
}

/// c plus the products of the four signed bytes of a and b.
inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 4; ++i) c += static_cast<int8_t>(a >> (8 * i)) * static_cast<int8_t>(b >> (8 * i));
  return c;
}
/// Four bytes out of the eight of y and x, x the lower; each chosen by four bits, the highest of which repeats the byte's sign.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned select) {
  const uint64_t both = (static_cast<uint64_t>(y) << 32) | x;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned nibble = select >> (4 * i);
    unsigned byte = static_cast<unsigned>(both >> (8 * (nibble & 7))) & 0xff;
    if (nibble & 8) byte = byte & 0x80 ? 0xff : 0;
    result |= byte << (8 * i);
  }
  return result;
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
/// The upper word of high:low shifted left, here its lower word shifted right by shift & 31.
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>(((static_cast<uint64_t>(high) << 32) | low) >> (shift & 31));
}
