#include "routines-hqq-fit.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "layout.h"

namespace lowbit {
namespace {

/// What a fit needs to know of the codes q of a group of values v with weights w.
struct CodeSums {
  double first = 0;   // sum of w q
  double second = 0;  // sum of w q^2
  double mixed = 0;   // sum of w v q
};

/// 1.5 * 2^52: adding and taking it off rounds to an integer, ties to even.
constexpr double kRound = 6755399441055744.0;
/// Bits that weights are rounded to beside the largest of the group, and the fewest that values are.
constexpr int kWeightBits = 20, kLeastBits = 16;

/// Bits that values are rounded to so that sums are exact; 0 where nothing is rounded.
int exact_bits(size_t size, int levels) {
  if (size > size_t{1} << 20) return 0;
  const int bits = 53 - kWeightBits - std::bit_width(static_cast<uint32_t>(levels - 1)) - std::bit_width(static_cast<uint32_t>(size - 1));
  return bits >= kLeastBits ? bits : 0;
}

/// The least power of two above a positive number.
double power_above(double value) {
  const uint64_t exponent = std::bit_cast<uint64_t>(value) >> 52;
  return std::bit_cast<double>((exponent + 1) << 52);
}

/// Grids to start from: the min-max range, and six shrunk by more and more.
constexpr int kStarts = 7;
/// Up to so many levels the ends are taken in apart, to every pair of four places each, so much of the range from one to the next.
constexpr int kFewLevels = 4, kEnds = 4;
constexpr double kTakenIn = 0.15;

/// A group on its way to a grid. Values are those of the weight less `middle`.
struct Group {
  size_t index;
  double middle, half_range;
  double total, total_v, squares, mean;  // of weights, weighted values and weighted squares
  double best_scale, best_zero, best;
  bool fitted;
  double too_wide;
  // The start at hand, and the next grid whose codes are to be summed over.
  int start;
  size_t step;
  double s, b;
  CodeSums sums;
  bool checking;  // that grid is a rounded one, with this zero
  double zero;
};

/// Fits groups of a chunk in lanes, each of which takes the next group when it is done with one.
class Lanes {
 public:
  Lanes(const Kernels& kernels, const LeastSquares& fit, const TileChannels& channels, size_t size, size_t groups)
      : kernels_(kernels), fit_(fit), channels_(channels), size_(size), bits_(exact_bits(size, fit.levels)),
        // Groups of millions of weights would take too much room side by side.
        lanes_(size > kMostSideBySide || groups == 1 ? 1 : kGroupLanes), values_(size * static_cast<size_t>(lanes_)),
        weights_(size * static_cast<size_t>(lanes_), 1.0) {}

  /// Weights w of the groups from `first` on, of which the tile's arrays scale and zero are written.
  void solve(const float* w, size_t first, size_t groups, float* scale, float* zero) {
    w_ = w;
    first_ = first;
    next_ = first;
    end_ = first + groups;
    scale_ = scale;
    zero_ = zero;
    int busy = 0;
    for (int l = 0; l < lanes_; ++l) {
      busy_[l] = take(l);
      busy += busy_[l];
    }
    while (busy > 0) {
      sum();
      for (int l = 0; l < lanes_; ++l) {
        if (!busy_[l] || advance(groups_[l], {sums_[0][l], sums_[1][l], sums_[2][l]})) continue;
        give(groups_[l]);
        busy_[l] = take(l);
        busy -= !busy_[l];
      }
    }
  }

 private:
  static constexpr size_t kMostSideBySide = 8192;

  /// Begins with the next group that has something to fit; false if there is none.
  bool take(int lane) {
    while (next_ < end_) {
      Group& g = groups_[lane];
      g = Group{};
      g.index = next_++;
      if (!read(g, lane)) {
        scale_[g.index] = zero_[g.index] = std::numeric_limits<float>::quiet_NaN();
        continue;
      }
      begin(g);
      if (g.half_range > 0) {
        set_out(g);
        return true;
      }
      give(g);
    }
    return false;
  }

  /// Fills in values and weights of a group; false if one is not finite.
  bool read(Group& g, int lane) {
    const float* w = w_ + (g.index - first_) * size_;
    const size_t pitch = static_cast<size_t>(lanes_);
    float lo = w[0], hi = w[0];
    uint32_t farthest = 0;
    for (size_t i = 0; i < size_; ++i) {
      lo = w[i] < lo ? w[i] : lo;
      hi = w[i] > hi ? w[i] : hi;
      farthest = std::max(farthest, std::bit_cast<uint32_t>(w[i]) & 0x7fffffffu);
    }
    if (farthest >= 0x7f800000u) return false;
    // Around the middle of the range, so that sums of squares lose nothing to a common offset.
    g.middle = (static_cast<double>(lo) + static_cast<double>(hi)) / 2;
    g.half_range = (static_cast<double>(hi) - static_cast<double>(lo)) / 2;
    const bool rounds = bits_ > 0 && g.half_range > 0;
    double* weights = weights_.data() + lane;
    if (channels_.values != nullptr) weigh(g.index, weights, bits_ > 0);
    const double far = rounds ? kRound * std::ldexp(1.0, -bits_) * power_above(g.half_range) : 0;
    double* values = values_.data() + lane;
    for (size_t i = 0; i < size_; ++i) {
      double v = static_cast<double>(w[i]) - g.middle;
      if (rounds) v = v + far - far;
      const double weight = weights[i * pitch];
      const double weighted = weight * v;
      values[i * pitch] = v;
      g.total += weight;
      g.total_v += weighted;
      g.squares += weighted * v;
    }
    return true;
  }

  /// Importance of the channels that the elements of a group meet.
  void weigh(size_t index, double* weights, bool rounds) const {
    const size_t pitch = static_cast<size_t>(lanes_);
    const size_t number = channels_.groups[index], inp = channels_.count;
    const size_t stride = channels_.axis == 1 ? 1 % inp : channels_.columns % inp;
    size_t channel = (channels_.axis == 1 ? number * size_ : number) % inp;
    double largest = 0;
    for (size_t i = 0; i < size_; ++i) {
      const double weight = channels_.values[channel];
      weights[i * pitch] = weight;
      largest = weight > largest ? weight : largest;
      channel += stride;
      if (channel >= inp) channel -= inp;
    }
    if (!rounds) return;
    const double factor = static_cast<double>(1 << kWeightBits) / largest;
    for (size_t i = 0; i < size_; ++i) {
      const double weight = weights[i * pitch] * factor + kRound - kRound;
      weights[i * pitch] = weight < 1 ? 1 : weight;
    }
  }

  /// One value for all is what every storage dtype can do, however small the range; for a constant group it is exact.
  void begin(Group& g) const {
    g.mean = g.total_v / g.total;
    g.best_scale = stored_as(fit_.scale, std::fabs(g.middle + g.mean));
    g.best_zero = g.middle + g.mean < 0 ? 1 : -1;
    if (g.best_scale == 0) {
      g.best_scale = 1;
      g.best_zero = 0;
    }
    const double one = -g.best_zero * g.best_scale - g.middle;
    g.best = std::isfinite(one) ? g.squares - 2 * one * g.total_v + one * one * g.total : std::numeric_limits<double>::infinity();
  }

  bool few() const { return fit_.levels <= kFewLevels; }

  void set_out(Group& g) const {
    const double shrinkage = std::min(0.05, 0.8 / fit_.levels);
    const double lo = g.half_range * (few() ? 1 - 2 * kTakenIn * (g.start / kEnds) : 1 - g.start * shrinkage);
    const double hi = few() ? g.half_range * (1 - 2 * kTakenIn * (g.start % kEnds)) : lo;
    g.s = (lo + hi) / (fit_.levels - 1);
    g.b = -lo;
    g.sums = {-1, -1, 0};
    g.step = 0;
  }

  /// Takes the sums of the grid that was asked for; false when the group is done.
  bool advance(Group& g, const CodeSums& sums) const {
    if (!g.checking && refit(g, sums) && ++g.step < fit_.alternations) return true;
    if (!g.checking && round(g)) return true;
    if (g.checking) keep_better(g, sums);
    g.checking = false;
    if (++g.start == (few() ? kEnds * kEnds : kStarts)) return false;
    set_out(g);
    return true;
  }

  /// The grid that fits the codes; false where nothing will change any more.
  static bool refit(Group& g, const CodeSums& sums) {
    if (sums.first == g.sums.first && sums.second == g.sums.second && sums.mixed == g.sums.mixed) return false;
    g.sums = sums;
    const double spread = sums.second - (sums.first * sums.first) / g.total;
    if (!(spread > 1e-12 * sums.second)) return false;  // all on one code
    g.s = (sums.mixed - sums.first * g.mean) / spread;
    if (!(g.s > 0)) return false;
    g.b = g.mean - (g.s * sums.first) / g.total;
    return true;
  }

  /// Rounds the grid that was found; true if it is one to look at.
  bool round(Group& g) const {
    const double scale = stored_as(fit_.scale, g.s);
    if (scale == std::numeric_limits<double>::infinity()) {
      g.too_wide = g.s;
      return false;
    }
    g.fitted = true;
    // The best zero for the rounded scale, which is not exactly -b / s.
    const double zero = stored_as(fit_.zero, g.sums.first / g.total - (g.middle + g.mean) / scale);
    if (scale == g.best_scale && zero == g.best_zero) return false;
    g.s = scale;
    g.zero = zero;
    g.b = -zero * scale - g.middle;
    g.checking = scale > 0 && std::isfinite(g.b);
    return g.checking;
  }

  static void keep_better(Group& g, const CodeSums& sums) {
    const double error = g.squares + g.s * (g.s * sums.second + 2 * (g.b * sums.first - sums.mixed)) + g.b * (g.b * g.total - 2 * g.total_v);
    if (!(error < g.best)) return;
    g.best = error;
    g.best_scale = g.s;
    g.best_zero = g.zero;
  }

  void give(const Group& g) {
    // A range whose every scale overflows is far from one value for all, which is then no answer: who stores the scale says that it does not fit.
    scale_[g.index] = static_cast<float>(!g.fitted && g.too_wide > 0 ? g.too_wide : g.best_scale);
    zero_[g.index] = static_cast<float>(g.best_zero);
  }

  /// Of all lanes; those that are at rest give anything.
  void sum() {
    alignas(64) double inverse[kGroupLanes] = {}, z[kGroupLanes] = {};
    for (int l = 0; l < lanes_; ++l) {
      inverse[l] = 1 / groups_[l].s;
      z[l] = -groups_[l].b * inverse[l];
    }
    const double top = fit_.levels - 1;
    if (lanes_ == kGroupLanes) {
      kernels_.quantizers.grid_sums({values_.data(), weights_.data(), size_, top, inverse, z, sums_[0], sums_[1], sums_[2]});
      return;
    }
    CodeSums of;
    for (size_t i = 0; i < size_; ++i) {
      const double q = std::min(std::max(values_[i] * inverse[0] + z[0], 0.0), top) + kRound - kRound;
      const double weighted = weights_[i] * q;
      of.first += weighted;
      of.second += weighted * q;
      of.mixed += weighted * values_[i];
    }
    sums_[0][0] = of.first;
    sums_[1][0] = of.second;
    sums_[2][0] = of.mixed;
  }

  const Kernels& kernels_;
  const LeastSquares& fit_;
  const TileChannels& channels_;
  size_t size_;
  int bits_;
  int lanes_;
  std::vector<double> values_, weights_;  // [size, lanes]
  const float* w_ = nullptr;
  size_t first_ = 0, next_ = 0, end_ = 0;
  float* scale_ = nullptr;
  float* zero_ = nullptr;
  Group groups_[kGroupLanes] = {};
  bool busy_[kGroupLanes] = {};
  alignas(64) double sums_[3][kGroupLanes] = {};
};

}  // namespace

void hqq_least_squares(const Kernels& kernels, Pool& pool, const TileWeights& w, const LeastSquares& fit, const TileChannels& channels,
                       float* scale, float* zero) {
  each_chunk(pool, w.groups, groups_of_chunk(w.size), [&](size_t first, size_t groups) {
    std::unique_ptr<float[]> room;
    const float* weights = widened(kernels, w, first, groups, room);
    Lanes(kernels, fit, channels, w.size, groups).solve(weights, first, groups, scale, zero);
  });
}

}  // namespace lowbit
