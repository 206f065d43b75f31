// Coordinate descent over the grids and codes of rows: the numbers of packages/models/src/feedback/descent.ts, bit for bit. Some rows go together, so that a row of
// moments is used by all of them while it is in the cache; each has its own sums.
#include <cmath>
#include <cstring>

#include "layout.h"
#include "routines-feedback.h"

namespace lowbit {
namespace {

/// Below it, as a share of what it is the difference of, a determinant says that two columns are one.
constexpr double kSame = 1e-9;
/// Channels of a group whose moments are widened at a time.
constexpr size_t kPanel = 64;

/// What is the same for all rows.
struct Shared {
  const Kernels& kernels;
  const Descent& d;
  const float* extra;  // own less the diagonal of moments
  const double* sums;  // of each channel's moments with its group
};

/// Up to kFeedbackRows rows.
class Rows {
 public:
  Rows(const Shared& shared, size_t first, size_t count)
      : shared_(shared), d_(shared.d), first_(first), count_(count), pulls_(room_of<float>(kFeedbackRows * d_.channels)),
        with_(room_of<double>(kFeedbackRows * d_.size)), panel_(room_of<double>(kPanel * d_.size)) {
    for (size_t r = 0; r < count_; ++r) {
      for (size_t i = 0; i < d_.channels; ++i) errors(r)[i] = error_of(r, i);
    }
    std::memset(pulls_.get(), 0, kFeedbackRows * d_.channels * sizeof(float));
    MakeUpCall call{};
    call.coupling = d_.moments;
    call.pitch = call.from = call.size = d_.channels;
    for (size_t r = 0; r < kFeedbackRows; ++r) {
      call.errors[r] = errors(r < count_ ? r : count_ - 1);
      call.targets[r] = pull(r);
    }
    shared_.kernels.quantizers.make_up(call);
    for (size_t r = 0; r < count_; ++r) {
      for (size_t i = 0; i < d_.channels; ++i) pull(r)[i] += errors(r)[i] * shared_.extra[i];
    }
  }

  void descend() {
    bool moving[kFeedbackRows];
    for (size_t r = 0; r < count_; ++r) moving[r] = true;
    for (int sweep = 0; sweep < d_.sweeps; ++sweep) {
      bool changed[kFeedbackRows] = {};
      for (size_t from = 0; from < d_.channels; from += d_.size) {
        move_grids(from, moving, changed);
        move_codes(from, moving, changed);
      }
      bool any = false;
      for (size_t r = 0; r < count_; ++r) any = (moving[r] = moving[r] && changed[r]) || any;
      if (!any) return;
    }
  }

 private:
  size_t group(size_t r, size_t from) const { return ((first_ + r) * d_.channels + from) / d_.size; }
  uint8_t* codes(size_t r) const { return d_.codes + (first_ + r) * d_.channels; }
  float* errors(size_t r) const { return d_.errors + (first_ + r) * d_.channels; }
  const float* weights(size_t r) const { return d_.weights + (first_ + r) * d_.channels; }
  float* pull(size_t r) const { return pulls_.get() + r * d_.channels; }
  double* with(size_t r) const { return with_.get() + r * d_.size; }

  float error_of(size_t r, size_t i) const {
    const size_t g = group(r, i);
    return weights(r)[i] - (static_cast<float>(codes(r)[i]) - d_.zero[g]) * d_.scale[g];
  }

  void set_error(size_t r, size_t i) {
    const float error = error_of(r, i), more = error - errors(r)[i];
    errors(r)[i] = error;
    shared_.kernels.quantizers.add_times(pull(r), d_.moments + i * d_.channels, more, d_.channels);
    pull(r)[i] += more * shared_.extra[i];
  }

  /// Less the products of codes with the moments of their group: of each channel the sum over the group, in order.
  void products(size_t from, const bool* moving) {
    std::memset(with_.get(), 0, kFeedbackRows * d_.size * sizeof(double));
    double levels[kPanel];
    for (size_t begin = 0; begin < d_.size; begin += kPanel) {
      const size_t count = std::min(kPanel, d_.size - begin);
      for (size_t j = 0; j < count; ++j) {
        const float* moments = d_.moments + (from + begin + j) * d_.channels + from;
        for (size_t i = 0; i < d_.size; ++i) panel_[j * d_.size + i] = static_cast<double>(moments[i]);
      }
      for (size_t r = 0; r < count_; ++r) {
        if (!moving[r]) continue;
        for (size_t j = 0; j < count; ++j) levels[j] = static_cast<double>(codes(r)[from + begin + j]);
        shared_.kernels.quantizers.take_products(with(r), levels, panel_.get(), d_.size, count, 0, d_.size);
      }
    }
  }

  bool find_grid(size_t r, size_t from) {
    const size_t g = group(r, from);
    const double s = static_cast<double>(d_.scale[g]), z = static_cast<double>(d_.zero[g]);
    double qq = 0, q1 = 0, oo = 0, pq = 0, p1 = 0;
    for (size_t i = 0; i < d_.size; ++i) {
      const double q = codes(r)[from + i], p = static_cast<double>(pull(r)[from + i]), sum = shared_.sums[from + i];
      qq += q * (-with(r)[i] + q * static_cast<double>(shared_.extra[from + i]));
      q1 += q * sum;
      oo += sum;
      pq += q * p;
      p1 += p;
    }
    const double both = qq * oo, determinant = both - q1 * q1;
    if (!(determinant > kSame * both)) return false;
    const double scale_move = (pq * oo - p1 * q1) / determinant, shift_move = (p1 * qq - pq * q1) / determinant;
    const double scale = stored_as(d_.scale_dtype, s + scale_move);
    const double zero = stored_as(d_.zero_dtype, (s * z - shift_move) / scale);
    if (!(scale > 0 && std::isfinite(scale) && std::isfinite(zero))) return false;
    const double a = scale - s, b = s * z - scale * zero;
    const double cost = a * a * qq + 2 * a * b * q1 + b * b * oo - 2 * (a * pq + b * p1);
    if (!(cost < 0)) return false;
    d_.scale[g] = static_cast<float>(scale);
    d_.zero[g] = static_cast<float>(zero);
    return true;
  }

  void move_grids(size_t from, const bool* moving, bool* changed) {
    products(from, moving);
    bool moved[kFeedbackRows] = {};
    for (size_t r = 0; r < count_; ++r) moved[r] = moving[r] && find_grid(r, from);
    for (size_t i = from; i < from + d_.size; ++i) {
      for (size_t r = 0; r < count_; ++r) {
        if (moved[r]) set_error(r, i);
      }
    }
    for (size_t r = 0; r < count_; ++r) changed[r] = changed[r] || moved[r];
  }

  void move_codes(size_t from, const bool* moving, bool* changed) {
    const double top = d_.levels - 1;
    double inverse[kFeedbackRows], zero[kFeedbackRows];
    for (size_t r = 0; r < count_; ++r) {
      inverse[r] = 1 / static_cast<double>(d_.scale[group(r, from)]);
      zero[r] = static_cast<double>(d_.zero[group(r, from)]);
    }
    for (size_t i = from; i < from + d_.size; ++i) {
      const double own = static_cast<double>(d_.own[i]);
      for (size_t r = 0; r < count_; ++r) {
        if (!moving[r]) continue;
        const double best = static_cast<double>(weights(r)[i]) - static_cast<double>(errors(r)[i]) + static_cast<double>(pull(r)[i]) / own;
        if (!std::isfinite(best)) continue;
        double q = best * inverse[r] + zero[r] + 6755399441055744.0 - 6755399441055744.0;
        q = q > 0 ? (q > top ? top : q) : 0;
        if (q == static_cast<double>(codes(r)[i])) continue;
        codes(r)[i] = static_cast<uint8_t>(q);
        set_error(r, i);
        changed[r] = true;
      }
    }
  }

  const Shared& shared_;
  const Descent& d_;
  size_t first_, count_;
  std::unique_ptr<float[]> pulls_;   // [rows, channels]
  std::unique_ptr<double[]> with_;   // [rows, size]
  std::unique_ptr<double[]> panel_;  // [kPanel, size]
};

}  // namespace

void feedback_descend(const Kernels& kernels, Pool& pool, const Descent& d) {
  const auto extra = room_of<float>(d.channels);
  const auto sums = room_of<double>(d.channels);
  for (size_t i = 0; i < d.channels; ++i) {
    extra[i] = d.own[i] - d.moments[i * (d.channels + 1)];
    sums[i] = 0;
    const size_t first = i - i % d.size;
    for (size_t j = first; j < first + d.size; ++j) sums[i] += static_cast<double>(d.moments[j * d.channels + i]);
    sums[i] += static_cast<double>(extra[i]);
  }
  const Shared shared{kernels, d, extra.get(), sums.get()};
  each_chunk(pool, d.rows, kFeedbackRows, [&](size_t first, size_t count) {
    for (size_t at = first; at < first + count; at += kFeedbackRows) Rows(shared, at, std::min<size_t>(kFeedbackRows, first + count - at)).descend();
  });
}

}  // namespace lowbit
