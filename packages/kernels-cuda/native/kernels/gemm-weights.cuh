// Weights into tiles of halves, for products of many rows. A thread has 32 inputs of a row: two threads a row, which read whole sectors of codes of 4 bits and
// more. What a thread brings it brings one tile ahead, in registers.
#pragma once

#include "gemm-planes.cuh"
#include "tiles.cuh"
#include "wide.cuh"

namespace lowbit {

constexpr int kMine = 32;  // inputs of a thread

/// Words in a row that begin at a multiple of as many (of 8: at one of 4), by the widest loads that allows.
template <int kCount>
__device__ __forceinline__ void load_words(const uint32_t* from, uint32_t* to) {
  constexpr int kStep = kCount % 4 == 0 ? 4 : kCount % 2 == 0 ? 2 : 1;
  LOWBIT_COUNT_GLOBAL(from, 4 * kCount);
  LOWBIT_UNROLL
  for (int i = 0; i < kCount; i += kStep) {
    if (kStep == 4) {
      const Word4 four = *reinterpret_cast<const Word4*>(from + i);
      to[i] = four.x, to[i + 1] = four.y, to[i + 2] = four.z, to[i + 3] = four.w;
    } else if (kStep == 2) {
      const Word2 two = *reinterpret_cast<const Word2*>(from + i);
      to[i] = two.x, to[i + 1] = two.y;
    } else {
      to[i] = from[i];
    }
  }
}

/// Codes 4 i .. 4 i + 3 of `words`, a byte each.
template <int kBits>
__device__ __forceinline__ uint32_t bytes_of(const uint32_t* words, int i) {
  if (kBits == 8) return words[i];
  if (kBits == 4) {
    const uint32_t packed = words[i / 2], even = packed & 0x0f0f0f0f, odd = packed >> 4 & 0x0f0f0f0f;
    return __byte_perm(even, odd, i % 2 == 0 ? 0x5140 : 0x7362);
  }
  constexpr uint32_t mask = (1u << kBits) - 1;
  const int bit = 4 * i * kBits, shift = bit % 32;
  const uint32_t packed = shift + 4 * kBits > 32 ? __funnelshift_r(words[bit / 32], words[bit / 32 + 1], shift) : words[bit / 32] >> shift;
  return (packed & mask) | (packed >> kBits & mask) << 8 | (packed >> 2 * kBits & mask) << 16 | (packed >> 3 * kBits & mask) << 24;
}

template <int kBits>
struct Bits {
  static constexpr int value = kBits;
};

/// Calls `f` with the number of bits as a constant: words that are named by constants stay in registers.
template <class F>
__device__ __forceinline__ void with_bits(int bits, F&& f) {
  switch (bits) {
    case 1: return f(Bits<1>());
    case 2: return f(Bits<2>());
    case 3: return f(Bits<3>());
    case 4: return f(Bits<4>());
    case 5: return f(Bits<5>());
    case 6: return f(Bits<6>());
    case 7: return f(Bits<7>());
    default: return f(Bits<8>());
  }
}

/// A power of two that brings numbers up to `largest` below 4, and its inverse; NaN where `largest` is none or infinity.
__device__ __forceinline__ void power_for(float largest, float* times, float* back) {
  const uint32_t exponent = min(max(float_to_bits(largest) >> 23 & 0xff, 1u), 253u);
  *times = bits_to_float((254 - exponent) << 23);
  *back = largest <= 3.4028234e38f ? bits_to_float(exponent << 23) : nan_value();
}

/// Which of the tile a thread brings.
struct Mine {
  int row;   // of the tile
  int half;  // 0, 1: of its inputs
  int of;    // row of the weight; past the last the last again, for nothing
};

/// Where tiles of a weight lie in shared memory: two of a plane (one tile and the next), or one of two planes; numbers of their rows.
struct WeightTiles {
  Shared tiles;
  float* numbers;
  float* table;
};

/**
 * Codes (q - zero) scale of groups of a multiple of 64 inputs: whole numbers around 0. Sums of a block are below 64 * 128 * 2047 < 2^24: exact.
 * Numbers of a row: scale, and zero less the middle.
 */
struct AffineWeights {
  static constexpr bool kTwoPlanes = false, kHasZero = true;
  static constexpr int kSecondDigits = 0;
  uint32_t words[8];
  float number;

  __device__ __forceinline__ void begin(const Weight&, const WeightTiles&) {}
  __device__ __forceinline__ void load(const Weight& w, const Mine& mine, int tile) {
    const int block = 2 * tile + mine.half, g = mine.of * w.per_row + tile * kDepth / w.group;
    const uint32_t* from = reinterpret_cast<const uint32_t*>(w.codes) + static_cast<long long>(mine.of) * w.row_words + block * w.bits;
    with_bits(w.bits, [&](auto bits) { load_words<decltype(bits)::value>(from, words); });
    if (mine.half == 0) number = stored_float(w.scale, g, w.meta);
    else number = (w.zero != 0 ? stored_float(w.zero, g, w.meta) : w.fixed_zero) - static_cast<float>(1 << w.bits >> 1);
  }
  __device__ __forceinline__ void store(const Weight& w, const Mine& mine, const WeightTiles& to, int) const {
    with_bits(w.bits, [&](auto bits) {
      constexpr int kBits = decltype(bits)::value;
      LOWBIT_UNROLL
      for (int chunk = 0; chunk < 4; ++chunk) {
        const Word2 a = halves_of_bytes(bytes_of<kBits>(words, 2 * chunk), 1 << kBits >> 1);
        const Word2 b = halves_of_bytes(bytes_of<kBits>(words, 2 * chunk + 1), 1 << kBits >> 1);
        store_chunk(to.tiles + tile_offset(mine.row, 4 * mine.half + chunk), a.x, a.y, b.x, b.y);
      }
    });
    to.numbers[2 * mine.row + mine.half] = number;
  }
};

/// Codes of 4 bits for the numbers of a table as whole numbers of two bytes, groups of a multiple of 64 inputs. Sums are exact, as above.
struct TableWeights {
  static constexpr bool kTwoPlanes = true, kHasZero = false;
  static constexpr int kSecondDigits = 8;  // of the second plane
  uint32_t words[4];
  float number = 0;
  QuickTable table;

  __device__ __forceinline__ void begin(const Weight& w, const WeightTiles&) { table = *reinterpret_cast<const QuickTable*>(w.quick); }
  __device__ __forceinline__ void load(const Weight& w, const Mine& mine, int tile) {
    const uint32_t* from = reinterpret_cast<const uint32_t*>(w.codes) + static_cast<long long>(mine.of) * w.row_words + (2 * tile + mine.half) * 4;
    load_words<4>(from, words);
    number = stored_float(w.scale, mine.of * w.per_row + tile * kDepth / w.group, w.meta);
  }
  __device__ __forceinline__ void store(const Weight&, const Mine& mine, const WeightTiles& to, int) const {
    LOWBIT_UNROLL
    for (int chunk = 0; chunk < 4; ++chunk) {
      Word2 high[2], low[2];
      LOWBIT_UNROLL
      for (int i = 0; i < 2; ++i) {
        const uint32_t codes = words[chunk] >> (16 * i), select = codes & 0x7777, upper = __byte_perm(0xff00, 0, codes >> 3 & 0x1111);
        // Signed bytes as unsigned ones, 128 more.
        high[i] = halves_of_bytes(looked_up(table.high, select, upper) ^ 0x80808080u, 128);
        low[i] = halves_of_bytes(looked_up(table.low, select, upper) ^ 0x80808080u, 128);
      }
      const int at = tile_offset(mine.row, 4 * mine.half + chunk);
      store_chunk(to.tiles + at, high[0].x, high[0].y, high[1].x, high[1].y);
      store_chunk(to.tiles + kTileBytes + at, low[0].x, low[0].y, low[1].x, low[1].y);
    }
    if (mine.half == 0) to.numbers[mine.row] = number * (table.step * 256.0f);
  }
};

/// Largest magnitude of the 64 inputs of two threads; a NaN stays one.
__device__ __forceinline__ float pair_max(float largest) {
  const float other = __shfl_xor_sync(kAll, largest, 1);
  return largest != largest || largest >= other ? largest : other;
}
__device__ __forceinline__ float more(float largest, float value) {
  const float size = fabsf(value);
  return largest != largest || largest >= size ? largest : size;
}

/// Numbers that have no more than 11 digits: dense ones of 16 bits, and those of tables that are rounded to 16. Rows and groups of a multiple of 32 inputs.
struct HalfWeights {
  static constexpr bool kTwoPlanes = false, kHasZero = false;
  static constexpr int kSecondDigits = 0;
  uint32_t words[16];
  float number;
  const float* table;

  __device__ __forceinline__ void begin(const Weight& w, const WeightTiles& to) {
    load_table(w, to.table);
    table = to.table;
  }
  __device__ __forceinline__ void load(const Weight& w, const Mine& mine, int tile) {
    // Past the inputs: the last again, as zeros.
    const bool there = (2 * tile + mine.half) * kMine < w.inp;
    const int block = 2 * tile + (there ? mine.half : 0);
    const uint32_t* codes = reinterpret_cast<const uint32_t*>(w.codes);
    if (w.kind == kDense) {
      load_words<16>(codes + (static_cast<long long>(mine.of) * w.inp + block * kMine) / 2, words);
      LOWBIT_UNROLL
      for (int i = 0; i < 16; ++i) words[i] = there ? words[i] : 0;
      return;
    }
    const int bits = w.bits / w.dim;
    const uint32_t* from = codes + static_cast<long long>(mine.of) * w.row_words + block * bits;
    with_bits(bits, [&](auto constant) { load_words<decltype(constant)::value>(from, words); });
    number = there ? stored_float(w.scale, group_of(w, mine.of, block * kMine), w.meta) : 0;
  }
  template <int kBits, int kDim>
  __device__ __forceinline__ void decode(const Weight& w, float (&values)[kMine]) const {
    LOWBIT_UNROLL
    for (int i = 0; i < kMine / kDim / 4; ++i) {
      const uint32_t codes = bytes_of<kBits>(words, i);
      LOWBIT_UNROLL
      for (int j = 0; j < 4; ++j) {
        const int code = codes >> (8 * j) & 0xff;
        LOWBIT_UNROLL
        for (int d = 0; d < kDim; ++d) values[(4 * i + j) * kDim + d] = rounded(table[code * kDim + d] * number, w.round);
      }
    }
  }
  __device__ __forceinline__ void store(const Weight& w, const Mine& mine, const WeightTiles& to, int) const {
    float values[kMine];
    if (w.kind == kDense) {
      LOWBIT_UNROLL
      for (int i = 0; i < kMine; ++i) {
        const uint16_t bits = static_cast<uint16_t>(words[i / 2] >> (16 * (i % 2)));
        values[i] = w.stored == kF16 ? from_f16(bits) : from_bf16(bits);
      }
    } else {
      // Those of CODEBOOKS in src/layout.ts.
      switch (w.bits * 10 + w.dim) {
        case 82: decode<8, 2>(w, values); break;
        case 62: decode<6, 2>(w, values); break;
        case 42: decode<4, 2>(w, values); break;
        case 81: decode<8, 1>(w, values); break;
        case 41: decode<4, 1>(w, values); break;
        case 31: decode<3, 1>(w, values); break;
        default: decode<2, 1>(w, values); break;
      }
    }
    float largest = 0, times, back;
    LOWBIT_UNROLL
    for (int i = 0; i < kMine; ++i) largest = more(largest, values[i]);
    power_for(pair_max(largest), &times, &back);
    LOWBIT_UNROLL
    for (int chunk = 0; chunk < 4; ++chunk) {
      uint32_t made[4];
      LOWBIT_UNROLL
      for (int i = 0; i < 4; ++i) made[i] = pair_of(to_f16(values[8 * chunk + 2 * i] * times), to_f16(values[8 * chunk + 2 * i + 1] * times));
      store_chunk(to.tiles + tile_offset(mine.row, 4 * mine.half + chunk), made[0], made[1], made[2], made[3]);
    }
    if (mine.half == 0) to.numbers[mine.row] = back;
  }
};

/// Any numbers of rows and groups of a multiple of 8 inputs, as two halves: 2^-22 of a number is left out. Read where they are needed, twice.
struct FloatWeights {
  static constexpr bool kTwoPlanes = true, kHasZero = false;
  static constexpr int kSecondDigits = kLowDigits;
  const float* table;

  __device__ __forceinline__ void begin(const Weight& w, const WeightTiles& to) {
    load_table(w, to.table);
    table = to.table;
  }
  __device__ __forceinline__ void load(const Weight&, const Mine&, int) {}
  __device__ __forceinline__ void store(const Weight& w, const Mine& mine, const WeightTiles& to, int tile) const {
    const int k = tile * kDepth + mine.half * kMine;
    float largest = 0, times, back, values[kWide];
    for (int chunk = 0; chunk < 4; ++chunk) {
      if (k + 8 * chunk >= w.inp) continue;
      eight_weights(w, table, mine.of, k + 8 * chunk, values);
      LOWBIT_UNROLL
      for (int i = 0; i < kWide; ++i) largest = more(largest, values[i]);
    }
    power_for(pair_max(largest), &times, &back);
    for (int chunk = 0; chunk < 4; ++chunk) {
      LOWBIT_UNROLL
      for (int i = 0; i < kWide; ++i) values[i] = 0;
      if (k + 8 * chunk < w.inp) eight_weights(w, table, mine.of, k + 8 * chunk, values);
      uint32_t high[4], low[4];
      LOWBIT_UNROLL
      for (int i = 0; i < 4; ++i) {
        uint16_t upper[2], lower[2];
        LOWBIT_UNROLL
        for (int j = 0; j < 2; ++j) {
          const float value = values[2 * i + j] * times;
          upper[j] = to_f16(value);
          // As far below as the second half of an activation is.
          lower[j] = to_f16((value - from_f16(upper[j])) * static_cast<float>(1 << kLowDigits));
        }
        high[i] = pair_of(upper[0], upper[1]);
        low[i] = pair_of(lower[0], lower[1]);
      }
      const int at = tile_offset(mine.row, 4 * mine.half + chunk);
      store_chunk(to.tiles + at, high[0], high[1], high[2], high[3]);
      store_chunk(to.tiles + kTileBytes + at, low[0], low[1], low[2], low[3]);
    }
    if (mine.half == 0) to.numbers[mine.row] = back;
  }
};

}  // namespace lowbit
