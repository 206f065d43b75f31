// The largest numbers of rows, so that they come back in place of the rows. What it computes: packages/core/src/program/largest.ts.
#pragma once

#include "port.cuh"

namespace lowbit {

/// A number of a row and its place; none: -infinity at -1.
struct Entry {
  float value;
  int id;
};

constexpr int kLargestThreads = 256;
constexpr int kMostParts = 1024;

__device__ __forceinline__ Entry no_entry() { return {bits_to_float(0xff800000u), -1}; }

/// Whether a comes before b in the result: a NaN before numbers, the larger number, of equals the lower place; none after all.
__device__ __forceinline__ bool comes_before(Entry a, Entry b) {
  if (a.id < 0 || b.id < 0) return a.id >= 0 && b.id < 0;
  const bool nan_a = a.value != a.value, nan_b = b.value != b.value;
  if (nan_a != nan_b) return nan_a;
  return a.value > b.value || ((nan_a || a.value == b.value) && a.id < b.id);
}

/// The first of all threads' entries, the same in each. `scratch` has room for one of each warp; a barrier must lie between two calls.
__device__ __forceinline__ Entry first_of_block(Entry mine, Entry* scratch) {
  for (int offset = 16; offset > 0; offset /= 2) {
    const Entry other = {__shfl_xor_sync(kAll, mine.value, offset), __shfl_xor_sync(kAll, mine.id, offset)};
    if (comes_before(other, mine)) mine = other;
  }
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = mine;
  __syncthreads();
  Entry first = scratch[0];
  for (int i = 1; i < kLargestThreads / 32; ++i) {
    if (comes_before(scratch[i], first)) first = scratch[i];
  }
  __syncthreads();
  return first;
}

/**
 * Of each `part` numbers of a row of x [rows, width] the first `count` of the result: entries [rows][parts][count]. Of NaNs the first of a part.
 * Grid: (ceil(width / part), rows); block: 256.
 */
extern "C" __global__ void __launch_bounds__(256) largest_of_parts(const float* x, int width, int part, int count, Entry* entries) {
  LOWBIT_SHARED(Entry, scratch, kLargestThreads / 32);
  const float* row = x + static_cast<long long>(blockIdx.y) * width;
  const int begin = blockIdx.x * part, end = min(width, begin + part);
  Entry* to = entries + (static_cast<long long>(blockIdx.y) * gridDim.x + blockIdx.x) * count;
  Entry last = no_entry();
  for (int n = 0; n < count; ++n) {
    Entry mine = no_entry();
    // After a first round that found nothing there is nothing.
    for (int i = begin + static_cast<int>(threadIdx.x); (n == 0 || last.id >= 0) && i < end; i += kLargestThreads) {
      const Entry one = {row[i], i};
      const bool left = n == 0 || (one.value == one.value && comes_before(last, one));
      if (left && comes_before(one, mine)) mine = one;
    }
    last = first_of_block(mine, scratch);
    if (threadIdx.x == 0) to[n] = last;
  }
}

/**
 * What `largest_of_parts` found, put together: values [rows, count], after all of them ids [rows, count]. Up to 1,024 parts.
 * Grid: rows; block: 256.
 */
extern "C" __global__ void __launch_bounds__(256) largest_of_rows(const Entry* entries, int parts, int part, int count, float* out) {
  LOWBIT_SHARED(Entry, scratch, kLargestThreads / 32);
  LOWBIT_SHARED(int, taken, kMostParts);
  const Entry* row = entries + static_cast<long long>(blockIdx.x) * parts * count;
  float* values = out + static_cast<long long>(blockIdx.x) * count;
  int* ids = reinterpret_cast<int*>(out + static_cast<long long>(gridDim.x) * count) + static_cast<long long>(blockIdx.x) * count;
  // Each thread has parts of its own, and looks at the first of each that is left.
  for (int p = threadIdx.x; p < parts; p += kLargestThreads) taken[p] = 0;
  for (int n = 0; n < count; ++n) {
    Entry mine = no_entry();
    for (int p = threadIdx.x; p < parts; p += kLargestThreads) {
      const Entry* list = row + static_cast<long long>(p) * count;
      // Of NaNs only the first of the row is there.
      if (n > 0 && taken[p] == 0 && list[0].value != list[0].value) taken[p] = 1;
      if (taken[p] < count && comes_before(list[taken[p]], mine)) mine = list[taken[p]];
    }
    const Entry first = first_of_block(mine, scratch);
    if (first.id >= 0 && first.id / part % kLargestThreads == static_cast<int>(threadIdx.x)) ++taken[first.id / part];
    if (threadIdx.x == 0) {
      values[n] = first.value != first.value ? nan_value() : first.value;
      ids[n] = first.id;
    }
  }
}

}  // namespace lowbit
