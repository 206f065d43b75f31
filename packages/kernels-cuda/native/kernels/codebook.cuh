// Products of one or two rows of x with codebooks, HIGGS above all: what a code stands for lies in shared memory, and each weight is rounded as its format says.
#pragma once

#include "wide.cuh"

namespace lowbit {

constexpr int kCodebookRows = 4;  // of the weight, to a warp

/// Part of a row of x: blocks [begin, end) of 32 inputs, `stride` numbers from one to the next; `x` is where block `begin` is, a multiple of 32.
struct Inputs {
  const float* x;
  int stride, begin, end;
};

__device__ __forceinline__ Inputs whole_row(const Weight& w, const float* x) { return {x, kBlock, 0, w.inp / kBlock}; }

/**
 * Adds to sums of a lane those of four rows from `first` on times inputs. kBits a code of kDim numbers; rows and groups are multiples of 32 inputs, which are
 * kBits / kDim whole words.
 */
template <int kBits, int kDim>
__device__ __forceinline__ void codebook_rows(const Weight& w, const float* table, int first, const Inputs& in, float (&sums)[kCodebookRows]) {
  constexpr int kWords = kBits / kDim;
  const int lane = threadIdx.x % 32;
  for (int block = in.begin + lane; block < in.end; block += 32) {
    uint32_t words[kCodebookRows][kWords + 1] = {};
    float scale[kCodebookRows];
    LOWBIT_UNROLL
    for (int r = 0; r < kCodebookRows; ++r) {
      const int row = min(first + r, w.out - 1);
      const uint32_t* from = reinterpret_cast<const uint32_t*>(w.codes) + static_cast<long long>(row) * w.row_words + block * kWords;
      if constexpr (kWords == 4) {
        const Word4 four = *reinterpret_cast<const Word4*>(from);
        words[r][0] = four.x, words[r][1] = four.y, words[r][2] = four.z, words[r][3] = four.w;
      } else if constexpr (kWords == 2) {
        const Word2 two = *reinterpret_cast<const Word2*>(from);
        words[r][0] = two.x, words[r][1] = two.y;
      } else {
        LOWBIT_UNROLL
        for (int i = 0; i < kWords; ++i) words[r][i] = from[i];
      }
      scale[r] = stored_float(w.scale, row * w.per_row + block * kBlock / w.group, w.meta);
    }
    LOWBIT_UNROLL
    for (int eighth = 0; eighth < kBlock / kWide; ++eighth) {
      float inputs[kWide];
      load_eight(in.x + (block - in.begin) * in.stride + eighth * kWide, inputs);
      LOWBIT_UNROLL
      for (int r = 0; r < kCodebookRows; ++r) {
        LOWBIT_UNROLL
        for (int i = 0; i < kWide; i += kDim) {
          const int bit = (eighth * kWide + i) / kDim * kBits, word = bit / 32, shift = bit % 32;
          const uint32_t code = __funnelshift_r(words[r][word], words[r][word + 1], shift) & ((1u << kBits) - 1);
          LOWBIT_UNROLL
          for (int j = 0; j < kDim; ++j) sums[r] = fmaf(rounded(table[code * kDim + j] * scale[r], w.round), inputs[i + j], sums[r]);
        }
      }
    }
  }
}

__device__ __forceinline__ void add_codebook(const Weight& w, const float* table, int first, const Inputs& in, float (&sums)[kCodebookRows]) {
  switch (w.bits * 4 + w.dim) {
    case 8 * 4 + 2:
      return codebook_rows<8, 2>(w, table, first, in, sums);
    case 6 * 4 + 2:
      return codebook_rows<6, 2>(w, table, first, in, sums);
    case 4 * 4 + 2:
      return codebook_rows<4, 2>(w, table, first, in, sums);
    case 4 * 4 + 1:
      return codebook_rows<4, 1>(w, table, first, in, sums);
    case 3 * 4 + 1:
      return codebook_rows<3, 1>(w, table, first, in, sums);
    case 2 * 4 + 1:
      return codebook_rows<2, 1>(w, table, first, in, sums);
    default:  // 8 bits, one number: what src/layout.ts calls few is one of these
      return codebook_rows<8, 1>(w, table, first, in, sums);
  }
}

/// Sums over a warp, the same in each lane.
__device__ __forceinline__ void codebook_dot(const Weight& w, const float* table, int first, const float* x, float (&sums)[kCodebookRows]) {
  add_codebook(w, table, first, whole_row(w, x), sums);
  LOWBIT_UNROLL
  for (int r = 0; r < kCodebookRows; ++r) sums[r] = warp_sum(sums[r]);
}

/// As `product`, of one or two rows. Grid: (ceil(out / 16), rows); block: 128.
extern "C" __global__ void __launch_bounds__(128) gemv_codebook(const Weight* weight, const float* x, float* out) {
  LOWBIT_SHARED(float, table, 512);
  const Weight w = *weight;
  load_table(w, table);
  const int first = (blockIdx.x * kWarps + threadIdx.x / 32) * kCodebookRows;
  if (first >= w.out) return;
  float sums[kCodebookRows] = {};
  codebook_dot(w, table, first, x + static_cast<long long>(blockIdx.y) * w.inp, sums);
  LOWBIT_UNROLL
  for (int r = 0; r < kCodebookRows; ++r) {
    if (threadIdx.x % 32 == 0 && first + r < w.out) out[static_cast<long long>(blockIdx.y) * w.out + first + r] = with_bias(w, first + r, sums[r]);
  }
}

/// As `gemv_experts`, of codebooks and x in their basis. Grid: (ceil(out / 16), rows); block: 128.
extern "C" __global__ void __launch_bounds__(128, 5) codebook_experts(const Address* weights, int experts, const int* ids, const float* x, float* out,
                                                                      int out_width, int top_k, int shared) {
  LOWBIT_SHARED(float, table, 512);
  const int first = (blockIdx.x * kWarps + threadIdx.x / 32) * kCodebookRows, row = blockIdx.y, id = ids[row];
  float* const to = out + static_cast<long long>(row) * out_width;
  const bool writes = threadIdx.x % 32 == 0;
  if (id < 0 || id >= experts) {
    for (int r = first; r < min(first + kCodebookRows, out_width); ++r) {
      if (writes) to[r] = nan_value();
    }
    return;
  }
  const Weight w = *reinterpret_cast<const Weight*>(weights[id]);
  load_table(w, table);
  if (first >= out_width) return;
  float sums[kCodebookRows] = {};
  codebook_dot(w, table, first, x + static_cast<long long>(shared ? row / top_k : row) * w.inp, sums);
  LOWBIT_UNROLL
  for (int r = 0; r < kCodebookRows; ++r) {
    if (writes && first + r < out_width) to[first + r] = with_bias(w, first + r, sums[r]);
  }
}

}  // namespace lowbit
