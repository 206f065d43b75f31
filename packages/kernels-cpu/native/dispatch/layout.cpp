#include "layout.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "rotation.h"

namespace lowbit {

int code_bits(Codes codes) {
  switch (codes) {
    case Codes::c8:
    case Codes::pairs8:
      return 8;
    case Codes::pairs6:
      return 6;
    case Codes::c3:
      return 3;
    case Codes::c2:
      return 2;
    case Codes::c1:
      return 1;
    default:
      return 4;
  }
}

namespace {

size_t divide_up(size_t a, size_t b) { return (a + b - 1) / b; }

/// Where the code of lane `lane` and input (or pair) `k` of a block is: in up to two bytes.
struct Spot {
  size_t byte;
  int shift;
  size_t high_byte;  // c3 and pairs6 alone: of the highest bits
  int high_shift;
};

/// Bits in the first of two bytes.
int low_bits(Codes codes) { return codes == Codes::c3 ? 2 : codes == Codes::pairs6 ? 4 : code_bits(codes); }

Spot spot(Codes codes, size_t lane, size_t k) {
  const size_t column = 4 * lane + k % 4;
  const size_t vector = k / 4;
  switch (codes) {
    case Codes::c8:
    case Codes::pairs8:
      return {vector * 64 + column, 0, 0, 0};
    case Codes::pairs6: {
      const size_t unit = vector / 4 * 192;
      const size_t i = vector % 4;
      return {unit + i / 2 * 64 + column, static_cast<int>(4 * (i % 2)), unit + 128 + column, static_cast<int>(2 * i)};
    }
    case Codes::c2:
      return {vector / 4 * 64 + column, static_cast<int>(2 * (vector % 4)), 0, 0};
    case Codes::c1:
      return {vector / 8 * 64 + column, static_cast<int>(vector % 8), 0, 0};
    case Codes::c3: {
      const size_t unit = vector / 8 * 192;
      const size_t i = vector % 8;
      return {unit + i / 4 * 64 + column, static_cast<int>(2 * (i % 4)), unit + 128 + column, static_cast<int>(i)};
    }
    default:
      return {vector / 2 * 64 + column, static_cast<int>(4 * (vector % 2)), 0, 0};
  }
}

uint8_t* block_at(const Weight& w, uint8_t* data, Place place, size_t block) {
  return data + place.tile * tile_bytes(w) + block * w.block_bytes;
}

int code_at(const Weight& w, const uint8_t* block, size_t lane, size_t k) {
  const Spot at = spot(w.codes, lane, k);
  const int bits = low_bits(w.codes);
  const int low = block[at.byte] >> at.shift & ((1 << bits) - 1);
  const int high = code_bits(w.codes) - bits;
  return high == 0 ? low : low | (block[at.high_byte] >> at.high_shift & ((1 << high) - 1)) << bits;
}

float read_float(Float dtype, const uint8_t* from) {
  float value;
  if (dtype == Float::f32) {
    std::memcpy(&value, from, 4);
    return value;
  }
  uint16_t half;
  std::memcpy(&half, from, 2);
  if (dtype == Float::f16) return from_f16(half);
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  std::memcpy(&value, &bits, 4);
  return value;
}

void fill_grouped(const Weight& w, size_t row, float* out) {
  const uint8_t* codes = w.data + row * w.row_bytes;
  const int mask = (1 << w.bits) - 1;
  const size_t per_byte = 8 / static_cast<size_t>(w.bits);
  size_t flat = row * w.inp;
  size_t group = w.axis == 1 ? flat / w.group : flat % w.groups;
  size_t left = w.axis == 1 ? w.group - flat % w.group : 1;
  for (size_t k = 0; k < w.inp; ++k) {
    const size_t code = k / w.dim;
    const int q = codes[code / per_byte] >> static_cast<int>(code % per_byte) * w.bits & mask;
    if (w.table != nullptr) {
      out[k] = round_to(w.round, w.table[static_cast<size_t>(q) * w.dim + k % w.dim] * w.scale[group]);
    } else {
      out[k] = (static_cast<float>(q) - w.zero[group]) * w.scale[group];
    }
    if (--left == 0) {
      ++group;
      if (group == w.groups) group = 0;
      left = w.axis == 1 ? w.group : 1;
    }
  }
}

void fill_tile(const Weight& w, size_t row, float* out) {
  const Place place = place_of(w, row);
  const uint8_t* tile = w.data + place.tile * tile_bytes(w);
  const size_t column = row % w.classes * w.inp;
  const size_t width = float_bytes(w.meta);
  for (size_t b = 0; b < w.blocks; ++b) {
    const uint8_t* block = tile + b * w.block_bytes;
    const uint8_t* numbers = block + w.code_bytes + place.lane * width;
    const float scale = w.meta == Float::none ? 1.0f : read_float(w.meta, numbers);
    const float zero = w.zeros ? read_float(w.meta, numbers + kTileRows * width) : 0.0f;
    for (size_t i = 0, k = b * w.block; i < w.block && k < w.inp; ++i, ++k) {
      const int q = code_at(w, block, place.lane, i / w.dim);
      if (w.kind == Kind::int8) {
        out[k] = static_cast<float>(q - 128) * w.scale[row] * (1.0f / 127.0f);
      } else if (is_table(w.codes)) {
        out[k] = round_to(w.round, w.table[static_cast<size_t>(q) * w.dim + i % w.dim] * scale);
      } else if (w.scale != nullptr) {
        out[k] = (static_cast<float>(q) - w.zero[column + k]) * w.scale[column + k];
      } else {
        out[k] = (static_cast<float>(q) - zero) * scale;
      }
    }
  }
}

constexpr int kNumbers[] = {kShortNumber, kLongNumber};

/// A number of a table as an integer with 2^15 added: `steps` are the largest.
int integer_of(float number, float most, int steps) { return static_cast<int>(std::nearbyint(static_cast<double>(number) / most * steps)) + 32768; }

/// Of all numbers of steps from half of `limit` up to it that the largest number may have, the one whose multiples come closest to the table.
int steps_for(const float* table, float most, int limit) {
  int found = limit;
  double best = INFINITY;
  for (int steps = limit; steps > limit / 2 && best > 0; --steps) {
    double error = 0;
    for (int i = 0; i < 16; ++i) {
      const double exact = static_cast<double>(table[i]) / most * steps;
      const double off = (exact - std::nearbyint(exact)) / steps;
      error += off * off;
    }
    if (error < 1e-20) error = 0;  // the table is of multiples, but for the rounding of their division
    if (error < best) {
      best = error;
      found = steps;
    }
  }
  return found;
}

}  // namespace

size_t unit_inputs(Codes codes) {
  switch (codes) {
    case Codes::c8:
      return 4;
    case Codes::c2:
    case Codes::pairs4:
      return 16;
    case Codes::c1:
    case Codes::c3:
    case Codes::pairs6:
      return 32;
    default:
      return 8;
  }
}

Status plan_layout(Weight& w) {
  if (w.out == 0 || w.inp == 0) return Status::bad_argument;
  // Sizes in bytes must not wrap: no element takes more than 8 of them, and a tile has 16 rows.
  if (w.out > SIZE_MAX / 64 / (w.inp + kLongestBlock)) return Status::bad_argument;
  if (w.features == 0) w.features = w.inp;
  if (w.features > w.inp || (w.rotate == 0 ? w.features < w.inp : (w.rotate & (w.rotate - 1)) != 0 || w.inp % w.rotate != 0)) {
    return Status::bad_argument;
  }
  if (w.dim != (w.kind == Kind::tiles && is_pairs(w.codes) ? 2 : 1) && !(w.kind == Kind::grouped && w.dim == 2)) return Status::bad_argument;
  if (w.inp % w.dim != 0) return Status::bad_argument;
  switch (w.kind) {
    case Kind::dense:
      if (w.dtype == Float::none) return Status::bad_argument;
      w.row_bytes = w.inp * float_bytes(w.dtype);
      w.data_bytes = w.out * w.row_bytes;
      return Status::ok;
    case Kind::grouped:
      if (w.bits != 1 && w.bits != 2 && w.bits != 4 && w.bits != 8) return Status::bad_argument;
      if (w.groups == 0 || w.axis < 0 || w.axis > 1) return Status::bad_argument;
      if (w.axis == 1 && (w.group == 0 || divide_up(w.out * w.inp, w.group) > w.groups)) return Status::bad_argument;
      if (w.axis == 1 && w.group % w.dim != 0) return Status::bad_argument;
      w.row_bytes = divide_up(code_columns(w) * static_cast<size_t>(w.bits), 8);
      w.data_bytes = w.out * w.row_bytes;
      return Status::ok;
    case Kind::tiles:
    case Kind::int8:
      break;
  }
  if (w.block == 0 || w.block > kLongestBlock || w.block % unit_inputs(w.codes) != 0 || w.block % 4 != 0) return Status::bad_argument;
  if (w.classes == 0 || w.out % w.classes != 0 || (w.kind == Kind::int8 && w.codes != Codes::c8)) return Status::bad_argument;
  if ((w.zeros || is_pairs(w.codes)) && w.meta == Float::none) return Status::bad_argument;
  if (w.classes > 1 && w.meta != Float::none) return Status::bad_argument;
  if (w.round != Float::none && (w.round != w.meta || w.round == Float::f32 || !is_table(w.codes))) return Status::bad_argument;
  if ((w.round != Float::none || is_pairs(w.codes)) && w.inp % w.block != 0) return Status::bad_argument;
  w.blocks = divide_up(w.inp, w.block);
  w.code_bytes = w.block / w.dim * kTileRows * static_cast<size_t>(code_bits(w.codes)) / 8;
  w.block_bytes = w.code_bytes + kTileRows * float_bytes(w.meta) * (w.zeros ? 2 : 1);
  w.class_tiles = divide_up(w.out / w.classes, kTileRows);
  w.data_bytes = w.classes * w.class_tiles * tile_bytes(w);
  return Status::ok;
}

Status put_codes(const Weight& w, uint8_t* data, size_t from, size_t rows, const uint8_t* codes) {
  if (from > w.out || rows > w.out - from) return Status::bad_argument;
  const size_t columns = code_columns(w);
  for (size_t row = from; row < from + rows; ++row, codes += columns) {
    if (w.kind == Kind::dense) return Status::bad_argument;
    if (w.kind == Kind::grouped) {
      uint8_t* to = data + row * w.row_bytes;
      const int per_byte = 8 / w.bits;
      for (size_t k = 0; k < columns; ++k) {
        to[k / per_byte] = static_cast<uint8_t>(to[k / per_byte] | codes[k] << static_cast<int>(k % per_byte) * w.bits);
      }
      continue;
    }
    const Place place = place_of(w, row);
    const int limit = 1 << code_bits(w.codes);
    const int low = low_bits(w.codes);
    for (size_t b = 0, k = 0; b < w.blocks; ++b) {
      uint8_t* block = block_at(w, data, place, b);
      for (size_t i = 0; i < w.block / w.dim && k < columns; ++i, ++k) {
        const int q = w.kind == Kind::int8 ? static_cast<int8_t>(codes[k]) + 128 : codes[k];
        if (q >= limit) return Status::bad_argument;
        const Spot at = spot(w.codes, place.lane, i);
        block[at.byte] = static_cast<uint8_t>(block[at.byte] | (q & ((1 << low) - 1)) << at.shift);
        if (limit > 1 << low) block[at.high_byte] = static_cast<uint8_t>(block[at.high_byte] | (q >> low) << at.high_shift);
      }
    }
  }
  return Status::ok;
}

void put_numbers(const Weight& w, uint8_t* data, size_t row, size_t block, float scale, float zero) {
  const Place place = place_of(w, row);
  const size_t width = float_bytes(w.meta);
  uint8_t* to = block_at(w, data, place, block) + w.code_bytes + place.lane * width;
  write_number(w.meta, to, scale);
  if (w.zeros) write_number(w.meta, to + kTileRows * width, zero);
}

void fill_stored_row(const Kernels& kernels, const Weight& w, size_t row, float* out) {
  if (w.kind == Kind::dense) {
    kernels.widen(w.data + row * w.row_bytes, w.dtype, w.inp, out);
  } else if (w.kind == Kind::grouped) {
    fill_grouped(w, row, out);
  } else {
    fill_tile(w, row, out);
  }
}

void fill_row(const Kernels& kernels, const Weight& w, size_t row, float* out) {
  if (w.rotate == 0) return fill_stored_row(kernels, w, row, out);
  std::vector<float> stored(w.inp);
  fill_stored_row(kernels, w, row, stored.data());
  hadamard(stored.data(), w.inp, w.rotate);
  std::memcpy(out, stored.data(), w.features * sizeof(float));
}

void set_pair_table(Weight& w, const float* table, uint8_t* memory) {
  const size_t entries = pair_entries(w.codes);
  uint8_t* bytes = memory;
  uint8_t* halves = memory + 8 * entries;
  float most = 0;
  for (size_t i = 0; i < 2 * entries; ++i) most = std::fmax(most, std::fabs(table[i]));
  if (!(most > 0)) most = 1;
  bool exact = true;
  for (size_t i = 0; i < entries; ++i) {
    for (size_t j = 0; j < 2; ++j) {
      const float number = table[2 * i + j];
      const auto put = [&](uint8_t* to, int value) {
        to[2 * j * entries + i] = static_cast<uint8_t>(value & 255);
        to[(2 * j + 1) * entries + i] = static_cast<uint8_t>(value >> 8);
      };
      for (size_t length = 0; length < 2; ++length) put(bytes + 4 * length * entries, integer_of(number, most, kNumbers[length]));
      const uint16_t half = to_f16(number);
      put(halves, half);
      // Neither infinite nor below the normal numbers: kernels shift the bits into those of an f32.
      exact = exact && from_f16(half) == number && (half & 0x7c00) != 0x7c00 && ((half & 0x7c00) != 0 || (half & 0x7fff) == 0);
    }
  }
  for (size_t length = 0; length < 2; ++length) w.numbers[length].factor = static_cast<float>(static_cast<double>(most) / kNumbers[length]);
  w.pair_bytes = bytes;
  w.pair_halves = exact ? halves : nullptr;
}

void set_table(Weight& w, const float* table) {
  float most = 0;
  for (int i = 0; i < 16; ++i) most = std::fmax(most, std::fabs(table[i]));
  if (!(most > 0)) most = 1;
  for (size_t length = 0; length < 2; ++length) {
    Integers& to = w.numbers[length];
    const int steps = steps_for(table, most, kNumbers[length]);
    for (int i = 0; i < 16; ++i) {
      const int value = integer_of(table[i], most, steps);
      to.low[i] = static_cast<uint8_t>(value & 255);
      to.high[i] = static_cast<uint8_t>(value >> 8);
    }
    to.factor = static_cast<float>(static_cast<double>(most) / steps);
  }
}

void write_number(Float dtype, uint8_t* to, float value) {
  if (dtype == Float::f32) {
    std::memcpy(to, &value, 4);
    return;
  }
  const uint16_t half = dtype == Float::f16 ? to_f16(value) : to_bf16(value);
  std::memcpy(to, &half, 2);
}

uint16_t to_f16(float value) {
  uint32_t u;
  std::memcpy(&u, &value, 4);
  const uint32_t sign = u >> 16 & 0x8000;
  const uint32_t magnitude = u & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
  if (magnitude >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);
  if (magnitude >= 0x38800000) return static_cast<uint16_t>(sign | (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13);
  if (magnitude < 0x33000000) return static_cast<uint16_t>(sign);
  const uint32_t exponent = magnitude >> 23;
  const uint32_t mantissa = (magnitude & 0x7fffff) | 0x800000;
  const uint32_t shift = 126 - exponent;
  const uint32_t kept = mantissa >> shift;
  const uint32_t rest = mantissa & ((1u << shift) - 1);
  const uint32_t half = 1u << (shift - 1);
  return static_cast<uint16_t>(sign | (kept + (rest > half || (rest == half && (kept & 1) == 1) ? 1 : 0)));
}

uint16_t to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float from_f16(uint16_t bits) {
  const int exponent = bits >> 10 & 0x1f;
  const int mantissa = bits & 0x3ff;
  const float sign = (bits & 0x8000) != 0 ? -1.0f : 1.0f;
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), -24);
  if (exponent == 31) return mantissa == 0 ? sign * INFINITY : NAN;
  return sign * std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25);
}

double stored_as(Float dtype, double value) {
  const float v = static_cast<float>(value);
  if (dtype == Float::f32 || std::isnan(v)) return static_cast<double>(v);
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  if (dtype == Float::bf16) {
    bits = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u;
    float rounded;
    std::memcpy(&rounded, &bits, 4);
    return static_cast<double>(rounded);
  }
  const float size = std::fabs(v);
  if (size >= 65520.0f) return std::copysign(std::numeric_limits<double>::infinity(), static_cast<double>(v));
  // A number so much larger that its last bit is an f16's is added and taken off.
  const uint32_t exponent = std::max(bits & 0x7fffffffu, 0x38800000u) & 0x7f800000u;
  const uint32_t far_bits = exponent + (13u << 23);
  float far;
  std::memcpy(&far, &far_bits, 4);
  const float rounded = (size + far) - far;
  return static_cast<double>(std::copysign(rounded, v));
}

}  // namespace lowbit
