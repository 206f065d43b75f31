// The routine of @lowbit/higgs on a run of blocks, on the threads of a pool: the same numbers as packages/higgs/src/code-blocks.ts, bit for bit.
#pragma once

#include "chunks.h"
#include "nearest.h"

namespace lowbit {

/// Blocks [first, first + blocks) of a weight of `inp` columns, counted row by row: its numbers in them one after another, without those that rows are
/// filled up with.
struct RotatedRun {
  const uint8_t* data;
  Float dtype;
  size_t inp;
  size_t first;
  size_t blocks;
  size_t block;  // a power of two from 8 on
  size_t group;  // weights of a scale, at most a block's
  Float scale;   // dtype of the scales

  size_t blocks_of_row() const { return (inp + block - 1) / block; }
  /// Where block b of the run begins, in numbers; that of `blocks` is where the run ends.
  size_t start(size_t b) const { return flat(first + b) - flat(first); }
  size_t numbers_of(size_t b) const { return std::min(block, inp - (first + b) % blocks_of_row() * block); }

 private:
  size_t flat(size_t b) const { return b / blocks_of_row() * inp + b % blocks_of_row() * block; }
};

/// Codes u8 [blocks * block / dim]; scales [blocks * block / group], infinite where one does not fit its dtype; sums: squared errors, squared weights (not
/// finite if a weight is not), largest error. `stored`: the grid's points as they are stored.
void higgs_code(const Kernels& kernels, Pool& pool, const RotatedRun& run, const Grid& grid, const float* stored, uint8_t* codes, float* scales,
                double* sums);

/// FLUTE's packing: core/src/pack/flute.ts.
struct FlutePacking {
  int bits;     // 2, 3 or 4
  size_t dim;   // weights of a code
  size_t tile;  // rows of words, 32 or 64

  size_t rows() const { return tile * (bits == 4 ? 4 : bits == 2 ? 8 : 16); }
  size_t words(size_t columns) const { return tile * (bits == 3 ? 3 : 1) * (columns * dim / 2); }
};

/// One tile: codes [rows, columns], columns * dim even, into its words, those of the first plane, then those of the second.
void flute_pack(Pool& pool, const FlutePacking& packing, const uint8_t* codes, size_t columns, uint32_t* words);

}  // namespace lowbit
