// Routines of @lowbit/hqq on groups of consecutive weights, with the roundings and the order of sums of the TypeScript they stand in for: every operation
// rounds to f32 where that does, sums of a group are doubles added in the order of its elements. So groups, not elements, are the lanes. See tiles.h for
// how this file is included.
#include "lanes.h"

void min_max(const float* w, size_t groups, size_t size, float* low, float* high) {
  for (size_t g = 0; g < groups; ++g, w += size) {
    float lo = w[0], hi = w[0];
    int32_t farthest = read_as<int32_t>(w) & 0x7fffffff;
    size_t i = 1;
    if (size >= kLanes) {
      Floats least = read_as<Floats>(w), most = least;
      Ints bits = (Ints)least & 0x7fffffff;
      for (i = kLanes; i + kLanes <= size; i += kLanes) {
        const Floats v = read_as<Floats>(w + i);
        least = smaller(v, least);
        most = larger(v, most);
        const Ints more = (Ints)v & 0x7fffffff;
        bits = more > bits ? more : bits;
      }
      float lows[kLanes], highs[kLanes];
      write_to(lows, least);
      write_to(highs, most);
      for (int l = 0; l < kLanes; ++l) {
        lo = lows[l] < lo ? lows[l] : lo;
        hi = highs[l] > hi ? highs[l] : hi;
        farthest = bits[l] > farthest ? bits[l] : farthest;
      }
    }
    for (; i < size; ++i) {
      lo = w[i] < lo ? w[i] : lo;
      hi = w[i] > hi ? w[i] : hi;
      const int32_t more = read_as<int32_t>(w + i) & 0x7fffffff;
      farthest = more > farthest ? more : farthest;
    }
    if (farthest >= 0x7f800000) lo = hi = __builtin_nanf("");
    // Zeros are equal whatever their sign: the first one counts.
    if (lo == 0 || hi == 0) {
      for (i = size; i-- > 0;) {
        lo = w[i] == lo ? w[i] : lo;
        hi = w[i] == hi ? w[i] : hi;
      }
    }
    low[g] = lo;
    high[g] = hi;
  }
}

/// Elements of groups that are turned at a time.
constexpr size_t kRun = 64;

/// Sums of one half-quadratic step over kGroupLanes groups, w[l] the weights of group l.
void proximal_step(const float* const* w, size_t size, float top, const float* inverse, const float* zero, double* error, double* zero_sum,
                   float* largest) {
  Floats turned[kRun];
  const Floats none = all(0.0f), last = all(top);
  for (int l = 0; l < kGroupLanes; l += kLanes) {
    const Floats s = read_as<Floats>(inverse + l), z = read_as<Floats>(zero + l);
    Doubles error_low = all(0.0), error_high = error_low, sum_low = error_low, sum_high = error_low;
    Floats most = none;
    for (size_t from = 0; from < size; from += kRun) {
      const size_t n = size - from < kRun ? size - from : kRun;
      turn(w + l, from, n, turned);
      for (size_t i = 0; i < n; ++i) {
        const Floats v = turned[i];
        const Floats scaled = v * s;
        const Floats q = smaller(larger(rounded(scaled + z), none), last);
        const Floats residual = magnitude(v - (q - z) / s);
        most = larger(residual, most);
        const Wide r = widened(residual), off = widened(q - scaled);
        error_low += r.low;
        error_high += r.high;
        sum_low += off.low;
        sum_high += off.high;
      }
    }
    write_to(error + l, Wide{error_low, error_high});
    write_to(zero_sum + l, Wide{sum_low, sum_high});
    write_to(largest + l, most);
  }
}

/// Codes of kGroupLanes groups, and the squares of w minus what they stand for. Solved: codes in f32 by inverse and solved; else in double by 1 / scale and
/// zero.
template <bool SOLVED>
void assign_lanes(const AssignCall& call) {
  Floats turned[kRun];
  const Floats none = all(0.0f), last = all(call.top);
  for (int l = 0; l < kGroupLanes; l += kLanes) {
    const Floats scale = read_as<Floats>(call.scale + l), zero = read_as<Floats>(call.zero + l);
    const Floats s = SOLVED ? read_as<Floats>(call.inverse + l) : none, z = SOLVED ? read_as<Floats>(call.solved + l) : none;
    const Wide wide_scale = widened(scale), wide_zero = widened(zero);
    const Wide inverse{1.0 / wide_scale.low, 1.0 / wide_scale.high};
    Doubles error_low = all(0.0), error_high = error_low, weight_low = error_low, weight_high = error_low;
    Doubles most_low = error_low, most_high = error_low;
    for (size_t from = 0; from < call.size; from += kRun) {
      const size_t n = call.size - from < kRun ? call.size - from : kRun;
      turn(call.weights + l, from, n, turned);
      for (size_t i = 0; i < n; ++i) {
        const Floats v = turned[i];
        const Wide x = widened(v);
        Floats q;
        if constexpr (SOLVED) {
          q = rounded(v * s + z);
        } else {
          // Clamped before it is narrowed: beyond, all numbers end at the same bound.
          const Doubles nothing = all(0.0), bound = all(256.0);
          q = narrowed({smaller(larger(rounded(x.low * inverse.low + wide_zero.low), nothing), bound),
                        smaller(larger(rounded(x.high * inverse.high + wide_zero.high), nothing), bound)});
        }
        q = smaller(larger(q, none), last);
        write_bytes(call.codes + (from + i) * call.pitch + l, q);
        const Wide number = widened((q - zero) * scale);
        const Wide off{x.low - number.low, x.high - number.high};
        error_low += off.low * off.low;
        error_high += off.high * off.high;
        weight_low += x.low * x.low;
        weight_high += x.high * x.high;
        most_low = larger(magnitude(off.low), most_low);
        most_high = larger(magnitude(off.high), most_high);
      }
    }
    write_to(call.squared_error + l, Wide{error_low, error_high});
    write_to(call.squared_weight + l, Wide{weight_low, weight_high});
    write_to(call.largest + l, Wide{most_low, most_high});
  }
}

void assign_codes(const AssignCall& call) { call.inverse != nullptr ? assign_lanes<true>(call) : assign_lanes<false>(call); }

#include "blocks.h"
#include "feedback.h"
#include "fit.h"
#include "int8_rows.h"
#include "rotated.h"

constexpr QuantizerKernels quantizer_kernels() {
  QuantizerKernels k{};
  k.min_max = min_max;
  k.proximal_step = proximal_step;
  k.assign_codes = assign_codes;
  k.grid_sums = grid_sums;
  k.turn_bytes = turn_bytes;
  k.block_absmax = block_absmax;
  k.four_bit = four_bit;
  k.fixed_point = fixed_point;
  k.squares = squares;
  k.rotate_and_divide = rotate_and_divide;
  k.scale_and_rotate = scale_and_rotate;
  k.number_cells = number_cells;
  k.distances = distances;
  k.make_up = make_up;
  k.round_in_order = round_in_order;
  k.take_products = take_products;
  k.add_times = add_times;
  k.add_products = add_products;
  return k;
}
