// A weight in device memory, and its numbers one by one. Written by src/layout.ts.
#pragma once

#include "port.cuh"

namespace lowbit {

enum WeightKind : int { kDense = 0, kGrouped = 1, kInt8 = 2 };
enum Stored : int { kF32 = 0, kF16 = 1, kBf16 = 2 };

/**
 * Header of a weight. Codes lie in rows, `bits` each, the first in the lowest bits of the first word; a row begins with a word. Dense numbers lie one
 * after another, int8 codes a byte each in rows that begin with a word.
 *
 *   affine    (q - zero[g]) * scale[g]
 *   codebook  table[q * dim + j] * scale[g], rounded to `round`
 *   int8      (q * scale[row]) * f32(1 / 127)
 */
struct Weight {
  Address codes, scale, zero, table, bias;  // 0: none; table [2^bits, dim] f32, bias [out] f32
  Address quick;                            // QuickTable of a table of 16 numbers; 0: none
  int kind, out, inp;                       // inp: of a row as it is stored
  int bits, dim, axis;
  int group, groups, per_row;  // per_row: groups of a row, if they end where it does; else 0
  int row_words;               // 32-bit words of a row of codes
  int meta;                    // Stored, of scale and zero
  int stored;                  // Stored, of dense numbers
  int round;                   // Stored
  float fixed_zero;            // where there is no zero
  float threshold;             // int8
  int pad[5];
};
static_assert(sizeof(Weight) == 128, "as src/layout.ts writes it");

__device__ __forceinline__ float stored_float(Address at, long long i, int kind) {
  if (kind == kF32) return reinterpret_cast<const float*>(at)[i];
  const uint16_t bits = reinterpret_cast<const uint16_t*>(at)[i];
  return kind == kF16 ? from_f16(bits) : from_bf16(bits);
}

__device__ __forceinline__ float rounded(float value, int kind) {
  if (kind == kF16) return from_f16(to_f16(value));
  return kind == kBf16 ? from_bf16(to_bf16(value)) : value;
}

/// Code j of a row.
__device__ __forceinline__ int code_at(const Weight& w, int row, int j) {
  const uint32_t* words = reinterpret_cast<const uint32_t*>(w.codes) + static_cast<long long>(row) * w.row_words;
  const int bit = j * w.bits, word = bit / 32, shift = bit % 32;
  // A code may run on into the next word.
  const uint32_t high = shift + w.bits > 32 ? words[word + 1] : 0;
  return static_cast<int>(__funnelshift_r(words[word], high, shift) & ((1u << w.bits) - 1));
}

__device__ __forceinline__ int group_of(const Weight& w, int row, int k) {
  if (w.axis == 1 && w.per_row > 0) return row * w.per_row + k / w.group;
  const long long flat = static_cast<long long>(row) * w.inp + k;
  return static_cast<int>(w.axis == 1 ? flat / w.group : flat % w.groups);
}

/// Weight [row][k], in the rotated basis if there is one.
__device__ __forceinline__ float weight_at(const Weight& w, int row, int k) {
  if (w.kind == kDense) return stored_float(w.codes, static_cast<long long>(row) * w.inp + k, w.stored);
  if (w.kind == kInt8) {
    const int8_t* codes = reinterpret_cast<const int8_t*>(w.codes) + static_cast<long long>(row) * w.row_words * 4;
    return static_cast<float>(codes[k]) * stored_float(w.scale, row, kF32) * (1.0f / 127.0f);
  }
  const int g = group_of(w, row, k);
  const float scale = stored_float(w.scale, g, w.meta);
  if (w.table != 0) {
    const int code = code_at(w, row, k / w.dim);
    return rounded(reinterpret_cast<const float*>(w.table)[code * w.dim + k % w.dim] * scale, w.round);
  }
  const float zero = w.zero != 0 ? stored_float(w.zero, g, w.meta) : w.fixed_zero;
  return (static_cast<float>(code_at(w, row, k)) - zero) * scale;
}

/// One of up to three weights that share a launch, and which of its blocks of threads this is.
struct Chosen {
  const Weight* weight;
  float* out;
  int block;
};

/// Of a launch whose blocks have `rows` rows of a weight each, those of the first weight first; the second and the third may be none.
__device__ __forceinline__ Chosen chosen_of(int block, int rows, const Weight* first, float* first_out, const Weight* second, float* second_out,
                                            const Weight* third, float* third_out) {
  Chosen chosen = {first, first_out, block};
  const auto skip = [&](const Weight* next, float* next_out) {
    const int blocks = (chosen.weight->out + rows - 1) / rows;
    if (chosen.block < blocks || next == nullptr) return;
    chosen = {next, next_out, chosen.block - blocks};
  };
  skip(second, second_out);
  if (chosen.weight == second) skip(third, third_out);
  return chosen;
}

}  // namespace lowbit
