// The function table of one instruction set, see tiles.h.

/// Numbers of tokens that have a kernel: enough that a rest takes few calls, few enough that the build stays small.
constexpr bool built(int tokens) { return tokens <= 4 || tokens == 6 || tokens == 8 || tokens == 12; }

template <Codes C, int P, int M>
constexpr auto tile_of() -> void (*)(const TileCall&) {
  // Of codebooks panels take more rows than these; affine codes may be of columns, which have none.
  constexpr bool kMany = C == Codes::table4 && V::kPanels && M > 6;
  if constexpr (built(M) && M <= V::kMost[P - 1] && !kMany && !(C == Codes::table4 && P > 1 && 2 * M * P > V::kTableSums)) return tile_product<C, 1, M, P>;
  return nullptr;
}

template <Codes C, int P, int... M>
void fill_tokens(Kernels& k, ints<M...>) {
  ((k.tile[static_cast<int>(C)][P - 1][M] = tile_of<C, P, M + 1>()), ...);
}

template <Codes C>
void fill_codes(Kernels& k) {
  fill_tokens<C, 2>(k, first<kMaxTokens>());
  fill_tokens<C, 3>(k, first<kMaxTokens>());
  if constexpr (V::kPanels) k.widen_codes[static_cast<int>(C)] = widen_codes<C>;
  if constexpr (V::kWords) k.widen_words[static_cast<int>(C)] = widen_words<C>;
  if constexpr (V::kPairs) {
    k.pair[static_cast<int>(C)][1] = tile_product<C, 2, 1, 2>;
    k.pair[static_cast<int>(C)][2] = tile_product<C, 2, 1, 3>;
  }
}

template <Codes C, int P, int M>
constexpr auto pairs_of() -> void (*)(const TileCall&) {
  if constexpr (built(M) && M <= V::kMost[P - 1] && (M == 1 || 2 * M * P <= V::kTableSums)) return pair_product<C, M, P>;
  return nullptr;
}

template <Codes C, int... M>
void fill_pairs(Kernels& k, ints<M...>) {
  ((k.tile[static_cast<int>(C)][1][M] = pairs_of<C, 2, M + 1>()), ...);
  ((k.tile[static_cast<int>(C)][2][M] = pairs_of<C, 3, M + 1>()), ...);
  k.expand[static_cast<int>(C)] = expand<C>;
  if constexpr (V::kPanels) k.widen_codes[static_cast<int>(C)] = widen_codes<C>;
  if constexpr (V::kWords) k.widen_words[static_cast<int>(C)] = widen_words<C>;
}

template <int T>
constexpr auto strip_of() -> void (*)(const float*, size_t, const float*, size_t, float*) {
  if constexpr (built(T) && T <= V::kStripTokens) return strip_product<T>;
  return nullptr;
}

template <int... T>
void fill_strips(Kernels& k, ints<T...>) {
  ((k.strip[T] = strip_of<T + 1>()), ...);
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

template <class W = V>
void fill_words(Kernels& k) {
  if constexpr (W::kWords) {
    k.quantize_words = quantize_words;
    k.panel_words = word_panel<W>;
    for (int i = 0; i < 2; ++i) k.few_words[i] = W::kFewWords[i];
  }
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
  fill_pairs<Codes::pairs8>(k, first<kMaxTokens>());
  fill_pairs<Codes::pairs6>(k, first<kMaxTokens>());
  fill_pairs<Codes::pairs4>(k, first<kMaxTokens>());
  k.expand[static_cast<int>(Codes::table4)] = expand<Codes::table4>;
  fill_strips(k, first<kMaxTokens>());
  fill_int8(k, first<kMaxTokens>());
  if constexpr (V::kPanels) {
    k.panel[0][2] = panel_product<1, 3>;
    k.panel[1][2] = panel_product<2, 3>;
    k.quantize_panel[1] = quantize_panel<2>;
    k.quantize_panel[2] = quantize_panel<3>;
  }
  fill_words(k);
  k.quantize[1] = quantize_planes<2>;
  k.quantize[2] = quantize_planes<3>;
  k.rotate = rotate;
  k.widen = widen;
  k.dot = dot;
  k.dot_plain = dot_plain;
  k.scores = scores;
  k.score_blocks = score_blocks;
  k.mix_rows = mix_rows;
  k.soften = soften;
  k.silu = silu;
  k.quantizers = quantizer_kernels();
  return k;
}
