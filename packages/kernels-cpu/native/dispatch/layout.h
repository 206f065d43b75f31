// This backend's own order of a weight's numbers, and the way in (from canonical codes) and out (to f32 rows).
//
// dense     rows of floats as they come
// grouped   rows of packed codes, low bits first, beside f32 scales and zeros (or a table) of any grouping: what no tile takes
// tiles     [class][16 rows][block] { codes; scales; zeros }, see kernels/tiles.h: codes of a block come first, then f[16] scales and f[16] zeros. Rows
//           and inputs are padded: rows with zeros everywhere, inputs with code 0, which meet activations of 0. A code of pairs takes the place of two inputs
// int8      the same with 8-bit codes, 128 added, and no numbers inside
//
// The same weight gives the same bytes, in whatever pieces its codes come.
#pragma once

#include "lowbit_cpu.h"

namespace lowbit {

/// Codes of a row.
inline size_t code_columns(const Weight& weight) { return weight.inp / weight.dim; }

/// Longest block: 128 inputs, so that 256 times a sum of 8-bit codes and activations fits an int32.
constexpr size_t kLongestBlock = 128;

/// Fills in the sizes of a weight whose kind, shape and format fields are set: row_bytes, or blocks, block_bytes, code_bytes, class_tiles; data_bytes; and
/// features, where there are none yet.
Status plan_layout(Weight& weight);

/// Bits of a code, in a tile.
int code_bits(Codes codes);

/// Inputs that a unit of codes spans: a block is a multiple of it.
size_t unit_inputs(Codes codes);

/// Places rows [from, from + rows) of codes [rows, code_columns], one byte each (int8: signed), into `data`, which was zero.
Status put_codes(const Weight& weight, uint8_t* data, size_t from, size_t rows, const uint8_t* codes);

/// tiles: places scale (and zero) of `row` and `block`.
void put_numbers(const Weight& weight, uint8_t* data, size_t row, size_t block, float scale, float zero);

/// Row `row` [inp] as f32: (q - zero) * scale with each step rounded, or table[q] * scale; of a rotated weight as it is stored.
void fill_stored_row(const Kernels& kernels, const Weight& weight, size_t row, float* out);

/// Row `row` [features] as f32: the codec's own numbers. As above where there is no rotation. Throws std::bad_alloc.
void fill_row(const Kernels& kernels, const Weight& weight, size_t row, float* out);

/// Sets `numbers` from 16 of them, as multiples of one step: exact where they are (FP4), else within 2^-16 of the largest for three planes, 2^-12 for two.
void set_table(Weight& weight, const float* table);

/// The same of pairs, from a table [pair_entries][2]: the factors, and what pair_bytes and pair_halves point to, in pair_table_bytes of memory.
/// Steps are 2^-15 and 2^-11 of the largest.
void set_pair_table(Weight& weight, const float* table, uint8_t* memory);
inline size_t pair_table_bytes(Codes codes) { return 12 * pair_entries(codes); }

/// Inputs that `Kernels::expand` makes floats of at a time, of a weight with `round`: whole blocks, few enough for the first-level cache.
inline size_t strip_inputs(const Weight& weight) { return (weight.block < 256 ? 256 / weight.block : 1) * weight.block; }

/// The tile of a row, and its lane there.
struct Place {
  size_t tile;
  size_t lane;
};
inline Place place_of(const Weight& weight, size_t row) {
  const size_t index = row / weight.classes;
  return {row % weight.classes * weight.class_tiles + index / kTileRows, index % kTileRows};
}
inline size_t tile_bytes(const Weight& weight) { return weight.blocks * weight.block_bytes; }

/// A stored float of that dtype, to nearest, ties to even; and the bytes it takes.
void write_number(Float dtype, uint8_t* to, float value);
inline size_t float_bytes(Float dtype) { return dtype == Float::none ? 0 : dtype == Float::f32 ? 4 : 2; }

/// f16 bits of a float, to nearest, ties to even, and back.
uint16_t to_f16(float value);
float from_f16(uint16_t bits);
/// bf16 bits of a float, to nearest, ties to even; NaN stays NaN.
uint16_t to_bf16(float value);
/// The nearest number of a dtype, ties to even, by way of f32.
double stored_as(Float dtype, double value);

}  // namespace lowbit
