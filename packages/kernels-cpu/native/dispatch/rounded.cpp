// Rotated rows of x, and products with the weights of HIGGS's kernels: table times scale, rounded to 16 bits. That rounding is no sum that integers could
// share, so a tile's weights are made in f32, a strip of inputs at a time, and multiplied with all rows of x while the strip is in the cache.
#include <algorithm>

#include "layout.h"
#include "product.h"

namespace lowbit {

void Product::prepare_rows(size_t from, size_t to) const {
  const Weight& w = weight_;
  float* prepared = const_cast<float*>(x_);  // this product's scratch
  for (size_t row = from; row < to; ++row) {
    kernels_.rotate(given_ + row * w.features, w.features, w.inp, w.rotate, is_pairs(w.codes) && !rounded_, prepared + row * w.inp);
  }
}

void Product::multiply_rounded(size_t chunk, int thread) const {
  const Weight& w = weight_;
  const size_t inputs = strip_inputs(w);
  float* strip = reinterpret_cast<float*>(scratch_ + static_cast<size_t>(thread) * thread_bytes_);
  float* sums = strip + inputs * kTileRows;
  const auto expand = kernels_.expand[static_cast<int>(w.codes)];
  const size_t end = std::min(w.class_tiles, (chunk + 1) * chunk_items_);
  for (size_t tile = chunk * chunk_items_; tile < end; ++tile) {
    const uint8_t* data = w.data + tile * tile_bytes(w);
    std::fill(sums, sums + rows_ * kTileRows, 0.0f);
    for (size_t k = 0; k < w.blocks * w.block; k += inputs) {
      const size_t n = std::min(inputs, w.blocks * w.block - k);
      expand(w, data, k / w.block, (k + n) / w.block, strip);
      for (size_t row = 0; row < rows_;) {
        size_t tokens = std::min<size_t>(kMaxTokens, rows_ - row);
        while (kernels_.strip[tokens - 1] == nullptr) --tokens;
        kernels_.strip[tokens - 1](strip, n, x_ + row * w.inp + k, w.inp, sums + row * kTileRows);
        row += tokens;
      }
    }
    const size_t first = tile * kTileRows;
    const size_t lanes = std::min(kTileRows, w.out - first);
    for (size_t row = 0; row < rows_; ++row) {
      for (size_t i = 0; i < lanes; ++i) {
        const float y = sums[row * kTileRows + i];
        out_[row * w.out + first + i] = w.bias == nullptr ? y : y + w.bias[first + i];
      }
    }
  }
}

}  // namespace lowbit
