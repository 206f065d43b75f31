// A product of rows with a weight, as stages of a pool.
//
// Results depend on the weight, the row and the number of planes alone: not on threads or chunks, and with equal planes not on the rows beside it
// (LLM.int8 excepted, whose rows share their outliers). Of tiles and int8 they do not depend on the instruction set either; dense and grouped rows are
// multiplied with fused operations where there are some.
#pragma once

#include <vector>

#include "lowbit_cpu.h"
#include "pool.h"

namespace lowbit {

/// How rows are cut into calls of a kernel: as many as possible of `most`, the rest in what there is.
struct Cut {
  size_t whole = 0;  // groups of `most`
  int most = 1;
  int rest[8] = {};
  int rests = 0;

  size_t groups() const { return whole + static_cast<size_t>(rests); }
  size_t start(size_t group) const;
  int tokens(size_t group) const { return group < whole ? most : rest[group - whole]; }
};

Cut cut_rows(const Kernels& kernels, const Weight& weight, int planes, size_t rows);

/// Rows quantized for the kernels, group after group, in memory of the caller's.
struct Quantized {
  size_t inp, block, blocks;
  int planes;
  Cut cut;
  uint8_t* memory;

  size_t token_bytes() const { return blocks * (block * static_cast<size_t>(planes) + 4 * (2 + static_cast<size_t>(planes))); }
  Activations group(size_t index) const;
};

/// The same for panels of kPanelRows rows, see lowbit_cpu.h.
struct Panels {
  size_t inp, block, blocks;
  int planes;
  size_t rows;
  uint8_t* memory;

  size_t count() const { return (rows + kPanelRows - 1) / kPanelRows; }
  size_t code_bytes() const;
  size_t panel_bytes() const;
  Panel panel(size_t index) const;
};

/// One product: `out` [rows, weight.out] = x [rows, weight.features] W^T + bias. Everything it needs while it runs.
class Product {
 public:
  /// planes: 2 or 3, of tiles; other kinds have their own arithmetic.
  Product(const Kernels& kernels, const Weight& weight, int planes, size_t rows, int threads);

  /// Bytes of 64-byte aligned scratch that `stages` needs.
  size_t scratch_bytes() const;
  /// Appends what is to be done. This object, x, out and scratch stay where they are until it has run.
  /// `quantized`: the scratch holds the rows of x already, from a product that `shares` them.
  void stages(const float* x, float* out, uint8_t* scratch, std::vector<Stage>& to, bool quantized = false);
  /// Of scratch, for each thread; products that run side by side in one scratch are given the same, the largest of theirs.
  size_t thread_bytes() const { return thread_bytes_; }
  void set_thread_bytes(size_t bytes) { thread_bytes_ = bytes; }
  /// Whether the quantized (or rotated) rows of another product with the same x and scratch, run just before, serve this one.
  bool shares(const Product& other) const;
  /// int8, after a run: columns computed in floating point.
  size_t outlier_columns() const { return outliers_.size(); }

  /// Threshold of LLM.int8; 0: no outliers.
  float threshold = 0;

 private:
  void prepare_rows(size_t from, size_t to) const;
  void quantize(size_t group) const;
  void multiply_tiles(size_t chunk) const;
  void quantize_panel(size_t index) const;
  void multiply_panels(size_t chunk, int thread) const;
  void multiply_classes(size_t chunk, int thread) const;
  void multiply_rows(size_t chunk, int thread) const;
  void multiply_rounded(size_t chunk, int thread) const;
  void find_outliers();
  void quantize_int8(size_t group) const;
  void multiply_int8(size_t chunk) const;
  void finish_tile(size_t tile, size_t token, int tokens, const float* sums, const float* offsets) const;

  const Kernels& kernels_;
  const Weight& weight_;
  int planes_;
  size_t rows_;
  int threads_;
  Quantized quantized_{};
  Panels panels_{};  // in place of quantized_, if strips_ is not 0
  int strips_ = 0;      // of a tile
  bool words_ = false;  // strips and panels are of 16-bit words
  size_t chunk_items_ = 1;  // tiles, classes or rows of a chunk
  const float* x_ = nullptr;
  bool rounded_ = false;        // by the codec's rounded products, in f32: see rounded.cpp
  size_t prepared_bytes_ = 0;   // of rows of x filled up, rotated or in another order, at the start of the scratch
  size_t prepared_rows_ = 0;    // of a chunk
  const float* given_ = nullptr;
  float* out_ = nullptr;
  uint8_t* scratch_ = nullptr;  // after the quantized rows
  size_t thread_bytes_ = 0;
  // int8
  std::vector<uint8_t> is_outlier_;
  std::vector<uint32_t> outliers_;
  std::vector<float> row_scale_;
};

}  // namespace lowbit
