// Routines of feedback (packages/models/src/feedback) and sums of products of channels, see groups.h. Lanes are channels here: each has its own sum, whose terms come in the
// order of the TypeScript whatever the width of a vector.

/// Adds what makes up for the errors of `from` channels, one after another, to the targets of kFeedbackRows rows.
void make_up(const MakeUpCall& call) {
  size_t i = 0;
  for (; i + kLanes <= call.size; i += kLanes) {
    Floats sums[kFeedbackRows];
    UNROLL for (int r = 0; r < kFeedbackRows; ++r) sums[r] = read_as<Floats>(call.targets[r] + i);
    const float* coupling = call.coupling + i;
    for (size_t j = 0; j < call.from; ++j, coupling += call.pitch) {
      const Floats c = read_as<Floats>(coupling);
      UNROLL for (int r = 0; r < kFeedbackRows; ++r) sums[r] += all(call.errors[r][j]) * c;
    }
    UNROLL for (int r = 0; r < kFeedbackRows; ++r) write_to(call.targets[r] + i, sums[r]);
  }
  for (; i < call.size; ++i) {
    for (int r = 0; r < kFeedbackRows; ++r) {
      float sum = call.targets[r][i];
      for (size_t j = 0; j < call.from; ++j) sum += call.errors[r][j] * call.coupling[j * call.pitch + i];
      call.targets[r][i] = sum;
    }
  }
}

/// Rounds the channels of a group of one row one after another: each error goes to the targets of all after it. `targets` is written to.
void round_in_order(const RoundCall& call) {
  const double inverse = 1 / static_cast<double>(call.scale), zero = static_cast<double>(call.zero), top = call.top;
  for (size_t j = 0; j < call.size; ++j) {
    double q = static_cast<double>(call.targets[j]) * inverse + zero + 6755399441055744.0 - 6755399441055744.0;
    q = q > 0 ? (q > top ? top : q) : 0;
    const float error = call.weights[j] - (static_cast<float>(q) - call.zero) * call.scale;
    call.codes[j] = static_cast<uint8_t>(q);
    call.errors[j] = error;
    const float* coupling = call.coupling + j * call.pitch;
    const Floats e = all(error);
    // From the vector that the next channel is in: the coupling with those before it is 0, and they are done.
    size_t i = (j + 1) / kLanes * kLanes;
    for (; i + kLanes <= call.size; i += kLanes) write_to(call.targets + i, read_as<Floats>(call.targets + i) + e * read_as<Floats>(coupling + i));
    for (i = i > j ? i : j + 1; i < call.size; ++i) call.targets[i] += error * coupling[i];
  }
}

/// Takes `count` products off each of row[from, to), one after another: shares[p] * columns[p * pitch + l].
void take_products(double* row, const double* shares, const double* columns, size_t pitch, size_t count, size_t from, size_t to) {
  constexpr size_t kWide = kLanes / 2, kVectors = 4;
  size_t l = from;
  for (; l + kVectors * kWide <= to; l += kVectors * kWide) {
    Doubles v[kVectors];
    UNROLL for (size_t k = 0; k < kVectors; ++k) v[k] = read_as<Doubles>(row + l + k * kWide);
    for (size_t p = 0; p < count; ++p) {
      const Doubles share = all(shares[p]);
      UNROLL for (size_t k = 0; k < kVectors; ++k) v[k] -= share * read_as<Doubles>(columns + p * pitch + l + k * kWide);
    }
    UNROLL for (size_t k = 0; k < kVectors; ++k) write_to(row + l + k * kWide, v[k]);
  }
  for (; l < to; ++l) {
    double value = row[l];
    for (size_t p = 0; p < count; ++p) value -= shares[p] * columns[p * pitch + l];
    row[l] = value;
  }
}

/// Adds the products of kSquareSide by kSquareSide channels over `rows` rows to sums [kSquareSide, kSquareSide], row by row; a and b are [rows, kSquareSide].
void add_products(const double* a, const double* b, size_t rows, double* sums) {
  constexpr int kWide = kLanes / 2, kAcross = kSquareSide / kWide, kDown = 16 / kAcross > 8 ? 8 : 16 / kAcross;
  static_assert(kSquareSide % kDown == 0);
  for (int i = 0; i < kSquareSide; i += kDown) {
    Doubles s[kDown][kAcross];
    UNROLL for (int d = 0; d < kDown; ++d) UNROLL for (int k = 0; k < kAcross; ++k) s[d][k] = read_as<Doubles>(sums + (i + d) * kSquareSide + k * kWide);
    for (size_t r = 0; r < rows; ++r) {
      Doubles right[kAcross];
      UNROLL for (int k = 0; k < kAcross; ++k) right[k] = read_as<Doubles>(b + r * kSquareSide + k * kWide);
      UNROLL for (int d = 0; d < kDown; ++d) {
        const Doubles left = all(a[r * kSquareSide + i + d]);
        UNROLL for (int k = 0; k < kAcross; ++k) s[d][k] += left * right[k];
      }
    }
    UNROLL for (int d = 0; d < kDown; ++d) UNROLL for (int k = 0; k < kAcross; ++k) write_to(sums + (i + d) * kSquareSide + k * kWide, s[d][k]);
  }
}

/// Adds from[i] * by to into[i].
void add_times(float* into, const float* from, float by, size_t count) {
  const Floats factor = all(by);
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) write_to(into + i, read_as<Floats>(into + i) + factor * read_as<Floats>(from + i));
  for (; i < count; ++i) into[i] += by * from[i];
}
