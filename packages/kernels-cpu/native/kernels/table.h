// The function table of one instruction set, see tiles.h.

/// Numbers of tokens that have a kernel: enough that a rest takes few calls, few enough that the build stays small.
constexpr bool built(int tokens) { return tokens <= 4 || tokens == 6 || tokens == 8 || tokens == 12; }

template <Codes C, int P, int M>
constexpr auto tile_of() -> void (*)(const TileCall&) {
  if constexpr (built(M) && M <= V::kMost[P - 1] && !(C == Codes::table4 && 2 * M * P > V::kTableSums)) return tile_product<C, 1, M, P>;
  return nullptr;
}

template <Codes C, int P, int... M>
void fill_tokens(Kernels& k, ints<M...>) {
  ((k.tile[static_cast<int>(C)][P - 1][M] = tile_of<C, P, M + 1>()), ...);
}

template <Codes C>
void fill_codes(Kernels& k) {
  fill_tokens<C, 1>(k, first<kMaxTokens>());
  fill_tokens<C, 2>(k, first<kMaxTokens>());
  fill_tokens<C, 3>(k, first<kMaxTokens>());
  if constexpr (V::kPairs) {
    k.pair[static_cast<int>(C)][0] = tile_product<C, 2, 1, 1>;
    k.pair[static_cast<int>(C)][1] = tile_product<C, 2, 1, 2>;
    k.pair[static_cast<int>(C)][2] = tile_product<C, 2, 1, 3>;
  }
}

template <int M>
constexpr auto int8_of() -> void (*)(const Int8Call&) {
  if constexpr (built(M) && M <= V::kMost[0]) return int8_product<M>;
  return nullptr;
}

template <int... M>
void fill_int8(Kernels& k, ints<M...>) {
  ((k.int8[M] = int8_of<M + 1>()), ...);
}

Kernels make_kernels(Isa isa) {
  Kernels k{};
  k.isa = isa;
  fill_codes<Codes::c8>(k);
  fill_codes<Codes::c4>(k);
  fill_codes<Codes::c3>(k);
  fill_codes<Codes::c2>(k);
  fill_codes<Codes::c1>(k);
  fill_codes<Codes::table4>(k);
  fill_int8(k, first<kMaxTokens>());
  for (int p = 0; p < kMaxPlanes; ++p) k.most[p] = V::kMost[p];
  k.quantize = quantize;
  k.widen = widen;
  k.dot = dot;
  k.dot_plain = dot_plain;
  k.scores = scores;
  k.mix = mix;
  k.quantizers = quantizer_kernels();
  return k;
}
