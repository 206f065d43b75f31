// Mixtures of experts for steps of many rows: the rows of each expert are brought together and multiplied by its weight on tensor cores, 32 at a time. Which
// rows lie beside a row does not change its bytes, and each row of out is written once: what an operation after it adds up has an order of its own.
#pragma once

#include "int8.cuh"
#include "wide-tiles.cuh"

namespace lowbit {

/// Rows of one group: where row i is in x and in out.
struct GroupRows {
  const int* order;
  const int* source;
  __device__ __forceinline__ int from(int i) const { return source[i]; }
  __device__ __forceinline__ int to(int i) const { return order[i]; }
};

__device__ __forceinline__ int group_of_id(int id, int experts) { return id < 0 || id >= experts ? experts : id; }

/**
 * Rows by expert, in their order: order [rows], the rows of x that they read (r / top_k with `shared`, else r) source [rows], and where the rows of each expert
 * begin, begins [experts + 2]. Rows of an id outside of the experts come last. Grid: experts + 1; block: 256.
 */
extern "C" __global__ void __launch_bounds__(256)
    group_rows(const int* ids, int rows, int experts, int top_k, int shared, int* order, int* source, int* begins) {
  LOWBIT_SHARED(int, counts, 8);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, mine = blockIdx.x;
  int before = 0;
  for (int r = threadIdx.x; r < rows; r += blockDim.x) before += group_of_id(ids[r], experts) < mine ? 1 : 0;
  for (int offset = 16; offset > 0; offset /= 2) before += __shfl_xor_sync(kAll, before, offset);
  if (lane == 0) counts[warp] = before;
  __syncthreads();
  int at = 0;
  for (int i = 0; i < 8; ++i) at += counts[i];
  if (threadIdx.x == 0) {
    begins[mine] = at;
    if (mine == experts) begins[experts + 1] = rows;
  }
  for (int base = 0; base < rows; base += blockDim.x) {
    const int r = base + threadIdx.x;
    const bool found = r < rows && group_of_id(ids[r], experts) == mine;
    const unsigned marks = __ballot_sync(kAll, found);
    __syncthreads();
    if (lane == 0) counts[warp] = __popc(marks);
    __syncthreads();
    int to = at + __popc(marks & ((1u << lane) - 1));
    for (int i = 0; i < 8; ++i) {
      if (i < warp) to += counts[i];
      at += counts[i];
    }
    if (!found) continue;
    order[to] = r;
    source[to] = shared != 0 ? r / top_k : r;
  }
}

/**
 * What each expert multiplies: `each` is called with its weight, for up to 32 of its rows at a time. A block has 16 rows of the weight.
 * Grid: (ceil(out / 16), experts + 1, any); block: 128.
 */
template <class Each>
__device__ __forceinline__ void of_expert(const Address* weights, int experts, const int* order, const int* source, const int* begins, float* out, int out_width,
                                          Each&& each) {
  const int id = blockIdx.y, begin = begins[id], count = begins[id + 1] - begin;
  const GroupRows map = {order + begin, source + begin};
  const int step = gridDim.z * kTiles * 8, from = blockIdx.z * kTiles * 8;
  if (from >= count) return;
  if (id == experts) {
    // No expert: NaN.
    for (int base = from; base < count; base += step) {
      for (int at = threadIdx.x; at < kTileRows * kTiles * 8; at += blockDim.x) {
        const int row = blockIdx.x * kTileRows + at % kTileRows, i = base + at / kTileRows;
        if (row < out_width && i < count) out[static_cast<long long>(map.to(i)) * out_width + row] = nan_value();
      }
    }
    return;
  }
  const Weight w = *reinterpret_cast<const Weight*>(weights[id]);
  for (int base = from; base < count; base += step) {
    each(w, map, base, count);
    __syncthreads();  // its shared memory is the next one's
  }
}

/// Of codes that `mma_affine` and `mma_table4` take; planes of x are natural.
extern "C" __global__ void __launch_bounds__(128)
    mma_experts(const Address* weights, int experts, const int* order, const int* source, const int* begins, const uint32_t* planes,
                const BlockNumbers* numbers, float* out, int out_width) {
  LOWBIT_SHARED(float, partial, kWarps * kTileSums);
  of_expert(weights, experts, order, source, begins, out, out_width, [&](const Weight& w, const GroupRows& map, int base, int count) {
    if (w.quick != 0) multiply_tiles<true>(w, planes, numbers, out, count, base, map, partial);
    else multiply_tiles<false>(w, planes, numbers, out, count, base, map, partial);
  });
}

/// Of what `mma_wide` takes; x in the basis of the weights.
extern "C" __global__ void __launch_bounds__(128)
    wide_experts(const Address* weights, int experts, const int* order, const int* source, const int* begins, const float* x, float* out, int out_width) {
  LOWBIT_SHARED(float, table, 512);
  LOWBIT_SHARED(float, partial, kWarps * kTileSums);
  of_expert(weights, experts, order, source, begins, out, out_width, [&](const Weight& w, const GroupRows& map, int base, int count) {
    load_table(w, table);
    multiply_wide(w, table, x, out, count, base, map, partial);
  });
}

/// Bits of outliers of each row of x: marks [rows, ceil(inp / 32)]. Grid: rows; block: 128.
extern "C" __global__ void int8_marks(const float* x, int inp, float threshold, uint32_t* marks) {
  const int words = (inp + 31) / 32;
  for (int word = threadIdx.x / 32; word < words; word += kWarps) {
    const int k = word * 32 + threadIdx.x % 32;
    const bool outlier = k < inp && fabsf(from_f16(to_f16(x[static_cast<long long>(blockIdx.x) * inp + min(k, inp - 1)]))) >= threshold;
    const unsigned found = __ballot_sync(kAll, outlier);
    if (threadIdx.x % 32 == 0) marks[static_cast<long long>(blockIdx.x) * words + word] = found;
  }
}

/// Of LLM.int8, each row with outliers of its own (`marks`; none: there are no outliers).
extern "C" __global__ void __launch_bounds__(128)
    int8_experts(const Address* weights, int experts, const int* order, const int* source, const int* begins, const int8_t* codes, const float* scale,
                 const float* x, const uint32_t* marks, float* out, int out_width) {
  LOWBIT_SHARED(int, partial, kWarps * kTileSums);
  of_expert(weights, experts, order, source, begins, out, out_width, [&](const Weight& w, const GroupRows& map, int base, int count) {
    multiply_int8(w, codes, scale, x, OutlierMarks{marks}, out, count, base, map, partial);
  });
}

}  // namespace lowbit
