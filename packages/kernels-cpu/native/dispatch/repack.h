// From the packings of published files to this backend's order, on all threads: what a layout's put_codes and put_numbers do element by element, done
// row by row with whole words. The same bytes, whatever the threads (the C++ tests compare).
#pragma once

#include <atomic>
#include <vector>

#include "layout.h"
#include "pool.h"

namespace lowbit {

/// Codes as a file has them, in the row-major order of the weight's elements.
struct PackedCodes {
  /// bytes: a byte each. nibbles: two a byte, the first in the high half. lanes: word j has a code of each of `lanes` runs of `lane` elements, the first
  /// run in the highest bits.
  enum class Order : int { bytes, nibbles, lanes } order = Order::bytes;
  const uint8_t* data = nullptr;
  size_t bytes = 0;
  size_t word_bytes = 1;  // lanes: 1 or 4
  int bits = 8;
  size_t lanes = 1;
  size_t lane = 0;
};

/// Whether `codes` has `count` elements.
bool has_codes(const PackedCodes& codes, size_t count);

/// Elements [from, from + count), a byte each.
void unpack_codes(const PackedCodes& codes, size_t from, size_t count, uint8_t* out);

/// Scales and zeros as a file has them, in the dtype of the tiles (Weight::meta): those of `repeat` blocks are one number.
struct StoredNumbers {
  const uint8_t* scale = nullptr;
  const uint8_t* zero = nullptr;  // null: `zero_value` everywhere
  float zero_value = 0;
  size_t repeat = 1;
};

/**
 * Fills `data`, which was zero, of a weight that is grouped, tiles or int8. What it refers to stays until `run` returns.
 * Without `numbers.scale` only the codes are placed.
 */
class Repack {
 public:
  /// `entries`: codes from there on are refused, as those that the layout has no room for always are.
  Repack(const Weight& weight, uint8_t* data, const PackedCodes& codes, const StoredNumbers& numbers, unsigned entries);
  /// False if a code was refused: then `data` is of no use.
  bool run(Pool& pool);

 private:
  void rows(size_t from, size_t to);
  void put_row(size_t row, const uint8_t* codes);
  void put_row_numbers(size_t row);

  const Weight& weight_;
  uint8_t* data_;
  const PackedCodes codes_;
  const StoredNumbers numbers_;
  const uint8_t refused_;  // bits that no code may have
  size_t chunk_rows_;
  std::atomic<bool> bad_{false};
};

}  // namespace lowbit
