// Products with tiles of codebooks of pairs, and with the rounded weights of HIGGS. See tiles.h for how this is included, and for what a tile is.
//
// Byte 4 r + t of a vector of pair codes is the code of row r and inputs 8 i + 2 t and 8 i + 2 t + 1. Its look-ups are two vectors of weights, those of even
// inputs and those of odd ones, so activations come in that order (`rotate` puts them so): the first four bytes of eight are inputs 0, 2, 4, 6.

template <>
struct Unit<Codes::pairs8> : Unit<Codes::c8> {};

template <>
struct Unit<Codes::pairs4> : Unit<Codes::c4> {};

/// 6 bits: the lower four as c4 (two vectors of bytes), then the higher two as c2.
template <>
struct Unit<Codes::pairs6> {
  static constexpr int kBytes = 192, kVectors = 4;
  template <int I>
  static V::Bytes get(const uint8_t* p) {
    const V::Bytes low = V::mask(V::right<4 * (I % 2)>(V::load(p + 64 * (I / 2))), 0x0f);
    const V::Bytes bits = V::load(p + 128);
    if constexpr (I >= 2) {
      return V::either(low, V::mask(V::right<2 * I - 4>(bits), 0x30));
    } else {
      return V::either(low, V::mask(V::left<4 - 2 * I>(bits), 0x30));
    }
  }
};

/// Tables of bytes, looked up a vector at a time.
template <Codes C>
struct ByteTable {
  V::Table table;
  ALWAYS_INLINE void load(ByteTable& t, const uint8_t* p) { t.table = V::load_table(p); }
  ALWAYS_INLINE V::Bytes look_up(const ByteTable& t, V::Bytes codes) { return V::look_up(t.table, codes); }
};

template <>
struct ByteTable<Codes::pairs6> {
  V::Table64 table;
  ALWAYS_INLINE void load(ByteTable& t, const uint8_t* p) { t.table = V::load_table64(p); }
  ALWAYS_INLINE V::Bytes look_up(const ByteTable& t, V::Bytes codes) { return V::look_up64(t.table, codes); }
};

template <>
struct ByteTable<Codes::pairs8> {
  V::Table256 table;
  ALWAYS_INLINE void load(ByteTable& t, const uint8_t* p) { t.table = V::load_table256(p); }
  ALWAYS_INLINE V::Bytes look_up(const ByteTable& t, V::Bytes codes) { return V::look_up256(t.table, codes); }
};

/// One tile x M tokens x P planes, as tile_product: the same sums in the same order.
template <Codes C, int M, int P>
void pair_product(const TileCall& call) {
  using U = Unit<C>;
  const Weight& w = *call.weight;
  const Activations& x = *call.x;
  const size_t units = w.code_bytes / U::kBytes;
  constexpr int B = 2;  // bytes of a weight
  ByteTable<C> tables[2 * B];
  for (size_t i = 0; i < 2 * B; ++i) ByteTable<C>::load(tables[i], pair_numbers(w, P) + i * pair_entries(C));
  V::Floats f[M];
  UNROLL for (int m = 0; m < M; ++m) f[m] = V::set(0.0f);
  const uint8_t* block = call.tile;
  const int32_t* a = x.codes;
  for (size_t b = 0; b < w.blocks; ++b, block += w.block_bytes) {
    V::Ints sums[M][P][B];
    UNROLL for (int m = 0; m < M; ++m) UNROLL for (int p = 0; p < P; ++p) {
      const int32_t plane_sum = x.plane_sum[(b * M + m) * P + p];
      sums[m][p][0] = V::integers(kShift * plane_sum);
      sums[m][p][B - 1] = V::integers((kShift - 128) * plane_sum);
    }
    const uint8_t* q = block;
    for (size_t u = 0; u < units; ++u, q += U::kBytes, a += 2 * U::kVectors * M * P) {
      V::prefetch(q + kAhead<1>);
      each<U::kVectors>([&](auto index) ALWAYS_INLINE_LAMBDA {
        constexpr int i = decltype(index)::value;
        const V::Bytes codes = U::template get<i>(q);
        UNROLL for (int odd = 0; odd < 2; ++odd) {
          const int32_t* at = a + (2 * i + odd) * M * P;
          UNROLL for (int i = 0; i < B; ++i) {
            const V::Bytes bytes = shifted<true>(ByteTable<C>::look_up(tables[B * odd + i], codes));
            UNROLL for (int m = 0; m < M; ++m) UNROLL for (int p = 0; p < P; ++p) {
              sums[m][p][i] = add_dot<true>(sums[m][p][i], bytes, at[m * P + p]);
            }
          }
        }
      });
    }
    const V::Floats scale = load_meta(block + w.code_bytes, w.meta);
    UNROLL for (int m = 0; m < M; ++m) {
      V::Ints planes[P];
      UNROLL for (int p = 0; p < P; ++p) planes[p] = V::add(V::left8(sums[m][p][1]), sums[m][p][0]);
      const V::Floats y = V::mul(join<P, false>(planes), V::set(x.scale[b * M + m]));
      f[m] = V::fused(y, scale, f[m]);
    }
  }
  UNROLL for (int m = 0; m < M; ++m) V::store(call.out + m * 16, f[m]);
}

template <Float R>
ALWAYS_INLINE V::Floats rounded(V::Floats v) {
  if constexpr (R == Float::f16) return V::round_f16(v);
  return V::round_bf16(v);
}

/// Columns of a table [16][dim], each in a vector.
template <int DIM>
ALWAYS_INLINE void load_columns(const float* table, V::Floats* columns) {
  for (int j = 0; j < DIM; ++j) {
    float v[16];
    for (int i = 0; i < 16; ++i) v[i] = table[i * DIM + j];
    columns[j] = V::load_f32(v);
  }
}

/// Weights of blocks [from, to) of a tile: out [input][16].
template <Codes C, Float R>
void expand_to(const Weight& w, const uint8_t* tile, size_t from, size_t to, float* out) {
  using U = Unit<C>;
  constexpr int kDim = is_pairs(C) ? 2 : 1;
  constexpr bool kFew = pair_entries(C) == 16;  // table4, too
  const size_t units = w.code_bytes / U::kBytes;
  V::Floats columns[kDim];
  if constexpr (kFew) load_columns<kDim>(w.table, columns);
  for (size_t b = from; b < to; ++b) {
    const uint8_t* q = tile + b * w.block_bytes;
    const V::Floats scale = load_meta(q + w.code_bytes, R);  // there is a rounding where scales are of that dtype
    for (size_t u = 0; u < units; ++u, q += U::kBytes) {
      each<U::kVectors>([&](auto index) ALWAYS_INLINE_LAMBDA {
        const V::Bytes codes = U::template get<decltype(index)::value>(q);
        each<4>([&](auto byte) ALWAYS_INLINE_LAMBDA {
          const V::Ints at = V::template byte_of<decltype(byte)::value>(codes);
          UNROLL for (int j = 0; j < kDim; ++j) {
            V::Floats v;
            if constexpr (kFew) {
              v = V::pick(columns[j], at);
            } else {
              v = V::gather(w.table + j, V::add(at, at));
            }
            V::store(out, rounded<R>(V::mul(v, scale)));
            out += 16;
          }
        });
      });
    }
  }
}

/// The same by bytes of f16 bits, where vectors of bytes are looked up at once and the table is of such numbers. W: V, where it has these operations.
template <class W, Codes C, Float R>
void expand_halves(const Weight& w, const uint8_t* tile, size_t from, size_t to, float* out) {
  using U = Unit<C>;
  constexpr size_t kEntries = pair_entries(C);
  const size_t units = w.code_bytes / U::kBytes;
  ByteTable<C> tables[4];
  for (size_t i = 0; i < 4; ++i) ByteTable<C>::load(tables[i], w.pair_halves + i * kEntries);
  for (size_t b = from; b < to; ++b) {
    const uint8_t* q = tile + b * w.block_bytes;
    const V::Floats scale = V::mul(load_meta(q + w.code_bytes, R), V::set(0x1p112f));
    for (size_t u = 0; u < units; ++u, q += U::kBytes) {
      V::prefetch(q + kAhead<1>);
      each<U::kVectors>([&](auto index) ALWAYS_INLINE_LAMBDA {
        const V::Bytes codes = W::halves_order(U::template get<decltype(index)::value>(q));
        UNROLL for (int j = 0; j < 2; ++j) {
          const V::Bytes low = ByteTable<C>::look_up(tables[2 * j], codes);
          const V::Bytes high = ByteTable<C>::look_up(tables[2 * j + 1], codes);
          const V::Ints first = W::halves_low(low, high), last = W::halves_high(low, high);
          float* to_pair = out + 16 * j;
          V::store(to_pair, rounded<R>(V::mul(W::template half_at<0>(first), scale)));
          V::store(to_pair + 32, rounded<R>(V::mul(W::template half_at<1>(first), scale)));
          V::store(to_pair + 64, rounded<R>(V::mul(W::template half_at<0>(last), scale)));
          V::store(to_pair + 96, rounded<R>(V::mul(W::template half_at<1>(last), scale)));
        }
        out += 128;
      });
    }
  }
}

template <Codes C, Float R>
void expand_by(const Weight& w, const uint8_t* tile, size_t from, size_t to, float* out) {
  if constexpr (V::kHalves && is_pairs(C) && pair_entries(C) > 16) {
    if (w.pair_halves != nullptr) return expand_halves<V, C, R>(w, tile, from, to, out);
  }
  expand_to<C, R>(w, tile, from, to, out);
}

template <Codes C>
void expand(const Weight& w, const uint8_t* tile, size_t from, size_t to, float* out) {
  if (w.round == Float::f16) return expand_by<C, Float::f16>(w, tile, from, to, out);
  expand_by<C, Float::bf16>(w, tile, from, to, out);
}

/// Four chains of sums a token whatever the tokens, so that a row's sums are the same beside any others.
template <int T>
void strip_product(const float* strip, size_t n, const float* x, size_t stride, float* sums) {
  constexpr int kChains = 4;
  V::Floats s[T][kChains];
  UNROLL for (int t = 0; t < T; ++t) UNROLL for (int i = 0; i < kChains; ++i) s[t][i] = V::set(0.0f);
  for (size_t k = 0; k < n; k += kChains, strip += 16 * kChains) {
    UNROLL for (int i = 0; i < kChains; ++i) {
      const V::Floats w = V::load_f32(strip + 16 * i);
      UNROLL for (int t = 0; t < T; ++t) s[t][i] = V::multiply_add(w, V::set(x[t * stride + k + i]), s[t][i]);
    }
  }
  UNROLL for (int t = 0; t < T; ++t) {
    const V::Floats sum = V::add(V::add(s[t][0], s[t][1]), V::add(s[t][2], s[t][3]));
    V::store(sums + 16 * t, V::add(V::load_f32(sums + 16 * t), sum));
  }
}
