// Kernels on the bytes whose products are largest, where sums of two in 16 bits would overflow: random weights and activations hardly ever meet them.
#include "extremes.h"

#include <cstring>
#include <vector>

#include "layout.h"
#include "select.h"

namespace lowbit {
namespace {

uint32_t seed = 7;
uint32_t next() { return (seed = seed * 1664525u + 1013904223u) >> 16; }

/// Activations of so many tokens and planes, all bytes -128 or 127; but as small as codes of two planes are.
struct Extremes {
  Extremes(const Weight& w, int tokens, int planes) : tokens(tokens), planes(planes), inputs(w.blocks * w.block), block(w.block) {
    bytes.resize(static_cast<size_t>(tokens * planes) * inputs);
    const bool small = planes == 2 && is_table(w.codes);
    for (size_t i = 0; i < bytes.size(); ++i) {
      bytes[i] = next() % 4 == 0 ? 127 : -128;
      if (small && i % 2 == 0) bytes[i] = bytes[i] > 0 ? 31 : -31;
    }
  }

  /// Those of tokens [from, from + count), as kernels take them.
  Activations part(int from, int count) {
    codes.assign(static_cast<size_t>(count * planes) * inputs / 4, 0);
    plane_sum.assign(static_cast<size_t>(count * planes) * (inputs / block), 0);
    scale.assign(plane_sum.size(), 1.0f);
    sum.assign(plane_sum.size(), 0.5f);
    int8_t* to = reinterpret_cast<int8_t*>(codes.data());
    for (size_t k = 0; k < inputs; ++k) {
      for (int m = 0; m < count; ++m) {
        for (int p = 0; p < planes; ++p) {
          const int8_t byte = bytes[(static_cast<size_t>(from + m) * inputs + k) * static_cast<size_t>(planes) + static_cast<size_t>(p)];
          to[(k / 4 * static_cast<size_t>(count * planes) + static_cast<size_t>(m * planes + p)) * 4 + k % 4] = byte;
          plane_sum[k / block * static_cast<size_t>(count * planes) + static_cast<size_t>(m * planes + p)] += byte;
        }
      }
    }
    Activations a;
    a.tokens = count;
    a.planes = planes;
    a.codes = codes.data();
    a.scale = scale.data();
    a.sum = sum.data();
    a.plane_sum = plane_sum.data();
    return a;
  }

  int tokens, planes;
  size_t inputs, block;
  std::vector<int8_t> bytes;
  std::vector<int32_t> codes, plane_sum;
  std::vector<float> scale, sum;
};

int wrong_tiles(const Kernels& kernels, const Weight& w) {
  int wrong = 0;
  for (int planes = kMinPlanes; planes <= kMaxPlanes; ++planes) {
    for (int tokens = 1; tokens <= kMaxTokens; ++tokens) {
      const auto kernel = kernels.tile[static_cast<int>(w.codes)][planes - 1][tokens - 1];
      if (kernel == nullptr) continue;
      Extremes extremes(w, tokens, planes);
      std::vector<float> out(static_cast<size_t>(tokens) * kTileRows), expected(out.size());
      const Activations all = extremes.part(0, tokens);
      kernel({&w, w.data, 0, &all, out.data()});
      for (int m = 0; m < tokens; ++m) {
        const Activations one = extremes.part(m, 1);
        scalar_kernels()->tile[static_cast<int>(w.codes)][planes - 1][0]({&w, w.data, 0, &one, expected.data() + static_cast<size_t>(m) * kTileRows});
      }
      wrong += std::memcmp(out.data(), expected.data(), out.size() * sizeof(float)) != 0;
    }
  }
  return wrong;
}

int wrong_int8(const Kernels& kernels, const Weight& w) {
  int wrong = 0;
  for (int tokens = 1; tokens <= kMaxTokens; ++tokens) {
    const auto kernel = kernels.int8[tokens - 1];
    if (kernel == nullptr) continue;
    Extremes extremes(w, tokens, 1);
    std::vector<int32_t> out(static_cast<size_t>(tokens) * kTileRows);
    const Activations all = extremes.part(0, tokens);
    kernel({&w, w.data, &all, 0, w.blocks, out.data()});
    for (int m = 0; m < tokens; ++m) {
      for (size_t row = 0; row < kTileRows; ++row) {
        int32_t sum = 0;
        for (size_t k = 0; k < extremes.inputs; ++k) {
          sum += (w.data[k / 4 * 64 + 4 * row + k % 4] - 128) * extremes.bytes[static_cast<size_t>(m) * extremes.inputs + k];
        }
        wrong += sum != out[static_cast<size_t>(m) * kTileRows + row];
      }
    }
  }
  return wrong;
}

}  // namespace

int wrong_extremes(const Kernels& kernels) {
  int wrong = 0;
  for (int c = 0; c <= kCodesCount; ++c) {
    const bool int8 = c == kCodesCount;
    Weight w;
    w.kind = int8 ? Kind::int8 : Kind::tiles;
    w.codes = int8 ? Codes::c8 : static_cast<Codes>(c);
    w.out = kTileRows;
    w.block = w.codes == Codes::c8 ? 12 : kLongestBlock;  // 12: an odd number of vectors
    w.inp = 3 * w.block;
    if (is_pairs(w.codes)) {
      w.dim = 2;
      w.meta = Float::f32;
    }
    if (plan_layout(w) != Status::ok) return 1;
    std::vector<uint8_t> data(w.data_bytes);
    // Whole bytes make codes of lower bits that are all zeros or all ones, too. A table is extreme itself.
    for (uint8_t& byte : data) byte = static_cast<uint8_t>(is_table(w.codes) ? next() : next() % 4 == 0 ? 0xff : 0);
    w.data = data.data();
    // The largest numbers that there are: of two planes 12 bits.
    const auto extreme = [](uint8_t& low, uint8_t& high, bool two) {
      const bool up = next() % 2 == 0;
      low = up ? 255 : 1;
      high = two ? (up ? 135 : 120) : up ? 255 : 0;
    };
    for (int i = 0; i < 16; ++i) {
      for (size_t length = 0; length < 2; ++length) extreme(w.numbers[length].low[i], w.numbers[length].high[i], length == 0);
    }
    std::vector<uint8_t> pairs(pair_table_bytes(w.codes));
    const size_t entries = pair_entries(w.codes);
    for (size_t i = 0; i < 4 * entries; ++i) {
      uint8_t* low = pairs.data() + i / entries * 2 * entries + i % entries;
      extreme(low[0], low[entries], i < 2 * entries);
    }
    w.pair_bytes = pairs.data();
    for (size_t row = 0; row < w.out && w.meta != Float::none; ++row) {
      for (size_t b = 0; b < w.blocks; ++b) put_numbers(w, data.data(), row, b, 1, 0);
    }
    wrong += int8 ? wrong_int8(kernels, w) : wrong_tiles(kernels, w);
  }
  return wrong;
}

}  // namespace lowbit
