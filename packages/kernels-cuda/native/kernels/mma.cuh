// Products of several rows of x on tensor cores, in integers: the planes of gemv.cuh as one operand, codes or bytes of a table as the other.
#pragma once

#include "gemv.cuh"

namespace lowbit {

/**
 * d [16, 8] += a [16, 32] b [32, 8] over a warp, bytes to 32-bit sums: mma.sync.m16n8k32. A lane has, with group = lane / 4 and quarter = lane % 4,
 * of a rows group and group + 8 at inputs 4 quarter .. + 3 (a[0], a[1]) and 16 more (a[2], a[3]); of b column group at the same inputs (b[0], b[1]); of d
 * rows group (d[0], d[1]) and group + 8 (d[2], d[3]) at columns 2 quarter and 2 quarter + 1.
 */
template <bool kSigned>
__device__ __forceinline__ void multiply_tile(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef LOWBIT_EMULATOR
  uint32_t all_a[4][32], all_b[2][32];
  emulator::gather(a, 4, all_a, __LINE__);
  emulator::gather(b, 2, all_b, __LINE__);
  const int group = threadIdx.x % 32 / 4, quarter = threadIdx.x % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = group + (i < 2 ? 0 : 8), column = 2 * quarter + i % 2;
    for (int k = 0; k < 32; ++k) {
      const int of = k % 16 / 4, shift = 8 * (k % 4);
      const uint32_t left = all_a[(row < 8 ? 0 : 1) + (k < 16 ? 0 : 2)][row % 8 * 4 + of] >> shift & 0xff, right = all_b[k < 16 ? 0 : 1][column * 4 + of] >> shift;
      d[i] += (kSigned ? static_cast<int8_t>(left) : static_cast<int>(left)) * static_cast<int8_t>(right);
    }
  }
#else
  if (kSigned) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
#endif
}

constexpr int kTileRows = 16;   // of the weight, to a block of threads
constexpr int kTiles = 4;       // of 8 rows of x
constexpr int kTileSums = kTiles * 32 * 4;

/// Where row i of what is multiplied is in x (`from`), and in out (`to`).
struct AllRows {
  __device__ __forceinline__ int from(int i) const { return i; }
  __device__ __forceinline__ int to(int i) const { return i; }
};

/// Adds the sums of four warps in their order; `partial` has room for those of all.
template <class Rows>
__device__ __forceinline__ void store_tiles(const Weight& w, float* partial, const float (&sums)[kTiles][4], int first, int base, int count, const Rows& map,
                                            float* out) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  LOWBIT_UNROLL
  for (int tile = 0; tile < kTiles; ++tile) {
    LOWBIT_UNROLL
    for (int i = 0; i < 4; ++i) partial[warp * kTileSums + (tile * 4 + i) * 32 + lane] = sums[tile][i];
  }
  __syncthreads();
  for (int at = threadIdx.x; at < kTileSums; at += blockDim.x) {
    const int of = at % 32, i = at / 32 % 4, row = first + of / 4 + (i < 2 ? 0 : 8), token = at / 128 * 8 + 2 * (of % 4) + i % 2;
    float sum = 0;
    for (int other = 0; other < kWarps; ++other) sum += partial[other * kTileSums + at];
    if (row < w.out && token < count) out[static_cast<long long>(map.to(base + token)) * w.out + row] = with_bias(w, row, sum);
  }
}

/**
 * As `product`, for codes whose groups are multiples of 32 inputs within rows; planes of x from `activation_planes`, natural. The inputs are shared
 * out among four warps, whose sums are added in their order. Rows of x are up to 32 of `rows`, from `base` on.
 */
template <bool kOfTable, class Rows>
__device__ __forceinline__ void multiply_tiles(const Weight& w, const uint32_t* planes, const BlockNumbers* numbers, float* out, int rows, int base,
                                               const Rows& map, float* partial) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, quarter = lane % 4, blocks = w.inp / kBlock;
  const int first = blockIdx.x * kTileRows, count = min(rows - base, kTiles * 8);
  QuickTable table = {};
  if (kOfTable) table = *reinterpret_cast<const QuickTable*>(w.quick);
  float sums[kTiles][4] = {};
  for (int block = warp; block < blocks; block += kWarps) {
    uint32_t high[4], low[4] = {};
    float scale[2], zero[2] = {};
    LOWBIT_UNROLL
    for (int half = 0; half < 2; ++half) {
      // Past the last row: the last again, for nothing.
      const int row = min(first + group + 8 * half, w.out - 1), g = row * w.per_row + block * kBlock / w.group;
      const uint32_t* words = reinterpret_cast<const uint32_t*>(w.codes) + static_cast<long long>(row) * w.row_words;
      scale[half] = stored_float(w.scale, g, w.meta);
      if (!kOfTable) zero[half] = w.zero != 0 ? stored_float(w.zero, g, w.meta) : w.fixed_zero;
      LOWBIT_UNROLL
      for (int later = 0; later < 2; ++later) {
        const int k = block * kBlock + 16 * later + 4 * quarter;
        if (kOfTable) {
          const uint32_t codes = words[k / 8] >> (k % 8 * 4), select = codes & 0x7777, upper = __byte_perm(0xff00, 0, codes >> 3 & 0x1111);
          high[2 * later + half] = looked_up(table.high, select, upper);
          low[2 * later + half] = looked_up(table.low, select, upper);
        } else {
          high[2 * later + half] = four_codes(words, k, w.bits);
        }
      }
    }
    LOWBIT_UNROLL
    for (int tile = 0; tile < kTiles; ++tile) {
      if (tile * 8 >= count) continue;
      const int token = map.from(base + min(tile * 8 + group, count - 1));
      const uint32_t* from = planes + (static_cast<long long>(token) * blocks + block) * 3 * kPlaneWords + quarter;
      int upper[3][4] = {}, lower[2][4] = {};
      LOWBIT_UNROLL
      for (int p = 0; p < 3; ++p) {
        const uint32_t bytes[2] = {from[p * kPlaneWords], from[p * kPlaneWords + 4]};
        multiply_tile<kOfTable>(upper[p], high, bytes);
        if (kOfTable && p < 2) multiply_tile<true>(lower[p], low, bytes);
      }
      LOWBIT_UNROLL
      for (int i = 0; i < 4; ++i) {
        const BlockNumbers x = numbers[static_cast<long long>(map.from(base + min(tile * 8 + 2 * quarter + i % 2, count - 1))) * blocks + block];
        const float sum = fmaf(static_cast<float>(upper[0][i]), 65536.0f, fmaf(static_cast<float>(upper[1][i]), 256.0f, static_cast<float>(upper[2][i])));
        if (kOfTable) {
          const float rest = fmaf(static_cast<float>(lower[0][i]), 65536.0f, static_cast<float>(lower[1][i]) * 256.0f);
          sums[tile][i] = fmaf(fmaf(sum, 256.0f, rest) * table.step, x.scale * scale[i / 2], sums[tile][i]);
        } else {
          sums[tile][i] = fmaf(fmaf(sum, x.scale, -zero[i / 2] * x.sum), scale[i / 2], sums[tile][i]);
        }
      }
    }
  }
  store_tiles(w, partial, sums, first, base, count, map, out);
}

/// Grid: (ceil(out / 16), ceil(rows / 32)); block: 128.
extern "C" __global__ void __launch_bounds__(128)
    mma_affine(const Weight* weight, const uint32_t* planes, const BlockNumbers* numbers, float* out, int rows) {
  LOWBIT_SHARED(float, partial, kWarps * kTileSums);
  multiply_tiles<false>(*weight, planes, numbers, out, rows, blockIdx.y * kTiles * 8, AllRows(), partial);
}

extern "C" __global__ void __launch_bounds__(128)
    mma_table4(const Weight* weight, const uint32_t* planes, const BlockNumbers* numbers, float* out, int rows) {
  LOWBIT_SHARED(float, partial, kWarps * kTileSums);
  multiply_tiles<true>(*weight, planes, numbers, out, rows, blockIdx.y * kTiles * 8, AllRows(), partial);
}

}  // namespace lowbit
