// LLM.int8: outliers in float, all other columns in bytes.
#include <algorithm>
#include <cmath>

#include "layout.h"
#include "product.h"

namespace lowbit {

/// Columns in which some row, rounded to f16, reaches the threshold; and the largest magnitude of each row outside its own outliers.
void Product::find_outliers() {
  const size_t inp = weight_.inp;
  is_outlier_.assign(inp, 0);
  row_scale_.assign(rows_, 0);
  for (size_t row = 0; row < rows_; ++row) {
    float largest = 0;
    bool nan = false;
    for (size_t k = 0; k < inp; ++k) {
      const float magnitude = std::fabs(from_f16(to_f16(x_[row * inp + k])));
      if (threshold > 0 && magnitude >= threshold) {
        is_outlier_[k] = 1;
      } else if (magnitude > largest) {
        largest = magnitude;
      } else if (std::isnan(magnitude)) {
        nan = true;
      }
    }
    row_scale_[row] = nan ? NAN : largest;
  }
  outliers_.clear();
  for (size_t k = 0; k < inp; ++k) {
    if (is_outlier_[k] != 0) outliers_.push_back(static_cast<uint32_t>(k));
  }
}

void Product::quantize_int8(size_t group) const {
  const Activations a = quantized_.group(group);
  const size_t tokens = static_cast<size_t>(a.tokens);
  uint8_t* codes = reinterpret_cast<uint8_t*>(const_cast<int32_t*>(a.codes));
  int32_t* sums = const_cast<int32_t*>(a.plane_sum);
  for (size_t m = 0; m < tokens; ++m) {
    const size_t row = quantized_.cut.start(group) + m;
    const float* x = x_ + row * weight_.inp;
    const float largest = row_scale_[row];
    const float inverse = 1.0f / largest;
    const float s = inverse * 127.0f;
    for (size_t b = 0; b < weight_.blocks; ++b) {
      int32_t sum = 0;
      for (size_t i = 0; i < weight_.block; ++i) {
        const size_t k = b * weight_.block + i;
        int8_t code = 0;
        if (largest > 0 && k < weight_.inp && is_outlier_[k] == 0) {
          const float scaled = from_f16(to_f16(x[k])) * s;
          if (std::isfinite(scaled)) code = static_cast<int8_t>(std::nearbyint(scaled));
        }
        sum += code;
        codes[(k / 4 * tokens + m) * 4 + k % 4] = static_cast<uint8_t>(code);
      }
      sums[b * tokens + m] = sum;
    }
  }
}

void Product::multiply_int8(size_t chunk) const {
  const Weight& w = weight_;
  const size_t stride = tile_bytes(w);
  const size_t to = std::min(w.class_tiles, (chunk + 1) * chunk_items_);
  // A sum of so many products of 127 * 127 fits an int32.
  const size_t span = std::max<size_t>(1, (size_t{1} << 17) / w.block);
  alignas(64) int32_t part[kMaxTokens * kTileRows];
  int64_t sums[kMaxTokens * kTileRows];
  for (size_t group = 0; group < quantized_.cut.groups(); ++group) {
    const Activations a = quantized_.group(group);
    const size_t token = quantized_.cut.start(group);
    const size_t count = static_cast<size_t>(a.tokens) * kTileRows;
    for (size_t tile = chunk * chunk_items_; tile < to; ++tile) {
      const uint8_t* data = w.data + tile * stride;
      std::fill(sums, sums + count, 0);
      for (size_t from = 0; from < w.blocks; from += span) {
        kernels_.int8[a.tokens - 1]({&w, data, &a, from, std::min(w.blocks, from + span), part});
        for (size_t i = 0; i < count; ++i) sums[i] += part[i];
      }
      for (size_t lane = 0; lane < kTileRows && tile * kTileRows + lane < w.out; ++lane) {
        const size_t row = tile * kTileRows + lane;
        const float scale = w.scale[row];
        for (size_t m = 0; m < static_cast<size_t>(a.tokens); ++m) {
          const float* x = x_ + (token + m) * w.inp;
          double y = static_cast<double>(sums[m * kTileRows + lane]) * row_scale_[token + m] * scale / 16129;
          for (const uint32_t k : outliers_) {
            const int q = data[k / w.block * w.block_bytes + k % w.block / 4 * 64 + 4 * lane + k % 4] - 128;
            const float wide = static_cast<float>(q) * scale * (1.0f / 127.0f);
            y += static_cast<double>(x[k]) * wide;
          }
          out_[(token + m) * w.out + row] = static_cast<float>(w.bias != nullptr ? y + w.bias[row] : y);
        }
      }
    }
  }
}

}  // namespace lowbit
