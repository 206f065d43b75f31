// Quantization of activations, per block of inputs, into planes of signed bytes: one body for all instruction sets, see tiles.h.
//
// Plain loops over whole vectors of a padded block: each instruction set's compiler makes vectors of them.

constexpr size_t kMostInputs = 128;  // see layout.h: no block is longer
constexpr size_t kLanes16 = 16;

/// One block of one row.
struct QuantizedBlock {
  alignas(64) int32_t codes[kMostInputs];
  float scale;
  float sum;
};

/// Its codes as signed bytes, the upper ones first.
struct BlockPlanes {
  alignas(64) int8_t bytes[kMaxPlanes][kMostInputs];
  int32_t sum[kMaxPlanes];
};

constexpr size_t whole_vectors(size_t inputs) { return (inputs + kLanes16 - 1) / kLanes16 * kLanes16; }

/// x[i] times column[i], if there is one, for i < n, as codes up to `largest`; zeros up to `block` inputs and to whole vectors.
ALWAYS_INLINE void quantize_block(const float* x, const float* column, size_t n, size_t block, float largest, QuantizedBlock& to) {
  alignas(64) float v[kMostInputs];
  int32_t* q = to.codes;
  const size_t padded = whole_vectors(block);
  __builtin_memcpy(v, x, n * sizeof(float));
  for (size_t i = n; i < padded; ++i) v[i] = 0;
  if (column != nullptr) {
    for (size_t i = 0; i < n; ++i) v[i] *= column[i];
  }
  // As bits: NaN is above infinity, infinity above every number.
  uint32_t lanes[kLanes16] = {};
  for (size_t i = 0; i < padded; i += kLanes16) {
    for (size_t l = 0; l < kLanes16; ++l) {
      uint32_t bits;
      __builtin_memcpy(&bits, v + i + l, 4);
      bits &= 0x7fffffffu;
      lanes[l] = bits > lanes[l] ? bits : lanes[l];
    }
  }
  uint32_t most_bits = 0;
  for (size_t l = 0; l < kLanes16; ++l) most_bits = lanes[l] > most_bits ? lanes[l] : most_bits;
  float most;
  __builtin_memcpy(&most, &most_bits, 4);
  const bool finite = most_bits < 0x7f800000u;
  const bool tiny = most_bits < 0x0d800000u;  // 2^-100: its inverse times the largest code is still a float
  const float up = !finite || tiny ? 0.0f : largest / most;
  if (!finite) {
    for (size_t i = 0; i < padded; ++i) v[i] = 0;
  }
  for (size_t i = 0; i < padded; ++i) q[i] = static_cast<int32_t>(__builtin_rintf(v[i] * up));
  int32_t whole[kLanes16] = {};  // of at most 128 codes below 2^23
  for (size_t i = 0; i < padded; i += kLanes16) {
    for (size_t l = 0; l < kLanes16; ++l) whole[l] += q[i + l];
  }
  int32_t all = 0;
  for (size_t l = 0; l < kLanes16; ++l) all += whole[l];
  to.scale = !finite ? __builtin_nanf("") : tiny ? 0.0f : most / largest;
  to.sum = static_cast<float>(all) * to.scale;
}

template <int P>
ALWAYS_INLINE void split_codes(QuantizedBlock& block, size_t inputs, BlockPlanes& to) {
  int32_t* q = block.codes;
  const size_t padded = whole_vectors(inputs);
  for (int p = P - 1; p >= 0; --p) {
    int32_t plane[kLanes16] = {};
    for (size_t i = 0; i < padded; i += kLanes16) {
      for (size_t l = 0; l < kLanes16; ++l) {
        const int32_t byte = static_cast<int8_t>(q[i + l]);  // signed: the next plane gets what it lacks
        to.bytes[p][i + l] = static_cast<int8_t>(byte);
        q[i + l] = (q[i + l] - byte) >> 8;
        plane[l] += byte;
      }
    }
    int32_t total = 0;
    for (size_t l = 0; l < kLanes16; ++l) total += plane[l];
    to.sum[p] = total;
  }
}

/// For the kernels of tiles.h: codes [inputs / 4][token][plane] of four bytes.
template <int P>
void quantize_planes(const QuantizeCall& call) {
  QuantizedBlock quantized;
  BlockPlanes planes;
  const float largest = largest_code(P, call.table);
  const size_t tokens = static_cast<size_t>(call.tokens);
  const size_t step = tokens * P;
  for (size_t b = 0; b < call.blocks; ++b) {
    const size_t from = b * call.block;
    const size_t n = from >= call.inp ? 0 : call.inp - from < call.block ? call.inp - from : call.block;
    for (size_t m = 0; m < tokens; ++m) {
      quantize_block(call.x + m * call.stride + from, call.column == nullptr ? nullptr : call.column + from, n, call.block, largest, quantized);
      split_codes<P>(quantized, call.block, planes);
      call.scale[b * tokens + m] = quantized.scale;
      call.sum[b * tokens + m] = quantized.sum;
      uint8_t* to = call.codes + (b * (call.block / 4) * step + m * P) * 4;
      for (int p = 0; p < P; ++p) call.plane_sum[(b * tokens + m) * P + p] = planes.sum[p];
      for (size_t i = 0; i < call.block; i += 4, to += step * 4) {
        UNROLL for (int p = 0; p < P; ++p) __builtin_memcpy(to + p * 4, planes.bytes[p] + i, 4);
      }
    }
  }
}

/// For panels of bytes: codes [block][unit of 64 inputs][plane][token][64], padded with zeros to whole units and kPanelRows tokens.
template <int P>
void quantize_panel(const QuantizeCall& call) {
  QuantizedBlock quantized;
  BlockPlanes planes;
  const float largest = largest_code(P, call.table);
  const size_t units = (call.block + kPanelInputs - 1) / kPanelInputs;
  constexpr size_t kUnitBytes = kPanelRows * kPanelInputs;
  for (size_t b = 0; b < call.blocks; ++b) {
    const size_t from = b * call.block;
    const size_t n = from >= call.inp ? 0 : call.inp - from < call.block ? call.inp - from : call.block;
    uint8_t* block = call.codes + b * units * P * kUnitBytes;
    for (size_t m = 0; m < kPanelRows; ++m) {
      if (m >= static_cast<size_t>(call.tokens)) {
        call.scale[b * kPanelRows + m] = 0;
        call.sum[b * kPanelRows + m] = 0;
        for (int p = 0; p < P; ++p) call.plane_sum[(b * P + p) * kPanelRows + m] = 0;
        for (size_t u = 0; u < units * P; ++u) __builtin_memset(block + u * kUnitBytes + m * kPanelInputs, 0, kPanelInputs);
        continue;
      }
      quantize_block(call.x + m * call.stride + from, nullptr, n, call.block, largest, quantized);
      split_codes<P>(quantized, call.block, planes);
      call.scale[b * kPanelRows + m] = quantized.scale;
      call.sum[b * kPanelRows + m] = quantized.sum;
      for (int p = 0; p < P; ++p) {
        call.plane_sum[(b * P + p) * kPanelRows + m] = planes.sum[p];
        for (size_t u = 0; u < units; ++u) {
          uint8_t* to = block + (u * P + static_cast<size_t>(p)) * kUnitBytes + m * kPanelInputs;
          const size_t count = call.block - u * kPanelInputs < kPanelInputs ? call.block - u * kPanelInputs : kPanelInputs;
          __builtin_memcpy(to, planes.bytes[p] + u * kPanelInputs, count);
          if (count < kPanelInputs) __builtin_memset(to + count, 0, kPanelInputs - count);
        }
      }
    }
  }
}

/// For panels of words: codes [block][unit of 64 inputs][token][64], of every four inputs the first and the third, then the others; padded likewise.
[[maybe_unused]] void quantize_words(const QuantizeCall& call) {
  QuantizedBlock quantized;
  const float largest = largest_code(2, call.table);
  const size_t units = (call.block + kPanelInputs - 1) / kPanelInputs;
  for (size_t b = 0; b < call.blocks; ++b) {
    const size_t from = b * call.block;
    const size_t n = from >= call.inp ? 0 : call.inp - from < call.block ? call.inp - from : call.block;
    for (size_t m = 0; m < kPanelRows; ++m) {
      const bool there = m < static_cast<size_t>(call.tokens);
      if (there) quantize_block(call.x + m * call.stride + from, nullptr, n, call.block, largest, quantized);
      call.scale[b * kPanelRows + m] = there ? quantized.scale : 0;
      call.sum[b * kPanelRows + m] = there ? quantized.sum : 0;
      for (size_t u = 0; u < units; ++u) {
        alignas(64) int16_t words[kPanelInputs] = {};
        const size_t left = call.block - u * kPanelInputs;
        const int32_t* q = quantized.codes + u * kPanelInputs;
        for (size_t i = 0; there && i < kPanelInputs && i < left; i += 4) {
          words[i] = static_cast<int16_t>(q[i]);
          words[i + 1] = static_cast<int16_t>(q[i + 2]);
          words[i + 2] = static_cast<int16_t>(q[i + 1]);
          words[i + 3] = static_cast<int16_t>(q[i + 3]);
        }
        __builtin_memcpy(call.codes + ((b * units + u) * kPanelRows + m) * sizeof words, words, sizeof words);
      }
    }
  }
}
