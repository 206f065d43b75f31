// Products of 16-row tiles with quantized activations: one body for all instruction sets, over the vectors `V` that each of them defines.
//
// A tile's block is 16 rows x `block` inputs. Its codes come in units, 64 bytes of one or more bit planes that make vectors of four consecutive inputs
// of 16 rows: byte 4 r + t of vector i is the code of row r and input 4 i + t. So a dot product of four bytes per 32-bit lane keeps one sum per row, and
// nothing is ever added across lanes. Sums of a block are exact integers; what follows them is products and fused products with f32 results, in the
// order written here, on all instruction sets alike: the same bytes whatever the machine.
//
// Included by one file per instruction set, after it has defined V; everything is in its anonymous namespace, so that no function built for one
// instruction set can be linked into another's.

/// Codes of a unit: `kBytes` of memory make `kVectors` vectors. get<I>: vector I, codes in whole bytes.
template <Codes C>
struct Unit;

template <>
struct Unit<Codes::c8> {
  static constexpr int kBytes = 64, kVectors = 1;
  template <int I>
  static V::Bytes get(const uint8_t* p) {
    return V::load(p);
  }
};

template <>
struct Unit<Codes::c4> {
  static constexpr int kBytes = 64, kVectors = 2;
  template <int I>
  static V::Bytes get(const uint8_t* p) {
    return V::mask(V::right<4 * I>(V::load(p)), 0x0f);
  }
};

template <>
struct Unit<Codes::table4> : Unit<Codes::c4> {};

template <>
struct Unit<Codes::c2> {
  static constexpr int kBytes = 64, kVectors = 4;
  template <int I>
  static V::Bytes get(const uint8_t* p) {
    return V::mask(V::right<2 * I>(V::load(p)), 0x03);
  }
};

template <>
struct Unit<Codes::c1> {
  static constexpr int kBytes = 64, kVectors = 8;
  template <int I>
  static V::Bytes get(const uint8_t* p) {
    return V::mask(V::right<I>(V::load(p)), 0x01);
  }
};

/// 3 bits: the lower two as c2 (two vectors of bytes), then the highest as c1.
template <>
struct Unit<Codes::c3> {
  static constexpr int kBytes = 192, kVectors = 8;
  template <int I>
  static V::Bytes get(const uint8_t* p) {
    const V::Bytes low = V::mask(V::right<2 * (I % 4)>(V::load(p + 64 * (I / 4))), 0x03);
    const V::Bytes bits = V::load(p + 128);
    if constexpr (I >= 2) {
      return V::either(low, V::mask(V::right<I - 2>(bits), 0x04));
    } else {
      return V::either(low, V::mask(V::left<2 - I>(bits), 0x04));
    }
  }
};

/// Bytes above 15, whose pair sums need more than 16 bits.
template <Codes C>
constexpr bool kWide = C == Codes::c8 || C == Codes::table4;

/// Where V multiplies signed bytes alone, wide ones go in with 128 taken off, and 128 times the sum of the activations goes to their dots.
constexpr int32_t kShift = V::kSigned ? 128 : 0;

template <bool WIDE, class W = V>
ALWAYS_INLINE typename W::Bytes shifted(typename W::Bytes codes) {
  if constexpr (WIDE && W::kSigned) return W::flip(codes);
  return codes;
}

ALWAYS_INLINE V::Table load_shifted(const uint8_t* numbers) {
  uint8_t bytes[16];
  for (int i = 0; i < 16; ++i) bytes[i] = static_cast<uint8_t>(numbers[i] - kShift);
  return V::load_table(bytes);
}

/// sum + dots of four bytes, which are shifted where they are wide.
template <bool WIDE, class W = V>
ALWAYS_INLINE typename W::Ints add_dot(typename W::Ints sum, typename W::Bytes codes, int32_t a) {
  if constexpr (WIDE && W::kSigned) {
    return W::dot_signed(sum, codes, a);
  } else {
    return W::template dot<WIDE>(sum, codes, a);
  }
}

ALWAYS_INLINE V::Floats load_meta(const uint8_t* p, Float dtype) {
  switch (dtype) {
    case Float::f16:
      return V::load_f16(p);
    case Float::bf16:
      return V::load_bf16(p);
    default:
      return V::load_f32(reinterpret_cast<const float*>(p));
  }
}

constexpr size_t meta_bytes(Float dtype) { return dtype == Float::none ? 0 : dtype == Float::f32 ? 64 : 32; }

/// Sums of all planes as one number: 65536 s0 + 256 s1 + s2, or 256 s0 + s1.
template <int P, bool FITS>
ALWAYS_INLINE V::Floats join(const V::Ints* s) {
  if constexpr (FITS || P == 2) {  // 256 times a sum fits an int32
    const V::Floats low = V::to_float(V::add(V::left8(s[P - 2]), s[P - 1]));
    if constexpr (P == 2) return low;
    return V::add(V::mul(V::to_float(s[0]), V::set(65536.0f)), low);
  } else {
    V::Floats all = V::to_float(s[0]);
    for (int p = 1; p < P; ++p) all = V::add(V::mul(all, V::set(256.0f)), V::to_float(s[p]));
    return all;
  }
}

/// A block's sums s, [token][plane], as they go to the totals of the rows, [token]. numbers: the scales and zeros.
template <int M, int P, bool FITS>
ALWAYS_INLINE void add_block(const TileCall& call, size_t b, const uint8_t* numbers, const V::Ints (&s)[M][P], V::Floats (&f)[M]) {
  const Weight& w = *call.weight;
  const Activations& x = *call.x;
  const V::Floats scale = w.meta == Float::none ? V::set(1.0f) : load_meta(numbers, w.meta);
  V::Floats shift = V::set(0.0f);
  if (w.zeros) shift = V::mul(V::sub(shift, load_meta(numbers + meta_bytes(w.meta), w.meta)), scale);
  UNROLL for (int m = 0; m < M; ++m) {
    f[m] = V::fused(V::mul(join<P, FITS>(s[m]), V::set(x.scale[b * M + m])), scale, f[m]);
    if (w.zeros) f[m] = V::fused(shift, V::set(x.sum[b * M + m]), f[m]);
  }
}

/// Bytes from a read to what is fetched meanwhile, by streams: what memory sends while it answers (of one thread about 48 GB/s x 200 ns on Zen 5), and what
/// serves two streams best on Emerald Rapids.
template <int T>
constexpr size_t kAhead = T == 1 ? 12288 : 4096;

/// T tiles x M tokens x P planes. S independent chains of sums where there are few, for the latency of the dot product.
template <Codes C, int T, int M, int P>
void tile_product(const TileCall& call) {
  using U = Unit<C>;
  constexpr bool kTable = C == Codes::table4;
  constexpr int B = kTable ? 2 : 1;  // bytes of a weight
  constexpr int S = V::kChains && T * M * P * B <= 4 && U::kVectors % 2 == 0 ? 2 : 1;
  const Weight& w = *call.weight;
  const Activations& x = *call.x;
  const size_t units = w.code_bytes / U::kBytes;
  V::Table low{}, high{};
  if constexpr (kTable) {
    const Integers& numbers = numbers_of(w, P);
    low = load_shifted(numbers.low);
    high = load_shifted(numbers.high);
  }
  V::Floats f[T][M];
  UNROLL for (int t = 0; t < T; ++t) UNROLL for (int m = 0; m < M; ++m) f[t][m] = V::set(0.0f);
  const uint8_t* block = call.tile;
  const int32_t* a = x.codes;
  for (size_t b = 0; b < w.blocks; ++b, block += w.block_bytes) {
    V::Ints sums[T][M][P][B][S];
    UNROLL for (int t = 0; t < T; ++t) UNROLL for (int m = 0; m < M; ++m) UNROLL for (int p = 0; p < P; ++p) {
      UNROLL for (int s = 0; s < S; ++s) UNROLL for (int i = 0; i < B; ++i) sums[t][m][p][i][s] = V::integers(0);
      const int32_t plane_sum = x.plane_sum[(b * M + m) * P + p];
      if constexpr (kWide<C>) sums[t][m][p][0][0] = V::integers(kShift * plane_sum);
      // The upper bytes of table numbers are held with 128 added.
      if constexpr (kTable) sums[t][m][p][B - 1][0] = V::integers((kShift - 128) * plane_sum);
    }
    // What comes next to each stream: near its end that is in the tiles after the T of this call.
    const size_t ahead = kAhead<T> + (b * w.block_bytes + kAhead<T> < call.stride ? 0 : (T - 1) * call.stride);
    const uint8_t* q = block;
    for (size_t u = 0; u < units; ++u, q += U::kBytes, a += U::kVectors * M * P) {
      UNROLL for (int t = 0; t < T; ++t) V::prefetch(q + t * call.stride + ahead);
      each<U::kVectors>([&](auto index) ALWAYS_INLINE_LAMBDA {
        constexpr int i = decltype(index)::value;
        UNROLL for (int t = 0; t < T; ++t) {
          const V::Bytes codes = shifted<C == Codes::c8>(U::template get<i>(q + t * call.stride));
          const int32_t* at = a + i * M * P;
          if constexpr (B == 2) {
            const V::Bytes lower = V::look_up(low, codes);
            const V::Bytes upper = V::look_up(high, codes);
            UNROLL for (int m = 0; m < M; ++m) UNROLL for (int p = 0; p < P; ++p) {
              sums[t][m][p][0][i % S] = add_dot<kWide<C>>(sums[t][m][p][0][i % S], lower, at[m * P + p]);
              sums[t][m][p][1][i % S] = add_dot<kWide<C>>(sums[t][m][p][1][i % S], upper, at[m * P + p]);
            }
          } else {
            UNROLL for (int m = 0; m < M; ++m) UNROLL for (int p = 0; p < P; ++p) {
              sums[t][m][p][0][i % S] = add_dot<kWide<C>>(sums[t][m][p][0][i % S], codes, at[m * P + p]);
            }
          }
        }
      });
    }
    UNROLL for (int t = 0; t < T; ++t) {
      V::Ints whole[M][P];
      UNROLL for (int m = 0; m < M; ++m) UNROLL for (int p = 0; p < P; ++p) {
        V::Ints part[B];
        UNROLL for (int i = 0; i < B; ++i) {
          part[i] = sums[t][m][p][i][0];
          if constexpr (S == 2) part[i] = V::add(part[i], sums[t][m][p][i][1]);
        }
        whole[m][p] = B == 2 ? V::add(V::left8(part[B - 1]), part[0]) : part[0];
      }
      add_block<M, P, B == 1>(call, b, block + t * call.stride + w.code_bytes, whole, f[t]);
    }
  }
  UNROLL for (int t = 0; t < T; ++t) UNROLL for (int m = 0; m < M; ++m) V::store(call.out + (t * M + m) * 16, f[t][m]);
}

/// Exact sums of 8-bit weights (held with 128 added) and 8-bit activations.
template <int M>
void int8_product(const Int8Call& call) {
  const Weight& w = *call.weight;
  const Activations& x = *call.x;
  const size_t vectors = w.block / 4;
  V::Ints sums[M];
  UNROLL for (int m = 0; m < M; ++m) sums[m] = V::integers(0);
  const uint8_t* q = call.tile + call.from * w.block_bytes;
  const int32_t* a = x.codes + call.from * vectors * M;
  for (size_t b = call.from; b < call.to; ++b) {
    UNROLL for (int m = 0; m < M; ++m) sums[m] = V::add(sums[m], V::integers((kShift - 128) * x.plane_sum[b * M + m]));
    for (size_t i = 0; i < vectors; ++i, q += 64, a += M) {
      V::prefetch(q + kAhead<1>);
      const V::Bytes codes = shifted<true>(V::load(q));
      UNROLL for (int m = 0; m < M; ++m) sums[m] = add_dot<true>(sums[m], codes, a[m]);
    }
  }
  UNROLL for (int m = 0; m < M; ++m) V::store_ints(call.out + 16 * m, sums[m]);
}
