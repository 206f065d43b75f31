#include "product.h"

#include <algorithm>
#include <cstring>

#include "layout.h"

namespace lowbit {
namespace {

constexpr size_t align(size_t bytes) { return (bytes + 63) & ~size_t{63}; }
constexpr size_t divide_up(size_t a, size_t b) { return (a + b - 1) / b; }

// Of a chunk: so much of the weight stays in the second-level cache while all rows of x pass by.
constexpr size_t kChunkBytes = size_t{256} << 10;
/// Chunks per thread: enough that a slow one takes less.
constexpr size_t kChunksPerThread = 8;
/// Expanding codes to bytes pays from more rows than these on.
constexpr size_t kFewRows = 6;
/// Of the expanded codes of a chunk: with a panel of activations they stay in the second-level cache.
constexpr size_t kStripBytes = size_t{384} << 10;

/// Items of a chunk: several chunks a thread, none larger than the cache.
size_t chunk_items(size_t items, size_t item_bytes, int threads, size_t multiple) {
  const size_t even = divide_up(items, static_cast<size_t>(threads) * kChunksPerThread);
  const size_t cached = std::max<size_t>(1, kChunkBytes / std::max<size_t>(1, item_bytes));
  return std::max<size_t>(1, divide_up(std::min(even, cached), multiple)) * multiple;
}

size_t strip_bytes(const Weight& w) { return w.blocks * divide_up(w.block, kPanelInputs) * kPanelInputs * kTileRows; }

/// How a call of a kernel gets its memory.
QuantizeCall quantize_call(const float* x, size_t inp, const Weight& w, int tokens) {
  return {x, inp, tokens, w.inp, w.block, w.blocks, is_table(w.codes), nullptr, nullptr, nullptr, nullptr, nullptr};
}
template <class To>
QuantizeCall into(QuantizeCall call, const To& to) {
  call.codes = reinterpret_cast<uint8_t*>(const_cast<void*>(static_cast<const void*>(to.codes)));
  call.scale = const_cast<float*>(to.scale);
  call.sum = const_cast<float*>(to.sum);
  call.plane_sum = const_cast<int32_t*>(to.plane_sum);
  return call;
}

bool is_tiles(const Weight& w) { return w.kind == Kind::tiles || w.kind == Kind::int8; }

}  // namespace

size_t Cut::start(size_t group) const {
  if (group <= whole) return group * static_cast<size_t>(most);
  size_t at = whole * static_cast<size_t>(most);
  for (size_t i = 0; i < group - whole; ++i) at += static_cast<size_t>(rest[i]);
  return at;
}

Cut cut_rows(const Kernels& kernels, const Weight& weight, int planes, size_t rows) {
  const auto built = [&](int tokens) {
    if (weight.kind == Kind::int8) return kernels.int8[tokens - 1] != nullptr;
    return kernels.tile[static_cast<int>(weight.codes)][planes - 1][tokens - 1] != nullptr;
  };
  const auto largest = [&](int most) {
    while (most > 1 && !built(most)) --most;
    return most;
  };
  Cut cut;
  cut.most = largest(kMaxTokens);
  cut.whole = rows / static_cast<size_t>(cut.most);
  for (int left = static_cast<int>(rows % static_cast<size_t>(cut.most)); left > 0; left -= cut.rest[cut.rests - 1]) {
    cut.rest[cut.rests++] = largest(left);
  }
  return cut;
}

Activations Quantized::group(size_t index) const {
  const size_t tokens = static_cast<size_t>(cut.tokens(index));
  uint8_t* at = memory + cut.start(index) * token_bytes();
  Activations a;
  a.tokens = static_cast<int>(tokens);
  a.planes = planes;
  a.codes = reinterpret_cast<const int32_t*>(at);
  at += tokens * blocks * block * static_cast<size_t>(planes);
  a.scale = reinterpret_cast<const float*>(at);
  a.sum = a.scale + tokens * blocks;
  a.plane_sum = reinterpret_cast<const int32_t*>(a.sum + tokens * blocks);
  return a;
}

size_t Panels::code_bytes() const {
  return blocks * divide_up(block, kPanelInputs) * static_cast<size_t>(planes) * kPanelRows * kPanelInputs;
}

size_t Panels::panel_bytes() const { return align(code_bytes() + blocks * kPanelRows * 4 * (2 + static_cast<size_t>(planes))); }

Panel Panels::panel(size_t index) const {
  Panel p;
  const uint8_t* at = memory + index * panel_bytes();
  p.tokens = static_cast<int>(std::min(kPanelRows, rows - index * kPanelRows));
  p.codes = at;
  p.scale = reinterpret_cast<const float*>(at + code_bytes());
  p.sum = p.scale + blocks * kPanelRows;
  p.plane_sum = reinterpret_cast<const int32_t*>(p.sum + blocks * kPanelRows);
  return p;
}

Product::Product(const Kernels& kernels, const Weight& weight, int planes, size_t rows, int threads)
    : kernels_(kernels), weight_(weight), planes_(weight.kind == Kind::int8 ? 1 : planes), rows_(rows), threads_(threads) {
  const Weight& w = weight_;
  rounded_ = w.kind == Kind::tiles && w.round != Float::none && planes == kMaxPlanes;
  if (w.rotate != 0 || (is_pairs(w.codes) && !rounded_)) prepared_bytes_ = align(rows * w.inp * sizeof(float));
  prepared_rows_ = std::max<size_t>(1, (size_t{1} << 13) / w.inp);
  if (rounded_) {
    chunk_items_ = chunk_items(w.class_tiles, tile_bytes(w), threads, 1);
    thread_bytes_ = align(strip_inputs(w) * kTileRows * sizeof(float)) + align(rows * kTileRows * sizeof(float));
    return;
  }
  if (!is_tiles(w)) {
    chunk_items_ = chunk_items(w.out, w.inp * sizeof(float), threads, 4);
    thread_bytes_ = align(4 * w.inp * sizeof(float));
    return;
  }
  words_ = planes_ == 2 && kernels.panel_words != nullptr;
  strips_ = is_table(w.codes) && !words_ ? 2 : 1;
  const bool built = words_ || kernels.panel[strips_ - 1][planes_ - 1] != nullptr;
  const size_t few = words_ ? kernels.few_words[is_table(w.codes)] : kFewRows;
  if (w.kind == Kind::tiles && w.scale == nullptr && rows > few && built) {
    panels_ = {w.inp, w.block, w.blocks, planes_, rows, nullptr};
    const size_t bytes = strip_bytes(w) * static_cast<size_t>(words_ ? 2 : strips_);
    const size_t even = divide_up(w.class_tiles, static_cast<size_t>(threads) * kChunksPerThread);
    const size_t most = std::max<size_t>(2, std::min(even, kStripBytes / bytes));
    chunk_items_ = std::min(divide_up(w.class_tiles, 2), divide_up(most, 2)) * 2;
    thread_bytes_ = align(bytes * chunk_items_);
    return;
  }
  strips_ = 0;
  quantized_ = {w.inp, w.block, w.blocks, planes_, cut_rows(kernels, w, planes_, rows), nullptr};
  if (w.scale != nullptr && w.kind == Kind::tiles) {
    chunk_items_ = chunk_items(w.classes, w.class_tiles * tile_bytes(w), threads, 1);
    thread_bytes_ = align(static_cast<size_t>(quantized_.cut.most) * quantized_.token_bytes()) + align(w.inp * sizeof(float)) +
                    align(rows * sizeof(float));
  } else {
    chunk_items_ = chunk_items(w.class_tiles, tile_bytes(w), threads, 2);
  }
}

size_t Product::scratch_bytes() const {
  const size_t own = thread_bytes_ * static_cast<size_t>(threads_);
  if (strips_ > 0) return prepared_bytes_ + panels_.count() * panels_.panel_bytes() + own;
  return prepared_bytes_ + (is_tiles(weight_) && thread_bytes_ == 0 ? align(rows_ * quantized_.token_bytes()) : own);
}

bool Product::shares(const Product& other) const {
  // Codes of two planes are as long as a weight's numbers let them be.
  const bool alike = planes_ != 2 || is_table(weight_.codes) == is_table(other.weight_.codes);
  const auto plain = [](const Product& p) { return p.weight_.kind == Kind::tiles && p.thread_bytes_ == 0; };
  const Weight& v = other.weight_;
  if (rows_ != other.rows_ || weight_.rotate != v.rotate || weight_.features != v.features || prepared_bytes_ != other.prepared_bytes_) return false;
  // Rotated rows in the order of the inputs, at the same place.
  if (prepared_bytes_ > 0 && rounded_) return other.rounded_;
  if (is_pairs(weight_.codes) != is_pairs(v.codes)) return false;
  if (strips_ > 0 || other.strips_ > 0) {
    const Panels& a = panels_;
    const Panels& b = other.panels_;
    return strips_ > 0 && other.strips_ > 0 && a.inp == b.inp && a.block == b.block && a.planes == b.planes && alike;
  }
  const Quantized& a = quantized_;
  const Quantized& b = other.quantized_;
  return plain(*this) && plain(other) && rows_ == other.rows_ && a.inp == b.inp && a.block == b.block && a.planes == b.planes && alike &&
         a.cut.most == b.cut.most && a.cut.rests == b.cut.rests && std::equal(a.cut.rest, a.cut.rest + a.cut.rests, b.cut.rest);
}

void Product::stages(const float* x, float* out, uint8_t* scratch, std::vector<Stage>& to, bool quantized) {
  x_ = x;
  out_ = out;
  scratch_ = scratch;
  const auto add = [&](auto run, size_t chunks) { to.push_back({run, this, static_cast<uint32_t>(chunks)}); };
  const Weight& w = weight_;
  if (prepared_bytes_ > 0) {
    given_ = x;
    x_ = reinterpret_cast<const float*>(scratch);
    scratch_ = scratch += prepared_bytes_;
    // Where rows are quantized, that stage prepares them.
    const auto run = [](const void* p, size_t chunk, int) {
      const Product& self = *static_cast<const Product*>(p);
      self.prepare_rows(chunk * self.prepared_rows_, std::min(self.rows_, (chunk + 1) * self.prepared_rows_));
    };
    if (!quantized && thread_bytes_ > 0 && strips_ == 0) add(run, divide_up(rows_, prepared_rows_));
  }
  if (rounded_) {
    add([](const void* p, size_t chunk, int thread) { static_cast<const Product*>(p)->multiply_rounded(chunk, thread); },
        divide_up(w.class_tiles, chunk_items_));
    return;
  }
  if (!is_tiles(w)) {
    add([](const void* p, size_t chunk, int thread) { static_cast<const Product*>(p)->multiply_rows(chunk, thread); },
        divide_up(w.out, chunk_items_));
    return;
  }
  if (strips_ > 0) {
    panels_.memory = scratch;
    scratch_ = scratch + panels_.count() * panels_.panel_bytes();
    if (!quantized) {
      add([](const void* p, size_t panel, int) { static_cast<const Product*>(p)->quantize_panel(panel); }, panels_.count());
    }
    add([](const void* p, size_t chunk, int thread) { static_cast<const Product*>(p)->multiply_panels(chunk, thread); },
        divide_up(w.class_tiles, chunk_items_));
    return;
  }
  if (thread_bytes_ > 0) {
    add([](const void* p, size_t chunk, int thread) { static_cast<const Product*>(p)->multiply_classes(chunk, thread); },
        divide_up(w.classes, chunk_items_));
    return;
  }
  quantized_.memory = scratch;
  const size_t chunks = divide_up(w.class_tiles, chunk_items_);
  if (w.kind == Kind::int8) {
    // The one stage that writes this object: nothing else runs beside it.
    add([](const void* p, size_t, int) { const_cast<Product*>(static_cast<const Product*>(p))->find_outliers(); }, 1);
    add([](const void* p, size_t group, int) { static_cast<const Product*>(p)->quantize_int8(group); }, quantized_.cut.groups());
    add([](const void* p, size_t chunk, int) { static_cast<const Product*>(p)->multiply_int8(chunk); }, chunks);
    return;
  }
  if (!quantized) {
    add([](const void* p, size_t group, int) { static_cast<const Product*>(p)->quantize(group); }, quantized_.cut.groups());
  }
  add([](const void* p, size_t chunk, int) { static_cast<const Product*>(p)->multiply_tiles(chunk); }, chunks);
}

void Product::quantize(size_t group) const {
  const Activations a = quantized_.group(group);
  const size_t first = quantized_.cut.start(group);
  if (prepared_bytes_ > 0) prepare_rows(first, first + static_cast<size_t>(a.tokens));
  kernels_.quantize[planes_ - 1](into(quantize_call(x_ + first * weight_.inp, weight_.inp, weight_, a.tokens), a));
}

void Product::quantize_panel(size_t index) const {
  const Panel p = panels_.panel(index);
  if (prepared_bytes_ > 0) prepare_rows(index * kPanelRows, index * kPanelRows + static_cast<size_t>(p.tokens));
  const float* x = x_ + index * kPanelRows * weight_.inp;
  const auto quantize = words_ ? kernels_.quantize_words : kernels_.quantize_panel[planes_ - 1];
  quantize(into(quantize_call(x, weight_.inp, weight_, p.tokens), p));
}

/// Many rows: the codes of a few tiles are expanded to bytes once, and stay in the cache while all panels pass by.
void Product::multiply_panels(size_t chunk, int thread) const {
  const Weight& w = weight_;
  const size_t from = chunk * chunk_items_;
  const size_t tiles = std::min(w.class_tiles, from + chunk_items_) - from;
  const size_t stride = tile_bytes(w);
  const size_t bytes = strip_bytes(w) * (words_ ? 2 : 1);
  uint8_t* strips = scratch_ + static_cast<size_t>(thread) * thread_bytes_;
  const int codes = static_cast<int>(w.codes);
  const auto widen = kernels_.widen_codes[codes];
  for (size_t i = 0; i < tiles; ++i) {
    const uint8_t* tile = w.data + (from + i) * stride;
    if (words_) {
      kernels_.widen_words[codes](w, tile, strips + i * bytes);
    } else if (strips_ == 2) {
      widen(w, tile, Part::low, planes_, strips + 2 * i * bytes);
      widen(w, tile, Part::high, planes_, strips + (2 * i + 1) * bytes);
    } else {
      widen(w, tile, Part::codes, planes_, strips + i * bytes);
    }
  }
  const auto multiply = words_ ? kernels_.panel_words : kernels_.panel[strips_ - 1][planes_ - 1];
  const size_t step = strips_ == 2 ? 1 : 2;
  alignas(64) float sums[2 * kPanelRows * kTileRows];
  for (size_t index = 0; index < panels_.count(); ++index) {
    const Panel panel = panels_.panel(index);
    for (size_t i = 0; i < tiles; i += step) {
      const bool two = step == 2 && i + 1 < tiles;
      // One tile of a pair: its strip serves twice, what comes of the second is dropped.
      multiply({&w, w.data + (from + i) * stride, two ? stride : 0, strips + i * static_cast<size_t>(strips_) * bytes,
                two || strips_ == 2 ? bytes : 0, &panel, sums});
      finish_tile(from + i, index * kPanelRows, panel.tokens, sums, nullptr);
      if (two) finish_tile(from + i + 1, index * kPanelRows, panel.tokens, sums + kPanelRows * kTileRows, nullptr);
    }
  }
}

/// Sums [token][16] of a tile to rows `token` and following of out, with table factor, offsets [token] and bias.
void Product::finish_tile(size_t tile, size_t token, int tokens, const float* sums, const float* offsets) const {
  const Weight& w = weight_;
  const size_t of_class = tile / w.class_tiles;
  const size_t first = tile % w.class_tiles * kTileRows;
  const size_t rows = std::min(kTileRows, w.out / w.classes - first);
  const float factor = is_table(w.codes) ? numbers_of(w, planes_).factor : 1.0f;
  for (int m = 0; m < tokens; ++m, sums += kTileRows) {
    float* out = out_ + (token + static_cast<size_t>(m)) * w.out;
    if (w.classes == 1 && rows == kTileRows && offsets == nullptr) {
      float y[kTileRows];
      for (size_t lane = 0; lane < kTileRows; ++lane) y[lane] = sums[lane] * factor;
      if (w.bias != nullptr) {
        for (size_t lane = 0; lane < kTileRows; ++lane) y[lane] += w.bias[first + lane];
      }
      std::memcpy(out + first, y, sizeof(y));
      continue;
    }
    for (size_t lane = 0; lane < rows; ++lane) {
      const size_t row = (first + lane) * w.classes + of_class;
      float y = sums[lane] * factor;
      if (offsets != nullptr) y -= offsets[m];
      if (w.bias != nullptr) y += w.bias[row];
      out[row] = y;
    }
  }
}

void Product::multiply_tiles(size_t chunk) const {
  const Weight& w = weight_;
  const size_t from = chunk * chunk_items_;
  const size_t to = std::min(w.class_tiles, from + chunk_items_);
  const size_t stride = tile_bytes(w);
  const int codes = static_cast<int>(w.codes);
  alignas(64) float sums[2 * kMaxTokens * kTileRows];
  for (size_t group = 0; group < quantized_.cut.groups(); ++group) {
    const Activations a = quantized_.group(group);
    const auto pair = a.tokens == 1 ? kernels_.pair[codes][planes_ - 1] : nullptr;
    const size_t token = quantized_.cut.start(group);
    for (size_t tile = from; tile < to;) {
      const TileCall call{&w, w.data + tile * stride, stride, &a, sums};
      if (pair != nullptr && tile + 2 <= to) {
        pair(call);
        finish_tile(tile, token, a.tokens, sums, nullptr);
        finish_tile(tile + 1, token, a.tokens, sums + kTileRows, nullptr);
        tile += 2;
      } else {
        kernels_.tile[codes][planes_ - 1][a.tokens - 1](call);
        finish_tile(tile, token, a.tokens, sums, nullptr);
        ++tile;
      }
    }
  }
}

/// Axis 0: the rows of a class share their scales, so these go to the activations, once for all rows of the class.
void Product::multiply_classes(size_t chunk, int thread) const {
  const Weight& w = weight_;
  const size_t stride = tile_bytes(w);
  uint8_t* scratch = scratch_ + static_cast<size_t>(thread) * thread_bytes_;
  Quantized own = quantized_;
  own.memory = scratch;
  float* shift = reinterpret_cast<float*>(scratch + align(static_cast<size_t>(own.cut.most) * own.token_bytes()));
  float* offsets = reinterpret_cast<float*>(reinterpret_cast<uint8_t*>(shift) + align(w.inp * sizeof(float)));
  alignas(64) float sums[kMaxTokens * kTileRows];
  const size_t to = std::min(w.classes, (chunk + 1) * chunk_items_);
  for (size_t c = chunk * chunk_items_; c < to; ++c) {
    const float* scale = w.scale + c * w.inp;
    const float* zero = w.zero + c * w.inp;
    for (size_t k = 0; k < w.inp; ++k) shift[k] = scale[k] * zero[k];
    kernels_.dot_plain(shift, w.inp, x_, w.inp, rows_, offsets);
    for (size_t group = 0; group < quantized_.cut.groups(); ++group) {
      const size_t token = quantized_.cut.start(group);
      own.cut = Cut{1, quantized_.cut.tokens(group), {}, 0};
      const Activations a = own.group(0);
      QuantizeCall call = into(quantize_call(x_ + token * w.inp, w.inp, w, a.tokens), a);
      call.column = scale;
      kernels_.quantize[planes_ - 1](call);
      for (size_t i = 0; i < w.class_tiles; ++i) {
        const size_t tile = c * w.class_tiles + i;
        kernels_.tile[static_cast<int>(w.codes)][planes_ - 1][a.tokens - 1]({&w, w.data + tile * stride, stride, &a, sums});
        finish_tile(tile, token, a.tokens, sums, offsets + token);
      }
    }
  }
}

void Product::multiply_rows(size_t chunk, int thread) const {
  const Weight& w = weight_;
  float* wide = reinterpret_cast<float*>(scratch_ + static_cast<size_t>(thread) * thread_bytes_);
  const size_t to = std::min(w.out, (chunk + 1) * chunk_items_);
  for (size_t row = chunk * chunk_items_; row < to; row += 4) {
    const size_t count = std::min<size_t>(4, to - row);
    // Few rows of x: as stored, so that no more than the weight's own bytes are read. Many: widened once for all of them.
    const bool stored = w.kind == Kind::dense && (w.dtype == Float::f32 || rows_ <= kFewRows);
    if (!stored) {
      for (size_t i = 0; i < count; ++i) fill_stored_row(kernels_, w, row + i, wide + i * w.inp);
    }
    const uint8_t* from = stored ? w.data + row * w.row_bytes : reinterpret_cast<const uint8_t*>(wide);
    kernels_.dot(from, stored ? w.dtype : Float::f32, count, w.inp, x_, w.inp, rows_, out_ + row, w.out);
    if (w.bias == nullptr) continue;
    for (size_t t = 0; t < rows_; ++t) {
      for (size_t i = 0; i < count; ++i) out_[t * w.out + row + i] += w.bias[row + i];
    }
  }
}

}  // namespace lowbit
