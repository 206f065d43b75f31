// Grids of quantizers that are searched for: packages/hqq/src/solvers/least-squares.ts and search-block.ts, packages/bnb/src/scale-search.ts, to the bit. What is
// searched for by itself (the starts, the candidates) is shared out among lanes; sums that are not exact are taken by one lane in the order of the elements.
#pragma once

#include "weight.cuh"

namespace lowbit {

/// Adding and taking off 1.5 * 2^52 rounds to an integer, ties to even.
constexpr double kFar = 6755399441055744.0;
constexpr float kGreatest = 3.4028235e38f;

__device__ __forceinline__ double shuffle_double(unsigned mask, double value, int bits) {
  uint32_t words[2];
  memcpy(words, &value, 8);
  words[0] = __shfl_xor_sync(mask, words[0], bits);
  words[1] = __shfl_xor_sync(mask, words[1], bits);
  memcpy(&value, words, 8);
  return value;
}

constexpr int kTeam = 8;  // lanes that work on one group or block

__device__ __forceinline__ unsigned team_mask() { return 0xffu << (threadIdx.x % 32 / kTeam * kTeam); }

/// The nearest number of a dtype, by way of f32.
__device__ __forceinline__ double narrowed(double value, int dtype) { return static_cast<double>(rounded(static_cast<float>(value), dtype)); }

/// The least power of two above a positive number.
__device__ __forceinline__ double power_above(double value) {
  uint64_t bits;
  memcpy(&bits, &value, 8);
  bits = ((bits >> 52) + 1) << 52;
  memcpy(&value, &bits, 8);
  return value;
}

/// A group on its way to a grid, as each lane of its team sees it.
struct FitGroup {
  Address from;
  long long at;
  int dtype, size;
  double middle, far, top;   // far: what rounds values, 0 where they are not rounded
  const double* channels;    // none: every weight is 1
  unsigned channel, stride, inp;
  double factor;             // to 2^20 beside the largest, 0 where weights are not rounded
  int first, step;           // elements that this lane sums over
  unsigned mask;
  bool exact;

  __device__ __forceinline__ double value(int i) const {
    const double v = static_cast<double>(stored_float(from, at + i, dtype)) - middle;
    return far != 0 ? v + far - far : v;
  }
  /// Channel of an element.
  __device__ __forceinline__ unsigned channel_of(int i) const { return static_cast<unsigned>((channel + static_cast<unsigned long long>(i) * stride) % inp); }
  __device__ __forceinline__ unsigned moved(unsigned at_channel, unsigned by) const {
    return at_channel >= inp - by ? at_channel - (inp - by) : at_channel + by;
  }
  __device__ __forceinline__ double weight(unsigned at_channel) const {
    double w = channels[at_channel];
    if (factor == 0) return w;
    w = w * factor + kFar - kFar;
    return w < 1 ? 1 : w;
  }
};

struct CodeSums {
  double first, second, mixed;
};

/// Of codes clamp(round(v / s - b / s)): of w q, w q^2 and w v q. Exact in any order where values were rounded.
__device__ __forceinline__ CodeSums code_sums(const FitGroup& g, double s, double b) {
  const double inverse = 1 / s, z = -b * inverse;
  CodeSums sums = {0, 0, 0};
  unsigned channel = g.channels != nullptr ? g.channel_of(g.first) : 0;
  const unsigned by = g.channels != nullptr ? static_cast<unsigned>(static_cast<unsigned long long>(g.step) * g.stride % g.inp) : 0;
  for (int i = g.first; i < g.size; i += g.step) {
    const double v = g.value(i);
    double q = v * inverse + z;
    q = q < 0 ? 0 : q > g.top ? g.top : q + kFar - kFar;
    double weighted = q;
    if (g.channels != nullptr) {
      weighted = g.weight(channel) * q;
      channel = g.moved(channel, by);
    }
    sums.first += weighted;
    sums.second += weighted * q;
    sums.mixed += weighted * v;
  }
  if (g.exact) {
    for (int bits = kTeam / 2; bits > 0; bits /= 2) {
      sums.first += shuffle_double(g.mask, sums.first, bits);
      sums.second += shuffle_double(g.mask, sums.second, bits);
      sums.mixed += shuffle_double(g.mask, sums.mixed, bits);
    }
  }
  return sums;
}

/**
 * Scales and zeros of groups of weights [groups, size], fitted by least squares as numbers of their dtypes; NaN where a group has NaN or infinity. `unit`: what
 * values are rounded to beside a power of two, 0 for groups so large that they are not. `channels` [inp]: importance of the channels that the elements of group g
 * meet, beginning with starts[g], each `stride` after the one before; none: all alike.
 * Grid: ceil(groups / 16); block: 128.
 */
extern "C" __global__ void hqq_least_squares(const unsigned char* weights, int dtype, int groups, int size, int levels, int alternations, int scale_dtype,
                                             int zero_dtype, float unit, const double* channels, const int* starts, int inp, int stride, float* scale,
                                             float* zero) {
  const int thread = blockIdx.x * blockDim.x + threadIdx.x, index = thread / kTeam, lane = thread % kTeam;
  if (index >= groups) return;
  FitGroup g;
  g.from = reinterpret_cast<Address>(weights);
  g.at = static_cast<long long>(index) * size;
  g.dtype = dtype;
  g.size = size;
  g.top = levels - 1;
  g.mask = team_mask();
  g.exact = unit != 0;
  g.first = g.exact ? lane : 0;
  g.step = g.exact ? kTeam : 1;
  float lo = stored_float(g.from, g.at, dtype), hi = lo;
  bool finite = fabsf(lo) <= kGreatest;
  for (int i = 1; i < size; ++i) {
    const float w = stored_float(g.from, g.at + i, dtype);
    finite = finite && fabsf(w) <= kGreatest;
    lo = w < lo ? w : lo;
    hi = w > hi ? w : hi;
  }
  if (!finite) {
    if (lane == 0) scale[index] = zero[index] = nan_value();
    return;
  }
  g.middle = (static_cast<double>(lo) + static_cast<double>(hi)) / 2;
  const double half_range = (static_cast<double>(hi) - static_cast<double>(lo)) / 2;
  g.far = g.exact && half_range > 0 ? kFar * static_cast<double>(unit) * power_above(half_range) : 0;
  g.channels = channels;
  g.factor = 0;
  g.inp = static_cast<unsigned>(inp);
  g.stride = static_cast<unsigned>(stride);
  g.channel = channels != nullptr ? static_cast<unsigned>(starts[index]) : 0;
  if (channels != nullptr && g.exact) {
    double largest = 0;
    unsigned channel = g.channel;
    for (int i = 0; i < size; ++i) {
      largest = channels[channel] > largest ? channels[channel] : largest;
      channel = g.moved(channel, g.stride);
    }
    g.factor = 1048576.0 / largest;
  }
  double total = 0, total_v = 0, squares = 0;
  unsigned channel = g.channel;
  for (int i = 0; i < size; ++i) {
    const double v = g.value(i);
    double w = 1;
    if (channels != nullptr) {
      w = g.weight(channel);
      channel = g.moved(channel, g.stride);
    }
    const double weighted = w * v;
    total += w;
    total_v += weighted;
    squares += weighted * v;
  }
  const double mean = total_v / total;
  // One value for all is what every storage dtype can do; for a constant group it is exact.
  double best_scale = narrowed(fabs(g.middle + mean), scale_dtype), best_zero = g.middle + mean < 0 ? 1 : -1;
  if (best_scale == 0) {
    best_scale = 1;
    best_zero = 0;
  }
  const double limit = 1.7976931348623157e308;
  const double one = -best_zero * best_scale - g.middle;
  double best = fabs(one) <= limit ? squares - 2 * one * total_v + one * one * total : bits_to_float(0x7f800000u);
  bool fitted = false;
  double too_wide = 0;
  const double shrink = 0.8 / levels < 0.05 ? 0.8 / levels : 0.05;
  const bool few = levels <= 4;  // the ends of the range are taken in apart
  constexpr int kEnds = 4;
  constexpr double kTakenIn = 0.15;
  for (int start = 0; half_range > 0 && start < (few ? kEnds * kEnds : 7); ++start) {
    const double below = half_range * (few ? 1 - 2 * kTakenIn * (start / kEnds) : 1 - start * shrink);
    const double above = few ? half_range * (1 - 2 * kTakenIn * (start % kEnds)) : below;
    double s = (below + above) / (levels - 1), b = -below;
    CodeSums last = {-1, -1, 0};
    for (int step = 0; step < alternations; ++step) {
      const CodeSums sums = code_sums(g, s, b);
      if (sums.first == last.first && sums.second == last.second && sums.mixed == last.mixed) break;
      last = sums;
      const double spread = sums.second - sums.first * sums.first / total;
      if (!(spread > 1e-12 * sums.second)) break;
      s = (sums.mixed - sums.first * mean) / spread;
      if (!(s > 0)) break;
      b = mean - s * sums.first / total;
    }
    const double stored_scale = narrowed(s, scale_dtype);
    if (stored_scale > limit) {
      too_wide = s;
      continue;
    }
    fitted = true;
    const double stored_zero = narrowed(last.first / total - (g.middle + mean) / stored_scale, zero_dtype);
    if (stored_scale == best_scale && stored_zero == best_zero) continue;
    const double offset = -stored_zero * stored_scale - g.middle;
    if (!(stored_scale > 0 && fabs(offset) <= limit)) continue;
    const CodeSums sums = code_sums(g, stored_scale, offset);
    const double error =
        squares + stored_scale * (stored_scale * sums.second + 2 * (offset * sums.first - sums.mixed)) + offset * (offset * total - 2 * total_v);
    if (error < best) {
      best = error;
      best_scale = stored_scale;
      best_zero = stored_zero;
    }
  }
  if (lane != 0) return;
  scale[index] = static_cast<float>(!fitted && too_wide > 0 ? too_wide : best_scale);
  zero[index] = static_cast<float>(best_zero);
}

/**
 * Inverse scales of groups of weights [groups, size]: of 129 within `range` around each, that with the smallest sum of absolute errors, the first of equal ones.
 * Grid: ceil(groups / 4); block: 128, a warp for each group.
 */
extern "C" __global__ void hqq_scale_search(const unsigned char* weights, int dtype, int groups, int size, int levels, float spacing, const float* inverse,
                                            const float* zero, float* found) {
  const int g = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
  if (g >= groups) return;
  const Address from = reinterpret_cast<Address>(weights);
  const long long at = static_cast<long long>(g) * size;
  const float own = inverse[g], z = zero[g], top = static_cast<float>(levels - 1), least = 2e-4f;
  constexpr double kNone = 1.7976931348623157e308;
  double best = kNone;
  float best_scale = own;
  int best_candidate = 129;
  for (int c = lane; c < 129; c += 32) {
    float s = own + static_cast<float>(c - 64) * spacing;
    if (fabsf(s) <= least) s = s < 0 ? -least : least;
    double error = 0;
    for (int i = 0; i < size; ++i) {
      const float w = stored_float(from, at + i, dtype);
      float q = rintf(w * own + z);
      q = q < 0 ? 0 : q > top ? top : q;
      error += static_cast<double>(fabsf(w - (q - z) / s));
    }
    if (error < best) {
      best = error;
      best_scale = s;
      best_candidate = c;
    }
  }
  for (int bits = 16; bits > 0; bits /= 2) {
    const double other = shuffle_double(kAll, best, bits);
    const float other_scale = __shfl_xor_sync(kAll, best_scale, bits);
    const int other_candidate = __shfl_xor_sync(kAll, best_candidate, bits);
    if (other < best || (other == best && other_candidate < best_candidate)) {
      best = other;
      best_scale = other_scale;
      best_candidate = other_candidate;
    }
  }
  if (lane == 0) found[g] = best_scale;
}

/// Cell of a number in units of the scale: how many of 15 bounds are below it; beyond the ends of the table it is the last.
__device__ __forceinline__ int clipped_cell(double scaled, const float* cuts) {
  const double u = scaled < -1 ? -1 : scaled > 1 ? 1 : scaled;
  int cell = 0;
  LOWBIT_UNROLL
  for (int step = 8; step > 0; step /= 2) cell += u > static_cast<double>(cuts[cell + step - 1]) ? step : 0;
  return cell;
}

/**
 * Scales of blocks of `size` of `count` weights by search: from six shares of the largest magnitude refitted by least squares. 0 for a block of zeros, the largest
 * magnitude itself where that is NaN or infinite. `channels` [inp] is the importance of the channels, the first weight meeting `channel`; none: all alike.
 * Grid: ceil(blocks / 16); block: 128, eight lanes for each block, of which six have a start.
 */
extern "C" __global__ void bnb_scale_search(const unsigned char* weights, int dtype, int count, int size, const double* channels, int inp, int channel,
                                            const float* cuts, const float* values, float* scales) {
  const int thread = blockIdx.x * blockDim.x + threadIdx.x, block = thread / kTeam, lane = thread % kTeam;
  const int blocks = count / size + (count % size != 0 ? 1 : 0);
  if (block >= blocks) return;
  const Address from = reinterpret_cast<Address>(weights);
  const int begin = block * size, length = count - begin < size ? count - begin : size;
  float largest = 0;
  for (int i = 0; i < length; ++i) {
    const float magnitude = fabsf(stored_float(from, begin + i, dtype));
    if (!(magnitude <= largest)) largest = largest != largest ? largest : magnitude;
  }
  if (!(largest > 0 && largest <= kGreatest)) {
    if (lane == 0) scales[block] = largest != largest ? nan_value() : largest;
    return;
  }
  constexpr double kNone = 1.7976931348623157e308;
  double least = kNone;
  float best = largest;
  const double share = lane == 0 ? 1 : lane == 1 ? 1.1 : lane == 2 ? 0.93 : lane == 3 ? 0.86 : lane == 4 ? 0.8 : 0.74;
  float scale = static_cast<float>(share * static_cast<double>(largest));
  const unsigned first = channels != nullptr ? static_cast<unsigned>((static_cast<long long>(channel) + begin) % inp) : 0;
  for (int step = 0; lane < 6 && step < 7; ++step) {
    double mixed = 0, second = 0, error = 0;
    unsigned at_channel = first;
    for (int i = 0; i < length; ++i) {
      const double value = static_cast<double>(stored_float(from, begin + i, dtype));
      const double point = static_cast<double>(values[clipped_cell(value / static_cast<double>(scale), cuts)]);
      double weight = 1;
      if (channels != nullptr) {
        weight = channels[at_channel];
        at_channel = at_channel + 1 == static_cast<unsigned>(inp) ? 0 : at_channel + 1;
      }
      const double off = value - point * static_cast<double>(scale);
      mixed += weight * value * point;
      second += weight * point * point;
      error += weight * (off * off);
    }
    if (error < least) {
      least = error;
      best = scale;
    }
    const float next = static_cast<float>(mixed / second);
    if (!(next > 0 && next <= kGreatest) || next == scale) break;
    scale = next;
  }
  // The first start of those with the least error; lane 0 where none has a number.
  int winner = lane;
  for (int bits = kTeam / 2; bits > 0; bits /= 2) {
    const double other = shuffle_double(team_mask(), least, bits);
    const float other_best = __shfl_xor_sync(team_mask(), best, bits);
    const int other_winner = __shfl_xor_sync(team_mask(), winner, bits);
    if (other < least || (other == least && other_winner < winner)) {
      least = other;
      best = other_best;
      winner = other_winner;
    }
  }
  if (lane == 0) scales[block] = best;
}

/// As bnb_four_bit for scales that were searched: codes of the nearest value of the table to weight / scale. Grid: ceil(blocks / 128); block: 128.
extern "C" __global__ void bnb_clipped(const unsigned char* weights, int dtype, int count, int size, const float* scale, const float* cuts,
                                       const unsigned char* codes, const float* values, unsigned char* packed, double* errors) {
  const int block = blockIdx.x * blockDim.x + threadIdx.x, blocks = count / size + (count % size != 0 ? 1 : 0);
  if (block >= blocks) return;
  const int begin = block * size, end = count - begin < size ? count : begin + size;
  const float s = scale[block];
  double squared_error = 0, squared_weight = 0, most = 0;
  for (int i = begin; i < end; i += 2) {
    int nibbles[2] = {0, 0};
    LOWBIT_UNROLL
    for (int half = 0; half < 2; ++half) {
      const bool there = i + half < end;
      const float x = there ? stored_float(reinterpret_cast<Address>(weights), i + half, dtype) : 0;
      const int cell = clipped_cell(there && s > 0 ? static_cast<double>(x) / static_cast<double>(s) : 0, cuts);
      nibbles[half] = codes[cell];
      if (!there) continue;
      const double off = fabs(static_cast<double>(x) - static_cast<double>(values[cell] * s));
      squared_error += off * off;
      squared_weight += static_cast<double>(x) * static_cast<double>(x);
      if (off > most) most = off;
    }
    packed[i / 2] = static_cast<unsigned char>(nibbles[0] << 4 | nibbles[1]);
  }
  errors[block] = squared_error;
  errors[blocks + block] = squared_weight;
  errors[2 * static_cast<long long>(blocks) + block] = most;
}

}  // namespace lowbit
