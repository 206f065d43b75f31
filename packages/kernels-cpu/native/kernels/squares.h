// Products of several columns (tokens times planes) by USMMLA, which multiplies two rows of codes by two columns of activations, 8 inputs deep: twice
// the work of a dot product. A tile has 4 inputs of a row side by side, so two vectors are interleaved first, and activations likewise; that is repaid
// from four sums of a row on, and costs as much as it saves below. The sums are integers: the same as those of tile_product. See tiles.h.

/// A unit of codes, or two where a unit makes one vector alone.
template <Codes C>
struct Vectors : Unit<C> {};

template <>
struct Vectors<Codes::c8> {
  static constexpr int kBytes = 128, kVectors = 2;
  template <int I>
  static V::Bytes get(const uint8_t* p) {
    return V::load(p + 64 * I);
  }
};

ALWAYS_INLINE uint8x16_t zip_low(uint8x16_t v, uint8x16_t w) {
  return vreinterpretq_u8_u32(vzip1q_u32(vreinterpretq_u32_u8(v), vreinterpretq_u32_u8(w)));
}
ALWAYS_INLINE uint8x16_t zip_high(uint8x16_t v, uint8x16_t w) {
  return vreinterpretq_u8_u32(vzip2q_u32(vreinterpretq_u32_u8(v), vreinterpretq_u32_u8(w)));
}

/// Sums of 16 rows and K columns: square [r][c] is of rows 2 r and 2 r + 1, columns 2 c and 2 c + 1.
template <int K>
struct Squares {
  static_assert(K % 2 == 0);
  int32x4_t v[8][K / 2];

  ALWAYS_INLINE Squares zero() {
    Squares s;
    UNROLL for (int r = 0; r < 8; ++r) UNROLL for (int c = 0; c < K / 2; ++c) s.v[r][c] = vdupq_n_s32(0);
    return s;
  }
  /// Column k of all rows.
  ALWAYS_INLINE V::Ints column(const Squares& s, int k) {
    return V::four<V::Ints>([&](int i) ALWAYS_INLINE_LAMBDA {
      const int32x4_t upper = s.v[2 * i][k / 2], lower = s.v[2 * i + 1][k / 2];
      return k % 2 == 0 ? vuzp1q_s32(upper, lower) : vuzp2q_s32(upper, lower);
    });
  }
};

/// Pairs of columns of 8 inputs: four of a, four of b.
template <int K>
ALWAYS_INLINE void load_columns(const int32_t* a, const int32_t* b, int8x16_t (&columns)[K / 2]) {
  UNROLL for (int c = 0; c < K / 2; c += 2) {
    if (2 * c + 4 <= K) {
      const int32x4_t first = vld1q_s32(a + 2 * c), second = vld1q_s32(b + 2 * c);
      columns[c] = vreinterpretq_s8_s32(vzip1q_s32(first, second));
      columns[c + 1] = vreinterpretq_s8_s32(vzip2q_s32(first, second));
    } else {
      const int32x2_t first = vld1_s32(a + 2 * c), second = vld1_s32(b + 2 * c);
      columns[c] = vreinterpretq_s8_s32(vcombine_s32(vzip1_s32(first, second), vzip2_s32(first, second)));
    }
  }
}

/// Adds 16 rows x 8 inputs times K columns. Codes interleaved: register r has rows 2 r and 2 r + 1.
template <int K, class F>
ALWAYS_INLINE void add_squares(Squares<K>& s, V::Bytes first, V::Bytes second, const int8x16_t (&columns)[K / 2], F&& bytes) {
  UNROLL for (int i = 0; i < 4; ++i) {
    const uint8x16_t upper = bytes(zip_low(first.v[i], second.v[i]));
    const uint8x16_t lower = bytes(zip_high(first.v[i], second.v[i]));
    UNROLL for (int c = 0; c < K / 2; ++c) {
      s.v[2 * i][c] = vusmmlaq_s32(s.v[2 * i][c], upper, columns[c]);
      s.v[2 * i + 1][c] = vusmmlaq_s32(s.v[2 * i + 1][c], lower, columns[c]);
    }
  }
}

ALWAYS_INLINE uint8x16_t as_they_are(uint8x16_t codes) { return codes; }

/// Adds 16 rows x 4 inputs: the other four are nothing.
template <int K>
ALWAYS_INLINE void add_last(Squares<K>& s, const uint8_t* codes, const int32_t* a) {
  constexpr int32_t none[K] = {};
  int8x16_t columns[K / 2];
  load_columns<K>(a, none, columns);
  add_squares<K>(s, V::load(codes), V::Bytes{}, columns, as_they_are);
}

/// tile_product of one tile.
template <Codes C, int M, int P>
void tile_squares(const TileCall& call) {
  using U = Vectors<C>;
  constexpr int K = M * P;
  constexpr bool kTable = C == Codes::table4;
  const Weight& w = *call.weight;
  const Activations& x = *call.x;
  const size_t units = w.code_bytes / U::kBytes;
  const uint8x16_t low = V::load_table(numbers_of(w, P).low), high = V::load_table(numbers_of(w, P).high);
  V::Floats f[M];
  UNROLL for (int m = 0; m < M; ++m) f[m] = V::set(0.0f);
  const uint8_t* block = call.tile;
  const int32_t* a = x.codes;
  for (size_t b = 0; b < w.blocks; ++b, block += w.block_bytes) {
    Squares<K> sums = Squares<K>::zero(), upper = Squares<K>::zero();
    int8x16_t columns[K / 2];
    const uint8_t* q = block;
    for (size_t u = 0; u < units; ++u, q += U::kBytes, a += U::kVectors * K) {
      V::prefetch(q + kAhead<1>);
      each<U::kVectors / 2>([&](auto index) ALWAYS_INLINE_LAMBDA {
        constexpr int i = 2 * decltype(index)::value;
        const V::Bytes first = U::template get<i>(q), second = U::template get<i + 1>(q);
        load_columns<K>(a + i * K, a + (i + 1) * K, columns);
        if constexpr (kTable) {
          add_squares<K>(sums, first, second, columns, [&](uint8x16_t codes) ALWAYS_INLINE_LAMBDA { return vqtbl1q_u8(low, codes); });
          add_squares<K>(upper, first, second, columns, [&](uint8x16_t codes) ALWAYS_INLINE_LAMBDA { return vqtbl1q_u8(high, codes); });
        } else {
          add_squares<K>(sums, first, second, columns, as_they_are);
        }
      });
    }
    if constexpr (C == Codes::c8) {
      if (w.code_bytes % U::kBytes != 0) {
        add_last<K>(sums, q, a);
        a += K;
      }
    }
    V::Ints whole[M][P];
    UNROLL for (int m = 0; m < M; ++m) UNROLL for (int p = 0; p < P; ++p) {
      const int k = m * P + p;
      whole[m][p] = Squares<K>::column(sums, k);
      if constexpr (kTable) {
        // The upper bytes of table numbers are held with 128 added.
        const V::Ints less = V::integers(-128 * x.plane_sum[b * K + k]);
        whole[m][p] = V::add(V::left8(V::add(Squares<K>::column(upper, k), less)), whole[m][p]);
      }
    }
    add_block<M, P, !kTable>(call, b, block + w.code_bytes, whole, f);
  }
  UNROLL for (int m = 0; m < M; ++m) V::store(call.out + m * 16, f[m]);
}

/// int8_product.
template <int M>
void int8_squares(const Int8Call& call) {
  const Weight& w = *call.weight;
  const Activations& x = *call.x;
  const size_t vectors = w.block / 4;
  V::Ints less[M];
  UNROLL for (int m = 0; m < M; ++m) less[m] = V::integers(0);
  for (size_t b = call.from; b < call.to; ++b) {
    UNROLL for (int m = 0; m < M; ++m) less[m] = V::add(less[m], V::integers(-128 * x.plane_sum[b * M + m]));
  }
  Squares<M> sums = Squares<M>::zero();
  int8x16_t columns[M / 2];
  const uint8_t* q = call.tile + call.from * w.block_bytes;
  const int32_t* a = x.codes + call.from * vectors * M;
  // Codes of these blocks follow one another without a gap.
  size_t left = (call.to - call.from) * vectors;
  for (; left >= 2; left -= 2, q += 128, a += 2 * M) {
    load_columns<M>(a, a + M, columns);
    add_squares<M>(sums, V::load(q), V::load(q + 64), columns, as_they_are);
  }
  if (left > 0) add_last<M>(sums, q, a);
  UNROLL for (int m = 0; m < M; ++m) V::store_ints(call.out + 16 * m, V::add(Squares<M>::column(sums, m), less[m]));
}

template <Codes C, int P, int M>
void set_squares(Kernels& k) {
  k.tile[static_cast<int>(C)][P - 1][M - 1] = tile_squares<C, M, P>;
}

template <Codes C>
void set_squares_of(Kernels& k) {
  set_squares<C, 2, 2>(k);
  set_squares<C, 2, 3>(k);
  set_squares<C, 3, 2>(k);
}

/// Kernels with these in place where they take fewer instructions: even columns, at least four sums a row (a table makes two of each column).
Kernels with_squares(Kernels k) {
  set_squares_of<Codes::c8>(k);
  set_squares_of<Codes::c4>(k);
  set_squares_of<Codes::c3>(k);
  set_squares_of<Codes::c2>(k);
  set_squares_of<Codes::c1>(k);
  set_squares<Codes::table4, 2, 1>(k);
  k.int8[3] = int8_squares<4>;
  k.int8[5] = int8_squares<6>;
  return k;
}
