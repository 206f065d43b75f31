// LLM.int8 on runs of rows, see groups.h: what packages/bnb/src/int8-row.ts computes, but that codes near the middle between two are not listed and done
// again: the rule that is for them is followed for all weights, and taken where it counts. Fixed-point errors are whole numbers, exact in any order.

/// Bits below the point.
constexpr int kFraction = 15;

struct FixedPointSums {
  Doubles error[2], weight[2], largest[2], nearest[2];
};

/// Four weights of each lane: squares of weights are added four at a time.
ALWAYS_INLINE void code_four(const Floats* v, const Wide& scale, const Wide& step, Floats factor, Ints limit, uint8_t* codes, FixedPointSums& sums) {
  constexpr int32_t kOne = 1 << kFraction, kHalf = kOne / 2;
  constexpr double kBias = 256.0 * kOne + kHalf + 0.5;
  Doubles squares[4][2];
  UNROLL for (int i = 0; i < 4; ++i) {
    const Wide w = widened(v[i]);
    const Wide x{w.low * scale.low, w.high * scale.high};
    squares[i][0] = x.low * x.low;
    squares[i][1] = x.high * x.high;
    const Ints fixed = truncated({x.low + kBias, x.high + kBias});
    const Ints rest = (fixed & (kOne - 1)) - kHalf;
    const Ints near = rest * rest > limit;
    const Ints whole = (fixed >> kFraction) - 256;
    const Ints by_rule = __builtin_convertvector(rounded(rounded_to_f16(v[i]) * factor), Ints);
    const Ints code = near ? by_rule : whole;
    write_bytes(codes + i * kGroupLanes, code);
    const Wide off = widened(fixed - (256 * kOne + kHalf) - code * kOne);
    sums.error[0] += off.low * off.low;
    sums.error[1] += off.high * off.high;
    const Wide number = widened(code);
    const Wide stored = widened(narrowed({number.low * step.low, number.high * step.high}));
    const Wide error{magnitude(w.low - stored.low), magnitude(w.high - stored.high)};
    const Wide counts = widened(near);  // -1 where it does
    sums.largest[0] = larger(error.low, sums.largest[0]);
    sums.largest[1] = larger(error.high, sums.largest[1]);
    sums.nearest[0] = larger(counts.low == 0.0 ? counts.low - 1.0 : error.low, sums.nearest[0]);
    sums.nearest[1] = larger(counts.high == 0.0 ? counts.high - 1.0 : error.high, sums.nearest[1]);
  }
  UNROLL for (int k = 0; k < 2; ++k) sums.weight[k] += squares[0][k] + squares[1][k] + (squares[2][k] + squares[3][k]);
}

void fixed_point(const FixedPointCall& call) {
  Floats turned[kRun];
  for (int l = 0; l < kGroupLanes; l += kLanes) {
    const Wide scale{read_as<Doubles>(call.scale + l), read_as<Doubles>(call.scale + l + kLanes / 2)};
    const Wide step{read_as<Doubles>(call.step + l), read_as<Doubles>(call.step + l + kLanes / 2)};
    const Floats factor = read_as<Floats>(call.factor + l);
    const Ints limit = read_as<Ints>(call.limit + l);
    const Doubles none = all(0.0), least = all(-1.0);
    FixedPointSums sums{{none, none}, {none, none}, {none, none}, {least, least}};
    for (size_t from = 0; from < call.size; from += kRun) {
      const size_t n = call.size - from < kRun ? call.size - from : kRun;
      turn(call.weights + l, from, n, turned);
      for (size_t i = 0; i < n; i += 4) {
        code_four(turned + i, scale, step, factor, limit, call.codes + (from + i) * kGroupLanes + l, sums);
      }
    }
    write_to(call.squared_error + l, Wide{sums.error[0], sums.error[1]});
    write_to(call.squared_weight + l, Wide{sums.weight[0], sums.weight[1]});
    write_to(call.largest + l, Wide{sums.largest[0], sums.largest[1]});
    write_to(call.nearest + l, Wide{sums.nearest[0], sums.nearest[1]});
  }
}
