// Products of many rows at once: codes are expanded to bytes once for all rows, then multiplied with panels of 16 rows. See tiles.h for the arithmetic,
// which is the same here, number by number.

/// A strip has room for whole units of a block; inputs beyond it are zeros.
constexpr size_t unit_count(size_t block) { return (block + kPanelInputs - 1) / kPanelInputs; }
constexpr size_t kUnitBytes = kPanelRows * kPanelInputs;

/// Writes the bytes of a tile's codes, or those that `table` has for them.
template <Codes C, bool TABLE>
ALWAYS_INLINE void widen_blocks(const Weight& w, const uint8_t* tile, const uint8_t* table, uint8_t* strip) {
  using U = Unit<C>;
  const size_t units = w.code_bytes / U::kBytes;
  const size_t padding = unit_count(w.block) * kUnitBytes - w.block * kTileRows;
  V::Table numbers{};
  if constexpr (TABLE) numbers = V::load_table(table);
  for (size_t b = 0; b < w.blocks; ++b, tile += w.block_bytes) {
    const uint8_t* q = tile;
    for (size_t u = 0; u < units; ++u, q += U::kBytes) {
      each<U::kVectors>([&](auto index) ALWAYS_INLINE_LAMBDA {
        V::Bytes codes = U::template get<decltype(index)::value>(q);
        if constexpr (TABLE) codes = V::look_up(numbers, codes);
        V::store_bytes(strip, codes);
        strip += 64;
      });
    }
    __builtin_memset(strip, 0, padding);
    strip += padding;
  }
}

/// The same for pairs: the weights of even inputs of eight, then those of odd ones.
template <Codes C>
ALWAYS_INLINE void widen_pairs(const Weight& w, const uint8_t* tile, const uint8_t* first, const uint8_t* second, uint8_t* strip) {
  using U = Unit<C>;
  const size_t units = w.code_bytes / U::kBytes;
  const size_t padding = unit_count(w.block) * kUnitBytes - w.block * kTileRows;
  ByteTable<C> evens, odds;
  ByteTable<C>::load(evens, first);
  ByteTable<C>::load(odds, second);
  for (size_t b = 0; b < w.blocks; ++b, tile += w.block_bytes) {
    const uint8_t* q = tile;
    for (size_t u = 0; u < units; ++u, q += U::kBytes) {
      each<U::kVectors>([&](auto index) ALWAYS_INLINE_LAMBDA {
        const V::Bytes codes = U::template get<decltype(index)::value>(q);
        V::store_bytes(strip, ByteTable<C>::look_up(evens, codes));
        V::store_bytes(strip + 64, ByteTable<C>::look_up(odds, codes));
        strip += 128;
      });
    }
    __builtin_memset(strip, 0, padding);
    strip += padding;
  }
}

template <Codes C>
void widen_codes(const Weight& w, const uint8_t* tile, Part part, int planes, uint8_t* strip) {
  if constexpr (is_pairs(C)) {
    constexpr size_t kEntries = pair_entries(C);
    const uint8_t* first = pair_numbers(w, planes) + (part == Part::low ? 0 : kEntries);
    widen_pairs<C>(w, tile, first, first + 2 * kEntries, strip);
  } else if constexpr (C == Codes::table4) {
    const Integers& numbers = numbers_of(w, planes);
    widen_blocks<C, true>(w, tile, part == Part::low ? numbers.low : numbers.high, strip);
  } else {
    widen_blocks<C, false>(w, tile, nullptr, strip);
  }
}

/// Two strips, P planes: of two tiles (B = 1), or the low and high bytes of one tile's numbers (B = 2). ZEROS: the tiles have zeros.
template <int B, int P, bool ZEROS>
ALWAYS_INLINE void strip_products(const PanelCall& call) {
  constexpr int T = B == 1 ? 2 : 1;
  constexpr int M = 4;
  const Weight& w = *call.weight;
  const Panel& x = *call.x;
  const size_t block = w.block, blocks = w.blocks, block_bytes = w.block_bytes, units = unit_count(block), second = call.strip_bytes;
  const Float dtype = w.meta;
  const size_t meta = meta_bytes(dtype);
  const int32_t held = is_table(w.codes) ? -128 : 0;  // what table numbers have too much
  for (int first = 0; first < x.tokens; first += M) {
    V::Floats f[T][M];
    UNROLL for (int t = 0; t < T; ++t) UNROLL for (int m = 0; m < M; ++m) f[t][m] = V::set(0.0f);
    const uint8_t* a = x.codes + static_cast<size_t>(first) * kPanelInputs;
    const uint8_t* strip = call.strips;
    const uint8_t* numbers = call.tile + w.code_bytes;
    const float* row_scale = x.scale + first;
    const float* row_sum = x.sum + first;
    const int32_t* plane_sum = x.plane_sum + first;
    for (size_t b = 0; b < blocks; ++b) {
      V::Ints sums[2][M][P];
      UNROLL for (int m = 0; m < M; ++m) UNROLL for (int p = 0; p < P; ++p) {
        const int32_t sum = plane_sum[static_cast<size_t>(p) * kPanelRows + m];
        const V::Ints start = V::integers((held + kShift) * sum);
        sums[0][m][p] = B == 1 ? start : V::integers(kShift * sum);
        sums[1][m][p] = start;
      }
      for (size_t u = 0; u < units; ++u, a += P * kUnitBytes, strip += kUnitBytes) {
        const size_t left = block - u * kPanelInputs;
        const size_t inputs = left < kPanelInputs ? left : kPanelInputs;
        for (size_t k = 0; k < inputs; k += 4) {
          const V::Bytes one = shifted<true>(V::load(strip + 16 * k)), two = shifted<true>(V::load(strip + second + 16 * k));
          UNROLL for (int m = 0; m < M; ++m) UNROLL for (int p = 0; p < P; ++p) {
            int32_t four;
            __builtin_memcpy(&four, a + p * kUnitBytes + m * kPanelInputs + k, 4);
            sums[0][m][p] = add_dot<true>(sums[0][m][p], one, four);
            sums[1][m][p] = add_dot<true>(sums[1][m][p], two, four);
          }
        }
      }
      UNROLL for (int t = 0; t < T; ++t) {
        const uint8_t* own = numbers + t * call.stride;
        const V::Floats scale = dtype == Float::none ? V::set(1.0f) : load_meta(own, dtype);
        V::Floats shift = V::set(0.0f);
        if constexpr (ZEROS) shift = V::mul(V::sub(shift, load_meta(own + meta, dtype)), scale);
        UNROLL for (int m = 0; m < M; ++m) {
          V::Ints planes[P];
          UNROLL for (int p = 0; p < P; ++p) planes[p] = B == 1 ? sums[t][m][p] : V::add(V::left8(sums[1][m][p]), sums[0][m][p]);
          const V::Floats y = V::mul(join<P, B == 1>(planes), V::set(row_scale[m]));
          f[t][m] = V::fused(y, scale, f[t][m]);
          if constexpr (ZEROS) f[t][m] = V::fused(shift, V::set(row_sum[m]), f[t][m]);
        }
      }
      numbers += block_bytes;
      row_scale += kPanelRows;
      row_sum += kPanelRows;
      plane_sum += P * kPanelRows;
    }
    UNROLL for (int t = 0; t < T; ++t) UNROLL for (int m = 0; m < M; ++m) {
      V::store(call.out + (t * kPanelRows + static_cast<size_t>(first) + m) * 16, f[t][m]);
    }
  }
}

template <int B, int P>
void panel_product(const PanelCall& call) {
  if (call.weight->zeros) {
    strip_products<B, P, true>(call);
  } else {
    strip_products<B, P, false>(call);
  }
}

/// Bytes of a unit of words.
constexpr size_t kWordUnitBytes = 2 * kUnitBytes;

/// The words of bytes 0 and 2, then of 1 and 3, of every four; both are 256 high + low.
ALWAYS_INLINE void store_words(uint8_t* strip, V::Bytes low, V::Bytes high) {
  V::store_bytes(strip, V::either(V::right<8>(V::left<8>(low)), V::left<8>(high)));
  V::store_bytes(strip + 64, V::either(V::right<8>(low), V::left<8>(V::right<8>(high))));
}
ALWAYS_INLINE void store_words(uint8_t* strip, V::Bytes low) {
  V::store_bytes(strip, V::right<8>(V::left<8>(low)));
  V::store_bytes(strip + 64, V::right<8>(low));
}

/// Upper bytes of numbers as they are: held with 128 added.
template <size_t N>
struct Signed {
  alignas(64) uint8_t bytes[N];
  explicit Signed(const uint8_t* held) {
    for (size_t i = 0; i < N; ++i) bytes[i] = held[i] ^ 0x80;
  }
};

/// Writes a tile's codes, or the numbers that the table has for them, as words.
template <Codes C>
void widen_words(const Weight& w, const uint8_t* tile, uint8_t* strip) {
  using U = Unit<C>;
  constexpr size_t kEntries = pair_entries(C);
  const size_t units = w.code_bytes / U::kBytes;
  const size_t padding = unit_count(w.block) * kWordUnitBytes - w.block * kTileRows * 2;
  const auto each_codes = [&](auto&& write) ALWAYS_INLINE_LAMBDA {
    for (size_t b = 0; b < w.blocks; ++b, tile += w.block_bytes) {
      const uint8_t* q = tile;
      for (size_t u = 0; u < units; ++u, q += U::kBytes) {
        each<U::kVectors>([&](auto index) ALWAYS_INLINE_LAMBDA { write(U::template get<decltype(index)::value>(q)); });
      }
      __builtin_memset(strip, 0, padding);
      strip += padding;
    }
  };
  if constexpr (is_pairs(C)) {
    const uint8_t* held = pair_numbers(w, 2);
    const Signed<kEntries> upper_first(held + kEntries), upper_second(held + 3 * kEntries);
    ByteTable<C> first[2], second[2];
    ByteTable<C>::load(first[0], held);
    ByteTable<C>::load(first[1], upper_first.bytes);
    ByteTable<C>::load(second[0], held + 2 * kEntries);
    ByteTable<C>::load(second[1], upper_second.bytes);
    each_codes([&](V::Bytes codes) ALWAYS_INLINE_LAMBDA {
      store_words(strip, ByteTable<C>::look_up(first[0], codes), ByteTable<C>::look_up(first[1], codes));
      store_words(strip + 128, ByteTable<C>::look_up(second[0], codes), ByteTable<C>::look_up(second[1], codes));
      strip += 256;
    });
  } else if constexpr (C == Codes::table4) {
    const Integers& numbers = numbers_of(w, 2);
    const Signed<16> upper(numbers.high);
    const V::Table low = V::load_table(numbers.low), high = V::load_table(upper.bytes);
    each_codes([&](V::Bytes codes) ALWAYS_INLINE_LAMBDA {
      store_words(strip, V::look_up(low, codes), V::look_up(high, codes));
      strip += 128;
    });
  } else {
    each_codes([&](V::Bytes codes) ALWAYS_INLINE_LAMBDA {
      store_words(strip, codes);
      strip += 128;
    });
  }
}

/// Two tiles, activations of two planes as words: the sums of both planes at once.
template <bool ZEROS, class W = V>
ALWAYS_INLINE void word_products(const PanelCall& call) {
  constexpr int T = W::kWordTiles, M = W::kWordTokens;
  const Weight& w = *call.weight;
  const Panel& x = *call.x;
  const size_t block = w.block, blocks = w.blocks, block_bytes = w.block_bytes, units = unit_count(block), second = call.strip_bytes;
  const Float dtype = w.meta;
  const size_t meta = meta_bytes(dtype);
  for (int from = 0; from < (call.stride == 0 ? 1 : 2); from += T) {
    for (int first = 0; first < x.tokens; first += M) {
      V::Floats f[T][M];
      UNROLL for (int t = 0; t < T; ++t) UNROLL for (int m = 0; m < M; ++m) f[t][m] = V::set(0.0f);
      const uint8_t* a = x.codes + static_cast<size_t>(first) * kPanelInputs * 2;
      const uint8_t* strip = call.strips + static_cast<size_t>(from) * second;
      const uint8_t* numbers = call.tile + static_cast<size_t>(from) * call.stride + w.code_bytes;
      const float* row_scale = x.scale + first;
      const float* row_sum = x.sum + first;
      for (size_t b = 0; b < blocks; ++b) {
        V::Ints sums[T][M];
        UNROLL for (int t = 0; t < T; ++t) UNROLL for (int m = 0; m < M; ++m) sums[t][m] = V::integers(0);
        for (size_t u = 0; u < units; ++u, a += kWordUnitBytes, strip += kWordUnitBytes) {
          const size_t left = block - u * kPanelInputs;
          const size_t inputs = left < kPanelInputs ? left : kPanelInputs;
          for (size_t k = 0; k < inputs; k += 2) {
            V::Bytes words[T];
            UNROLL for (int t = 0; t < T; ++t) words[t] = V::load(strip + static_cast<size_t>(t) * second + 32 * k);
            UNROLL for (int m = 0; m < M; ++m) {
              int32_t two;
              __builtin_memcpy(&two, a + static_cast<size_t>(m) * kPanelInputs * 2 + 2 * k, 4);
              UNROLL for (int t = 0; t < T; ++t) sums[t][m] = W::dot_words(sums[t][m], words[t], two);
            }
          }
        }
        UNROLL for (int t = 0; t < T; ++t) {
          const uint8_t* own = numbers + static_cast<size_t>(t) * call.stride;
          const V::Floats scale = dtype == Float::none ? V::set(1.0f) : load_meta(own, dtype);
          V::Floats shift = V::set(0.0f);
          if constexpr (ZEROS) shift = V::mul(V::sub(shift, load_meta(own + meta, dtype)), scale);
          UNROLL for (int m = 0; m < M; ++m) {
            const V::Floats y = V::mul(V::to_float(sums[t][m]), V::set(row_scale[m]));
            f[t][m] = V::fused(y, scale, f[t][m]);
            if constexpr (ZEROS) f[t][m] = V::fused(shift, V::set(row_sum[m]), f[t][m]);
          }
        }
        numbers += block_bytes;
        row_scale += kPanelRows;
        row_sum += kPanelRows;
      }
      UNROLL for (int t = 0; t < T; ++t) UNROLL for (int m = 0; m < M; ++m) {
        V::store(call.out + (static_cast<size_t>(from + t) * kPanelRows + static_cast<size_t>(first + m)) * 16, f[t][m]);
      }
    }
  }
}

template <class W = V>
void word_panel(const PanelCall& call) {
  if (call.weight->zeros) {
    word_products<true, W>(call);
  } else {
    word_products<false, W>(call);
  }
}
