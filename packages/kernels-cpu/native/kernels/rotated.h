// Routines of @lowbit/higgs on rotated blocks, see groups.h. Sums and differences of a transform round alike in any order of visits; sums of a block are
// doubles added in the order of its elements, so that blocks are the lanes there.

void squares(const float* const* w, size_t size, double* sums) {
  Floats turned[kRun];
  for (int l = 0; l < kGroupLanes; l += kLanes) {
    Doubles low = all(0.0), high = low;
    for (size_t from = 0; from < size; from += kRun) {
      const size_t n = size - from < kRun ? size - from : kRun;
      turn(w + l, from, n, turned);
      for (size_t i = 0; i < n; ++i) {
        const Wide x = widened(turned[i]);
        low += x.low * x.low;
        high += x.high * x.high;
      }
    }
    write_to(sums + l, Wide{low, high});
  }
}

void rotate_and_divide(float* v, size_t n, size_t block, float divisor) {
  transform(v, n, block);
  for (size_t i = 0; i < n; i += kLanes) write_to(v + i, read_as<Floats>(v + i) / all(divisor));
}

void scale_and_rotate(float* v, size_t n, size_t block, float scale, Float dtype) {
  const V::Floats s = V::set(scale);
  for (size_t i = 0; i < n; i += 16) {
    const V::Floats scaled = V::mul(V::load_f32(v + i), s);
    V::store(v + i, dtype == Float::f32 ? scaled : dtype == Float::f16 ? V::round_f16(scaled) : V::round_bf16(scaled));
  }
  transform(v, n, block);
}

/// Some vectors by their coordinates.
ALWAYS_INLINE Ints cells_of(Floats x, Floats y, const CellCall& call, bool pairs) {
  const float per_unit = static_cast<float>(call.side) / (2 * call.extent);
  const Floats last = all(static_cast<float>(call.side - 1)), end = all(static_cast<float>(call.side)), none = all(0.0f);
  x = (x + call.extent) * per_unit;
  Ints cells = __builtin_convertvector(smaller(larger(x, none), last), Ints);
  Floats least = x, most = x;
  if (pairs) {
    y = (y + call.extent) * per_unit;
    cells += __builtin_convertvector(smaller(larger(y, none), last), Ints) * static_cast<int32_t>(call.side);
    least = smaller(x, y);
    most = larger(x, y);
  }
  const Ints beyond = Ints{} + static_cast<int32_t>(pairs ? call.side * call.side : call.side);
  const Ints within = (least >= none) & (most < end);
  return within ? cells : beyond;
}

template <int D>
ALWAYS_INLINE void number_vectors(const CellCall& call, uint32_t* cells) {
  float v[D * kLanes];
  for (size_t i = 0; i < call.count; i += kLanes) {
    const size_t n = call.count - i < kLanes ? call.count - i : kLanes;
    const float* from = call.vectors + D * i;
    if (n < kLanes) {
      for (int l = 0; l < D * kLanes; ++l) v[l] = 0;
      __builtin_memcpy(v, from, D * n * sizeof(float));
      from = v;
    }
    Floats x, y{};
    if constexpr (D == 2) {
      const Floats a = read_as<Floats>(from), b = read_as<Floats>(from + kLanes);
      x = even_lanes(a, b);
      y = odd_lanes(a, b);
    } else {
      x = read_as<Floats>(from);
    }
    const Ints found = cells_of(x, y, call, D == 2);
    if (n == kLanes) {
      write_to(cells + i, found);
    } else {
      __builtin_memcpy(cells + i, &found, n * sizeof(uint32_t));
    }
  }
}

void number_cells(const CellCall& call, uint32_t* cells) { call.dim == 2 ? number_vectors<2>(call, cells) : number_vectors<1>(call, cells); }

void distances(const float* const* w, const float* const* v, size_t size, double factor, double* squared_error, double* largest) {
  Floats turned[kRun], restored[kRun];
  for (int l = 0; l < kGroupLanes; l += kLanes) {
    Doubles low = all(0.0), high = low, most_low = low, most_high = low;
    for (size_t from = 0; from < size; from += kRun) {
      const size_t n = size - from < kRun ? size - from : kRun;
      turn(w + l, from, n, turned);
      turn(v + l, from, n, restored);
      for (size_t i = 0; i < n; ++i) {
        const Wide x = widened(turned[i]), y = widened(restored[i]);
        const Wide off{magnitude(x.low - y.low * factor), magnitude(x.high - y.high * factor)};
        low += off.low * off.low;
        high += off.high * off.high;
        most_low = larger(off.low, most_low);
        most_high = larger(off.high, most_high);
      }
    }
    write_to(squared_error + l, Wide{low, high});
    write_to(largest + l, Wide{most_low, most_high});
  }
}
