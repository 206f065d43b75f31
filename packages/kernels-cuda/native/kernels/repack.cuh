// Codes as checkpoints store them into rows of a weight: packages/core/src/pack has the packings.
#pragma once

#include "weight.cuh"

namespace lowbit {

enum Packing : int { kBytes = 0, kNibbles = 1, kLanes8 = 2, kLanes32 = 3, kRowBits = 4, kFlute = 5 };

/// Packed codes of `bits` each; rows and columns of the matrix that was packed. Not all packings need all.
struct Packed {
  const unsigned char* bytes;
  int kind, bits, rows, columns;
  int lane_rows, lanes;  // rows of words, and how many codes each word has
  int tile, dim;         // of FLUTE
};

__device__ __forceinline__ uint32_t word_at(const unsigned char* bytes, long long i) { return reinterpret_cast<const uint32_t*>(bytes)[i]; }

/// As `placeOf` and `unpackInto` of flute.ts: the field of an output feature at two inputs (or at one code of a pair).
__device__ __forceinline__ int flute_code(const Packed& p, int row, int column) {
  const int bits = p.bits / p.dim, field_bits = 2 * bits, fields = p.columns * p.dim / 2;
  const int tile_rows = (bits == 4 ? 4 : bits == 2 ? 8 : 16) * p.tile;
  const int nb = row / tile_rows, c = row % tile_rows / p.tile, t = row % p.tile, q = nb * p.tile + t;
  const int j = p.dim == 2 ? column : column / 2;
  const auto piece = [&](int line, int shift, int width) {
    return static_cast<int>(word_at(p.bytes, static_cast<long long>(line) * fields + j) >> shift & ((1u << width) - 1));
  };
  int field = 0;
  if (bits != 3) {
    field = piece(q, field_bits * c, field_bits);
  } else {
    const int z = p.rows / 16 + 2 * p.tile * nb + 64 * (t / 32) + t % 32;
    if (c < 15) field = piece(c % 3 == 0 ? q : z + (c % 3 - 1) * 32, 6 * (c / 3), 6);
    else field = piece(q, 30, 2) | piece(z, 30, 2) << 2 | piece(z + 32, 30, 2) << 4;
  }
  if (p.dim == 2) return field;
  return column % 2 == 1 ? field & ((1 << bits) - 1) : field >> bits;
}

__device__ __forceinline__ int packed_code(const Packed& p, long long flat) {
  const int mask = (1 << p.bits) - 1;
  if (p.kind == kFlute) return flute_code(p, static_cast<int>(flat / p.columns), static_cast<int>(flat % p.columns));
  if (p.kind == kRowBits) {
    const long long row = flat / p.columns;
    const int column = static_cast<int>(flat % p.columns);
    const int bit = column * p.bits, byte = bit / 8, shift = bit % 8;
    const unsigned char* from = p.bytes + row * ((p.columns * p.bits + 7) / 8);
    const int high = shift + p.bits > 8 ? from[byte + 1] : 0;
    return (from[byte] | high << 8) >> shift & mask;
  }
  if (p.kind == kBytes) return p.bytes[flat];
  if (p.kind == kNibbles) return p.bytes[flat / 2] >> (flat % 2 == 0 ? 4 : 0) & 15;
  const long long lane_words = static_cast<long long>(p.lane_rows) * p.columns;
  const int lane = static_cast<int>(flat / lane_words), shift = p.bits * (p.lanes - 1 - lane);
  const long long word = flat % lane_words;
  return static_cast<int>((p.kind == kLanes8 ? p.bytes[word] : word_at(p.bytes, word)) >> shift) & mask;
}

/**
 * Rows [from, from + grid) of `row_codes` codes each, `bits` a code; codes are counted through the packed matrix row by row. `bad` (0 before, or no address) gets one more than the largest code that does not fit.
 * Grid: (ceil(row_words / 128), rows); block: 128.
 */
extern "C" __global__ void repack_codes(const unsigned char* packed, int kind, int packed_bits, int rows, int columns, int lane_rows, int lanes,
                                        int tile_and_dim, int row_codes, int from, int bits, int row_words, uint32_t* out, int* bad) {
  const int word = blockIdx.x * blockDim.x + threadIdx.x, row = from + blockIdx.y;
  if (word >= row_words) return;
  const Packed p = {packed, kind, packed_bits, rows, columns, lane_rows, lanes, tile_and_dim / 4, tile_and_dim % 4};
  uint32_t result = 0;
  for (int j = word * 32 / bits; j < row_codes && j * bits < (word + 1) * 32; ++j) {
    const int shift = j * bits - word * 32, code = packed_code(p, static_cast<long long>(row) * row_codes + j);
    if (bad != nullptr && code >> bits != 0) atomicMax(bad, code + 1);
    result |= shift >= 0 ? static_cast<uint32_t>(code) << shift : static_cast<uint32_t>(code) >> -shift;
  }
  out[static_cast<long long>(row) * row_words + word] = result;
}

/// Numbers of a weight [count, 1], plus `offset` where there is one: scales that are quantized themselves. Grid: ceil(count / 256); block: 256.
extern "C" __global__ void nested_numbers(const Weight* weight, int count, const float* offset, float* out) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const float value = weight_at(*weight, i, 0);
  out[i] = offset != nullptr ? value + *offset : value;
}

}  // namespace lowbit
