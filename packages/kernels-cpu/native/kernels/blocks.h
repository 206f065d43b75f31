// Routines of @lowbit/bnb on blocks of consecutive weights, see groups.h.

/// Largest magnitude of each of `blocks` blocks of `size`, NaN if one is.
void block_absmax(const float* w, size_t blocks, size_t size, float* absmax) {
  for (size_t b = 0; b < blocks; ++b, w += size) {
    // By bits: those of NaN are above those of infinity, and these above all others.
    Ints most = Ints{};
    size_t i = 0;
    for (; i + kLanes <= size; i += kLanes) {
      const Ints bits = read_as<Ints>(w + i) & 0x7fffffff;
      most = bits > most ? bits : most;
    }
    int32_t largest = 0;
    for (int l = 0; l < kLanes; ++l) largest = most[l] > largest ? most[l] : largest;
    for (; i < size; ++i) {
      const int32_t bits = read_as<int32_t>(w + i) & 0x7fffffff;
      largest = bits > largest ? bits : largest;
    }
    if (largest > 0x7f800000) largest = 0x7fc00000;
    absmax[b] = read_as<float>(&largest);
  }
}

/// The 16 cells of a table of 4 bits: a number's cell is how many of the 15 cuts are below it.
#if defined(__AVX512F__)
struct Cells {
  Floats cuts, values, codes;

  explicit Cells(const FourBitCall& call) : values(read_as<Floats>(call.values)), codes(read_as<Floats>(call.codes)) {
    float padded[16] = {};
    __builtin_memcpy(padded, call.cuts, 15 * sizeof(float));
    cuts = read_as<Floats>(padded);
  }
  /// By halving: the cut in the middle of those that are left is looked up.
  [[gnu::always_inline]] inline void find(Floats v, Floats& value, Floats& code) const {
    const auto step = [&](__m512i cell, int width) ALWAYS_INLINE_LAMBDA {
      const __m512 cut = _mm512_permutexvar_ps(_mm512_add_epi32(cell, _mm512_set1_epi32(width - 1)), cuts);
      return _mm512_mask_add_epi32(cell, _mm512_cmp_ps_mask(v, cut, _CMP_GT_OQ), cell, _mm512_set1_epi32(width));
    };
    const __m512i cell = step(step(step(step(_mm512_setzero_si512(), 8), 4), 2), 1);
    value = _mm512_permutexvar_ps(cell, values);
    code = _mm512_permutexvar_ps(cell, codes);
  }
};
#else
struct Cells {
  Floats cuts[15], values[16], codes[16];

  explicit Cells(const FourBitCall& call) {
    for (int i = 0; i < 15; ++i) cuts[i] = all(call.cuts[i]);
    for (int i = 0; i < 16; ++i) values[i] = all(call.values[i]);
    for (int i = 0; i < 16; ++i) codes[i] = all(call.codes[i]);
  }
  [[gnu::always_inline]] inline void find(Floats v, Floats& value, Floats& code) const {
    value = values[0];
    code = codes[0];
    for (int i = 0; i < 15; ++i) {
      value = v > cuts[i] ? values[i + 1] : value;
      code = v > cuts[i] ? codes[i + 1] : code;
    }
  }
};
#endif

/// Pairs of codes of kGroupLanes blocks, the first in the high nibble, and their errors: sums of a block are doubles, pair by pair in order.
void four_bit(const FourBitCall& call) {
  Floats turned[kRun];
  const Cells cells(call);
  for (int l = 0; l < kGroupLanes; l += kLanes) {
    const Floats factor = read_as<Floats>(call.factor + l), scale = read_as<Floats>(call.scale + l);
    Doubles error_low = all(0.0), error_high = error_low, weight_low = error_low, weight_high = error_low;
    Doubles most_low = error_low, most_high = error_low;
    for (size_t from = 0; from < call.size; from += kRun) {
      const size_t n = call.size - from < kRun ? call.size - from : kRun;
      turn(call.weights + l, from, n, turned);
      for (size_t i = 0; i < n; i += 2) {
        Floats value[2], code[2];
        Wide x[2], e[2];
        UNROLL for (size_t k = 0; k < 2; ++k) {
          const Floats v = turned[i + k];
          cells.find(v * factor, value[k], code[k]);
          x[k] = widened(v);
          const Wide number = widened(value[k] * scale);
          e[k] = {magnitude(x[k].low - number.low), magnitude(x[k].high - number.high)};
        }
        write_bytes(call.pairs + (from + i) / 2 * kGroupLanes + l, code[0] * 16.0f + code[1]);
        error_low += e[0].low * e[0].low + e[1].low * e[1].low;
        error_high += e[0].high * e[0].high + e[1].high * e[1].high;
        weight_low += x[0].low * x[0].low + x[1].low * x[1].low;
        weight_high += x[0].high * x[0].high + x[1].high * x[1].high;
        most_low = larger(e[1].low, larger(e[0].low, most_low));
        most_high = larger(e[1].high, larger(e[0].high, most_high));
      }
    }
    write_to(call.squared_error + l, Wide{error_low, error_high});
    write_to(call.squared_weight + l, Wide{weight_low, weight_high});
    write_to(call.largest + l, Wide{most_low, most_high});
  }
}
