// Sums over the codes that grids give groups, element by element: what least-squares fits are made of where levels are many. See groups.h.

/// values and weights [size, kGroupLanes]; q = clamp(round(v * inverse + z), 0, top), NaN stays NaN. Sums of w q, w q^2 and w v q by lane.
void grid_sums(const GridSumsCall& call) {
  const Doubles none = all(0.0), last = all(call.top);
  for (int l = 0; l < kGroupLanes; l += kLanes) {
    const Wide inverse = read_as<Wide>(call.inverse + l), z = read_as<Wide>(call.z + l);
    Wide first{none, none}, second = first, mixed = first;
    for (size_t i = 0; i < call.size; ++i) {
      const Wide v = read_as<Wide>(call.values + i * kGroupLanes + l), w = read_as<Wide>(call.weights + i * kGroupLanes + l);
      const Doubles q_low = rounded(smaller(last, larger(none, v.low * inverse.low + z.low)));
      const Doubles q_high = rounded(smaller(last, larger(none, v.high * inverse.high + z.high)));
      const Doubles weighted_low = w.low * q_low, weighted_high = w.high * q_high;
      first.low += weighted_low;
      first.high += weighted_high;
      second.low += weighted_low * q_low;
      second.high += weighted_high * q_high;
      mixed.low += weighted_low * v.low;
      mixed.high += weighted_high * v.high;
    }
    write_to(call.first + l, first);
    write_to(call.second + l, second);
    write_to(call.mixed + l, mixed);
  }
}
