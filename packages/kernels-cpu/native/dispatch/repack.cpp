#include "repack.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace lowbit {
namespace {

/// Weights that a thread takes at a time.
constexpr size_t kChunkWeights = size_t{1} << 18;

size_t code_width(const Weight& w) { return static_cast<size_t>(w.kind == Kind::grouped ? w.bits : code_bits(w.codes)); }

template <class Word>
void unpack_lane(const uint8_t* words, size_t count, int shift, unsigned mask, uint8_t* out) {
  for (size_t i = 0; i < count; ++i) {
    Word word;
    std::memcpy(&word, words + i * sizeof(Word), sizeof(Word));
    out[i] = static_cast<uint8_t>(word >> shift & mask);
  }
}

/// Four codes of consecutive inputs.
uint32_t four(const uint8_t* codes) {
  uint32_t word;
  std::memcpy(&word, codes, 4);
  return word;
}
void put(uint8_t* to, uint32_t word) { std::memcpy(to, &word, 4); }

/// One lane of a block: `codes` are `count` bytes, a multiple of the unit; four inputs are 4 bytes of each vector of 64.
void put_lane(Codes kind, uint8_t* to, const uint8_t* codes, size_t count) {
  switch (kind) {
    case Codes::c8:
      for (size_t k = 0; k < count; k += 4, to += 64) put(to, four(codes + k));
      break;
    case Codes::c2:
      for (size_t k = 0; k < count; k += 16, to += 64) {
        const uint8_t* c = codes + k;
        put(to, four(c) | four(c + 4) << 2 | four(c + 8) << 4 | four(c + 12) << 6);
      }
      break;
    case Codes::c1:
      for (size_t k = 0; k < count; k += 32, to += 64) {
        uint32_t word = 0;
        for (int i = 0; i < 8; ++i) word |= four(codes + k + 4 * i) << i;
        put(to, word);
      }
      break;
    case Codes::c3:
      for (size_t k = 0; k < count; k += 32, to += 192) {
        uint32_t low[2] = {0, 0}, high = 0;
        for (int i = 0; i < 8; ++i) {
          const uint32_t word = four(codes + k + 4 * i);
          low[i / 4] |= (word & 0x03030303u) << 2 * (i % 4);
          high |= (word >> 2 & 0x01010101u) << i;
        }
        put(to, low[0]);
        put(to + 64, low[1]);
        put(to + 128, high);
      }
      break;
    default:  // c4, table4
      for (size_t k = 0; k < count; k += 8, to += 64) put(to, four(codes + k) | four(codes + k + 4) << 4);
      break;
  }
}

}  // namespace

bool has_codes(const PackedCodes& codes, size_t count) {
  switch (codes.order) {
    case PackedCodes::Order::bytes:
      return codes.bytes >= count;
    case PackedCodes::Order::nibbles:
      return codes.bytes >= count / 2 + count % 2;
    default: {
      const bool words = codes.word_bytes == 1 || codes.word_bytes == 4;
      const bool bits = codes.bits >= 1 && codes.lanes >= 1 && codes.lanes <= 32 &&
                        static_cast<size_t>(codes.bits) * codes.lanes <= 8 * codes.word_bytes && codes.bits <= 8;
      return words && bits && codes.lane > 0 && codes.lane <= codes.bytes / codes.word_bytes && count / codes.lanes <= codes.lane &&
             count <= codes.lane * codes.lanes;
    }
  }
}

void unpack_codes(const PackedCodes& codes, size_t from, size_t count, uint8_t* out) {
  if (codes.order == PackedCodes::Order::bytes) {
    std::memcpy(out, codes.data + from, count);
    return;
  }
  if (codes.order == PackedCodes::Order::nibbles) {
    size_t i = 0;
    if (from % 2 == 1 && count > 0) out[i++] = codes.data[from / 2] & 15;
    const uint8_t* bytes = codes.data + (from + i) / 2;
    for (; i + 1 < count; i += 2, ++bytes) {
      out[i] = *bytes >> 4;
      out[i + 1] = *bytes & 15;
    }
    if (i < count) out[i] = *bytes >> 4;
    return;
  }
  const unsigned mask = (1u << codes.bits) - 1;
  while (count > 0) {
    const size_t lane = from / codes.lane;
    const size_t at = from % codes.lane;
    const size_t run = std::min(count, codes.lane - at);
    const int shift = codes.bits * static_cast<int>(codes.lanes - 1 - lane);
    const uint8_t* words = codes.data + at * codes.word_bytes;
    if (codes.word_bytes == 1) {
      unpack_lane<uint8_t>(words, run, shift, mask, out);
    } else {
      unpack_lane<uint32_t>(words, run, shift, mask, out);
    }
    from += run;
    out += run;
    count -= run;
  }
}

Repack::Repack(const Weight& weight, uint8_t* data, const PackedCodes& codes, const StoredNumbers& numbers, unsigned entries)
    : weight_(weight),
      data_(data),
      codes_(codes),
      numbers_(numbers),
      refused_(static_cast<uint8_t>(~((1u << std::min<size_t>(code_width(weight), std::bit_width(entries - 1u))) - 1u))) {
  // Whole tiles of all classes: no two threads write to one tile.
  const size_t step = weight.kind == Kind::grouped ? 1 : kTileRows * weight.classes;
  chunk_rows_ = step * std::max<size_t>(1, kChunkWeights / (step * weight.inp));
}

bool Repack::run(Pool& pool) {
  // A stage has a bound; no weight of this size comes near it but with rows of a few inputs.
  while ((weight_.out + chunk_rows_ - 1) / chunk_rows_ > pool.most_chunks()) chunk_rows_ *= 2;
  const auto work = [](const void* context, size_t chunk, int) {
    Repack& self = *static_cast<Repack*>(const_cast<void*>(context));
    const size_t from = chunk * self.chunk_rows_;
    self.rows(from, std::min(from + self.chunk_rows_, self.weight_.out));
  };
  const Stage stage{work, this, static_cast<uint32_t>((weight_.out + chunk_rows_ - 1) / chunk_rows_)};
  pool.run(&stage, 1);
  return !bad_;
}

void Repack::rows(size_t from, size_t to) {
  const Weight& w = weight_;
  // A row of tiles ends with a whole block. Filling is code 0: of signed codes, which are shifted by 128, the lowest.
  const size_t width = w.kind == Kind::grouped ? w.inp : w.blocks * w.block;
  std::vector<uint8_t> row(width, w.kind == Kind::int8 ? 0x80 : 0);
  for (size_t r = from; r < to; ++r) {
    unpack_codes(codes_, r * w.inp, w.inp, row.data());
    if (refused_ != 0) {
      uint8_t all = 0;
      for (size_t k = 0; k < w.inp; ++k) all |= row[k];
      if ((all & refused_) != 0) {
        bad_ = true;
        return;
      }
    }
    if (w.kind == Kind::int8) {
      for (uint8_t& code : row) code ^= 0x80;
    }
    put_row(r, row.data());
    if (w.kind == Kind::int8) std::fill(row.begin() + static_cast<std::ptrdiff_t>(w.inp), row.end(), uint8_t{0x80});
    if (numbers_.scale != nullptr) put_row_numbers(r);
  }
}

void Repack::put_row(size_t r, const uint8_t* codes) {
  const Weight& w = weight_;
  if (w.kind == Kind::grouped) {
    uint8_t* to = data_ + r * w.row_bytes;
    const size_t per_byte = 8 / static_cast<size_t>(w.bits);
    for (size_t k = 0; k < w.inp; ++k) {
      to[k / per_byte] = static_cast<uint8_t>(to[k / per_byte] | codes[k] << static_cast<int>(k % per_byte) * w.bits);
    }
    return;
  }
  const Place place = place_of(w, r);
  uint8_t* tile = data_ + place.tile * tile_bytes(w) + 4 * place.lane;
  for (size_t b = 0; b < w.blocks; ++b) put_lane(w.codes, tile + b * w.block_bytes, codes + b * w.block, w.block);
}

void Repack::put_row_numbers(size_t r) {
  const Weight& w = weight_;
  const Place place = place_of(w, r);
  const size_t width = w.meta == Float::f32 ? 4 : 2;
  const size_t first = r * (w.blocks / numbers_.repeat);
  uint8_t* tile = data_ + place.tile * tile_bytes(w) + w.code_bytes + place.lane * width;
  for (size_t b = 0; b < w.blocks; ++b, tile += w.block_bytes) {
    const size_t group = first + b / numbers_.repeat;
    std::memcpy(tile, numbers_.scale + group * width, width);
    if (!w.zeros) continue;
    if (numbers_.zero != nullptr) {
      std::memcpy(tile + kTileRows * width, numbers_.zero + group * width, width);
    } else {
      write_number(w.meta, tile + kTileRows * width, numbers_.zero_value);
    }
  }
}

}  // namespace lowbit
