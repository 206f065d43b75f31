#include "routines.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace lowbit {
namespace {

/// Groups of a chunk: some thousands of weights, so that a thread's share of a tile is several chunks.
size_t groups_of_chunk(const Pool& pool, const TileWeights& w) {
  return std::max({size_t{kGroupLanes}, (size_t{1} << 14) / std::max<size_t>(1, w.size), w.groups / pool.most_chunks() + 1});
}

/// Runs body(first group, groups) over all groups on the pool.
template <class F>
void each_chunk(Pool& pool, const TileWeights& w, F&& body) {
  struct Work {
    F* body;
    size_t step, groups;
  };
  const Work work{&body, groups_of_chunk(pool, w), w.groups};
  const Stage stage{[](const void* context, size_t chunk, int) {
                      const Work& all = *static_cast<const Work*>(context);
                      const size_t first = chunk * all.step;
                      (*all.body)(first, std::min(all.step, all.groups - first));
                    },
                    &work, static_cast<uint32_t>((w.groups + work.step - 1) / work.step)};
  pool.run(&stage, 1);
}

/// Groups of f32, widened into `room` where they are not (or not where floats may lie).
const float* widened(const Kernels& kernels, const TileWeights& w, size_t first, size_t groups, std::vector<float>& room) {
  const size_t width = w.dtype == Float::f32 ? 4 : 2;
  const uint8_t* from = w.data + first * w.size * width;
  if (w.dtype == Float::f32 && reinterpret_cast<uintptr_t>(from) % alignof(float) == 0) return reinterpret_cast<const float*>(from);
  room.resize(groups * w.size);
  kernels.widen(from, w.dtype, groups * w.size, room.data());
  return room.data();
}

double dead_zone(double norm, double beta) { return norm == 1 ? 0.99 / beta : 0.99 * std::pow(beta, -1 / (2 - norm)); }

/// sign(x) max(|x| - |x|^(p-1) / beta, 0), every operation rounded to f32.
float shrink(float x, double p, double inverse_beta) {
  const float magnitude = std::fabs(x);
  if (magnitude == 0) return 0;
  const double cut = p == 1 ? inverse_beta
                            : static_cast<float>(inverse_beta * static_cast<float>(std::pow(static_cast<double>(magnitude), p - 1)));
  const float rest = static_cast<float>(magnitude - cut);
  return rest > 0 ? (x < 0 ? -rest : rest) : 0;
}

/// The new zero of a group in which the shrinkage acts.
float shrunk_zero(const float* w, size_t size, float top, float s, float z, double norm, double beta) {
  const double inverse_beta = 1 / beta;
  double sum = 0;
  for (size_t i = 0; i < size; ++i) {
    float q = std::nearbyint(w[i] * s + z);
    q = std::min(std::max(q, 0.0f), top);
    const float rest = shrink(w[i] - (q - z) / s, norm, inverse_beta);
    sum += static_cast<double>(q - (w[i] - rest) * s);
  }
  return static_cast<float>(sum / static_cast<double>(size));
}

}  // namespace

void hqq_min_max(const Kernels& kernels, Pool& pool, const TileWeights& w, const MinMaxRules& rules, float* inverse, float* zero) {
  const float top = static_cast<float>(rules.levels - 1);
  each_chunk(pool, w, [&](size_t first, size_t groups) {
    std::vector<float> room, low(groups), high(groups);
    kernels.min_max(widened(kernels, w, first, groups, room), groups, w.size, low.data(), high.data());
    for (size_t i = 0; i < groups; ++i) {
      const float range = high[i] - low[i];
      float s = rules.small_range && static_cast<double>(range) <= 1e-4 ? 1.0f : 1.0f / range * top;
      if (s > 2e4f) s = 2e4f;
      const float z = -low[i] * s;
      inverse[first + i] = s;
      zero[first + i] = rules.round_zero ? std::nearbyint(z) + 0.0f : z;
    }
  });
}

void hqq_proximal_step(const Kernels& kernels, Pool& pool, const TileWeights& w, const Shrinkage& shrinkage, const float* inverse,
                       float* zero, uint8_t* settled, double* sums) {
  const float top = static_cast<float>(shrinkage.levels - 1);
  const double quiet = dead_zone(shrinkage.norm, shrinkage.beta);
  const double quiet_to_the_end = dead_zone(shrinkage.norm, shrinkage.last_beta);
  enum : uint8_t { passed = 0, moves = 1, stops = 2 };
  std::vector<double> errors(w.groups);
  std::vector<uint8_t> fate(w.groups, passed);
  each_chunk(pool, w, [&](size_t first, size_t groups) {
    std::vector<float> room;
    const float* weights = widened(kernels, w, first, groups, room);
    for (size_t next = first; next < first + groups;) {
      // The groups that are left, kGroupLanes at a time; lanes without one repeat the last.
      size_t list[kGroupLanes];
      int count = 0;
      for (; next < first + groups && count < kGroupLanes; ++next) {
        if (settled[next] == 0) list[count++] = next;
      }
      if (count == 0) break;
      const float* at[kGroupLanes];
      float s[kGroupLanes], z[kGroupLanes], largest[kGroupLanes];
      double error[kGroupLanes], zero_sum[kGroupLanes];
      for (int l = 0; l < kGroupLanes; ++l) {
        const size_t g = list[std::min(l, count - 1)];
        at[l] = weights + (g - first) * w.size;
        s[l] = inverse[g];
        z[l] = zero[g];
      }
      kernels.proximal_step(at, w.size, top, s, z, error, zero_sum, largest);
      for (int l = 0; l < count; ++l) {
        const size_t g = list[l];
        const double matters = static_cast<double>(largest[l]) > quiet_to_the_end ? static_cast<double>(largest[l]) : 0;
        zero[g] = matters <= quiet ? static_cast<float>(zero_sum[l] / static_cast<double>(w.size))
                                   : shrunk_zero(at[l], w.size, top, s[l], z[l], shrinkage.norm, shrinkage.beta);
        const bool stop = zero[g] == z[l] && (matters == 0 || shrinkage.beta == shrinkage.last_beta);
        errors[g] = error[l];
        fate[g] = stop ? stops : moves;
        if (stop) settled[g] = 1;
      }
    }
  });
  double moving = 0, stopped = 0, left = 0;
  for (size_t g = 0; g < w.groups; ++g) {
    if (fate[g] == moves) {
      moving += errors[g];
      left += 1;
    } else if (fate[g] == stops) {
      stopped += errors[g];
    }
  }
  sums[0] = moving;
  sums[1] = stopped;
  sums[2] = left;
}

Status hqq_finish(const Kernels& kernels, Pool& pool, const TileWeights& w, int levels, const float* scale, const float* zero,
                  const float* inverse, const float* solved, const TilePacking& packing, uint8_t* words, double* sums) {
  const size_t count = w.groups * w.size;
  // What the packing says must be what there is: it says where bytes are written.
  if (packing.axis == 1) {
    size_t groups = 0;
    for (int lane = 0; lane < packing.lanes; ++lane) {
      if (packing.lane_groups[lane] > packing.extent) return Status::bad_argument;
      groups += packing.lane_groups[lane];
    }
    if (groups != w.groups) return Status::bad_argument;
  } else if (packing.extent != w.groups || w.size > packing.word_rows * static_cast<size_t>(packing.lanes)) {
    return Status::bad_argument;
  }
  const float top = static_cast<float>(levels - 1);
  std::vector<uint8_t> codes(count);
  std::vector<double> errors(count);
  each_chunk(pool, w, [&](size_t first, size_t groups) {
    std::vector<float> room;
    const float* weights = widened(kernels, w, first, groups, room);
    for (size_t i = 0; i < groups; ++i) {
      const size_t g = first + i;
      kernels.assign_codes(weights + i * w.size, w.size, top, scale[g], zero[g], inverse != nullptr, inverse == nullptr ? 0 : inverse[g],
                           solved == nullptr ? 0 : solved[g], codes.data() + g * w.size, errors.data() + g * w.size);
    }
  });
  std::vector<float> room;
  const float* weights = widened(kernels, w, 0, w.groups, room);
  // One sum over the tile in its order, as the TypeScript has it.
  double squared_error = 0, squared_weight = 0, most = 0;
  for (size_t i = 0; i < count; ++i) {
    const double error = errors[i];
    const double weight = static_cast<double>(weights[i]);
    squared_error += error * error;
    squared_weight += weight * weight;
    most = std::max(most, std::fabs(error));
  }
  sums[0] = squared_error;
  sums[1] = squared_weight;
  sums[2] = most;

  const auto put = [&](size_t word, int lane, uint8_t code) {
    const int shift = packing.bits * (packing.lanes - 1 - lane);
    if (packing.word_bytes == 1) {
      words[word] = static_cast<uint8_t>(words[word] | code << shift);
    } else {
      uint32_t value;
      std::memcpy(&value, words + 4 * word, 4);
      value |= static_cast<uint32_t>(code) << shift;
      std::memcpy(words + 4 * word, &value, 4);
    }
  };
  if (packing.axis == 1) {
    size_t at = 0;
    for (int lane = 0; lane < packing.lanes; ++lane) {
      const size_t n = packing.lane_groups[lane] * w.size;
      for (size_t i = 0; i < n; ++i) put(i, lane, codes[at + i]);
      at += n;
    }
  } else {
    // A group is a column: element r goes to row r mod word_rows of lane r div word_rows.
    for (size_t r = 0; r < w.size; ++r) {
      const size_t row = r % packing.word_rows * packing.extent;
      const int lane = static_cast<int>(r / packing.word_rows);
      for (size_t g = 0; g < w.groups; ++g) put(row + g, lane, codes[g * w.size + r]);
    }
  }
  return Status::ok;
}

}  // namespace lowbit
