// Tiles in shared memory, for products of many rows: how they lie, how they are copied there, and how tensor cores take them. What is counted in the
// emulator (bank conflicts, sectors, bytes) is what goes through these functions.
#pragma once

#include "port.cuh"

namespace lowbit {

constexpr int kTileRow = 128;                        // bytes of a row of a tile
constexpr int kChunk = 16;                           // bytes that are copied, stored and loaded at once
constexpr int kTileSide = 128;                       // rows of a tile: of the weight, or of x
constexpr int kTileBytes = kTileSide * kTileRow;

/// Where chunk 0 .. 7 of a row is: the eight chunks at one place of eight rows in a row are in all 32 banks. Tiles begin at multiples of 128.
__device__ __forceinline__ int tile_offset(int row, int chunk) { return row * kTileRow + ((chunk ^ (row & 7)) * kChunk); }

#ifdef LOWBIT_EMULATOR
#define LOWBIT_COUNT_GLOBAL(at, bytes) emulator::count_global(at, bytes, __LINE__)
typedef uintptr_t Shared;
__device__ __forceinline__ Shared shared_at(void* at) { return reinterpret_cast<uintptr_t>(at); }
#else
#define LOWBIT_COUNT_GLOBAL(at, bytes) ((void)0)
/// An address of shared memory.
typedef uint32_t Shared;
__device__ __forceinline__ Shared shared_at(void* at) { return static_cast<uint32_t>(__cvta_generic_to_shared(at)); }
#endif

/// Begins to copy a chunk into shared memory; of nothing, zeros. It is there after `wait_copies` and, for other threads, a barrier.
__device__ __forceinline__ void copy_chunk(Shared to, const void* from, bool there = true) {
#ifdef LOWBIT_EMULATOR
  emulator::count_shared(reinterpret_cast<void*>(to), kChunk, __LINE__);
  emulator::count_global(there ? from : nullptr, kChunk, __LINE__);
  emulator::copy_async(reinterpret_cast<void*>(to), there ? from : nullptr, kChunk);
#else
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(there ? kChunk : 0) : "memory");
#endif
}
/// As `copy_chunk`, of a word.
__device__ __forceinline__ void copy_word(Shared to, const void* from, bool there) {
#ifdef LOWBIT_EMULATOR
  emulator::count_shared(reinterpret_cast<void*>(to), 4, __LINE__);
  emulator::count_global(there ? from : nullptr, 4, __LINE__);
  emulator::copy_async(reinterpret_cast<void*>(to), there ? from : nullptr, 4);
#else
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(there ? 4 : 0) : "memory");
#endif
}
/// What was begun since the one before is a group.
__device__ __forceinline__ void commit_copies() {
#ifdef LOWBIT_EMULATOR
  emulator::commit_copies();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
/// Waits for the thread's groups but the last `kLater`.
template <int kLater>
__device__ __forceinline__ void wait_copies() {
#ifdef LOWBIT_EMULATOR
  emulator::wait_copies(kLater);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(kLater) : "memory");
#endif
}

__device__ __forceinline__ void store_chunk(Shared to, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
#ifdef LOWBIT_EMULATOR
  emulator::count_shared(reinterpret_cast<void*>(to), kChunk, __LINE__);
  *reinterpret_cast<Word4*>(to) = {a, b, c, d};
#else
  asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(to), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
#endif
}

/**
 * Four matrices of 8 rows of a chunk: ldmatrix.x4. Lanes 8 i .. 8 i + 7 say where the rows of matrix i are; a lane gets, of each matrix, the word lane % 4 of
 * row lane / 4.
 */
__device__ __forceinline__ void load_matrices(uint32_t (&words)[4], Shared at) {
#ifdef LOWBIT_EMULATOR
  emulator::count_shared(reinterpret_cast<void*>(at), kChunk, __LINE__);
  const void* rows[32];
  emulator::gather_addresses(reinterpret_cast<void*>(at), rows, __LINE__);
  for (int i = 0; i < 4; ++i) words[i] = static_cast<const uint32_t*>(rows[8 * i + threadIdx.x % 32 / 4])[threadIdx.x % 4];
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(at)
               : "memory");
#endif
}

/// Where a lane's rows are, for `load_matrices` of rows row .. row + 15 of a tile at its first two chunks: as the first operand of a product has them.
__device__ __forceinline__ Shared left_of(Shared tile, int row) {
  const int lane = threadIdx.x % 32;
  return tile + tile_offset(row + lane % 16, lane / 16);
}
/// As `left_of`, as second operands of two products: words 0 and 1 are the first eight rows, 2 and 3 the others.
__device__ __forceinline__ Shared right_of(Shared tile, int row) {
  const int lane = threadIdx.x % 32;
  return tile + tile_offset(row + lane / 16 * 8 + lane % 8, lane / 8 % 2);
}
/// The same rows at chunks 2 step and 2 step + 1.
__device__ __forceinline__ Shared at_step(Shared first, int step) { return first ^ static_cast<Shared>(2 * kChunk * step); }

/**
 * d [16, 8] += a [16, 16] b [16, 8] over a warp: mma.sync.m16n8k16 of halves. A lane has, with group = lane / 4 and quarter = lane % 4, of a rows group and
 * group + 8 at inputs 2 quarter and 2 quarter + 1 (a[0], a[1]) and 8 more (a[2], a[3]); of b column group at the same inputs (b0, b1); of d rows group (d[0],
 * d[1]) and group + 8 (d[2], d[3]) at columns 2 quarter and 2 quarter + 1.
 *
 * Sums of whole numbers are exact as long as all sums on the way are below 2^24. For others the emulator is as coarse as `multiply_tf32` there.
 */
__device__ __forceinline__ void multiply_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#ifdef LOWBIT_EMULATOR
  emulator::multiply_f16(d, a, b0, b1, __LINE__);
#else
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

/// Four bytes less `less` as halves, two to a word; differences are exact up to 2^11.
__device__ __forceinline__ Word2 halves_of_bytes(uint32_t bytes, int less) {
  // 0x6400 is 1024, whose last digit is 1.
  const uint32_t low = __byte_perm(bytes, 0x64646464u, 0x4140), high = __byte_perm(bytes, 0x64646464u, 0x4342);
#ifdef LOWBIT_EMULATOR
  const auto minus = [&](uint32_t pair) {
    const float by = static_cast<float>(1024 + less);
    return static_cast<uint32_t>(to_f16(from_f16(static_cast<uint16_t>(pair)) - by)) |
           static_cast<uint32_t>(to_f16(from_f16(static_cast<uint16_t>(pair >> 16)) - by)) << 16;
  };
  return {minus(low), minus(high)};
#else
  const uint32_t by = (0x6400u + static_cast<uint32_t>(less)) * 0x10001u;
  Word2 made;
  asm("sub.f16x2 %0, %1, %2;" : "=r"(made.x) : "r"(low), "r"(by));
  asm("sub.f16x2 %0, %1, %2;" : "=r"(made.y) : "r"(high), "r"(by));
  return made;
#endif
}

__device__ __forceinline__ uint32_t pair_of(uint16_t first, uint16_t second) { return first | static_cast<uint32_t>(second) << 16; }

}  // namespace lowbit
