// This backend's own order of a weight's numbers, and the way in (from canonical codes) and out (to f32 rows).
//
// dense     rows of floats as they come
// grouped   rows of packed codes, low bits first, beside f32 scales and zeros (or a table) of any grouping: what no tile takes
// tiles     [class][16 rows][block] { codes; scales; zeros }, see kernels/tiles.h: codes of a block come first, then f[16] scales and f[16] zeros. Rows
//           and inputs are padded: rows with zeros everywhere, inputs with code 0, which meet activations of 0
// int8      the same with 8-bit codes, 128 added, and no numbers inside
//
// The same weight gives the same bytes, in whatever pieces its codes come.
#pragma once

#include "lowbit_cpu.h"

namespace lowbit {

/// Longest block: 128 inputs, so that 256 times a sum of 8-bit codes and activations fits an int32.
constexpr size_t kLongestBlock = 128;

/// Fills in the sizes of a weight whose kind, shape and format fields are set: row_bytes, or blocks, block_bytes, code_bytes, class_tiles; data_bytes.
Status plan_layout(Weight& weight);

/// Inputs that a unit of codes spans: a block is a multiple of it.
size_t unit_inputs(Codes codes);

/// Places rows [from, from + rows) of codes [rows, inp], one byte each (int8: signed), into `data`, which was zero.
Status put_codes(const Weight& weight, uint8_t* data, size_t from, size_t rows, const uint8_t* codes);

/// tiles: places scale (and zero) of `row` and `block`.
void put_numbers(const Weight& weight, uint8_t* data, size_t row, size_t block, float scale, float zero);

/// Row `row` as f32: the codec's own numbers, (q - zero) * scale with each step rounded, or table[q] * scale.
void fill_row(const Kernels& kernels, const Weight& weight, size_t row, float* out);

/// Sets table_low, table_high and table_factor from 16 numbers, as multiples of one step: exact where they are (FP4), else within 2^-16 of the largest.
void set_table(Weight& weight, const float* table);

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

/// A stored float of that dtype; bf16 alone truncates: the value came from one.
void write_number(Float dtype, uint8_t* to, float value);

/// f16 bits of a float, to nearest, ties to even, and back.
uint16_t to_f16(float value);
float from_f16(uint16_t bits);

}  // namespace lowbit
