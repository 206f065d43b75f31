#include "routines-hqq.h"

#include <atomic>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "power.h"

namespace lowbit {
namespace {

double dead_zone(double norm, double beta) { return norm == 1 ? 0.99 / beta : 0.99 * power(beta, -1 / (2 - norm)); }

/// sign(x) max(|x| - |x|^(p-1) / beta, 0), every operation rounded to f32.
float shrink(float x, double p, double inverse_beta) {
  const float magnitude = std::fabs(x);
  if (magnitude == 0) return 0;
  const double cut = p == 1 ? inverse_beta
                            : static_cast<float>(inverse_beta * static_cast<float>(power(static_cast<double>(magnitude), p - 1)));
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

/// The steps of some groups. All arrays begin with the first of them.
struct StepsOfChunk {
  const Kernels& kernels;
  const ProximalSteps& steps;
  const double* quiet;  // dead zones of the steps, and of the last that may come
  const float* weights;
  size_t size;
  const float* inverse;

  /// One step over the groups of a list, from which those that settle are taken. errors: of each group and step two numbers, if it moves and if it stops.
  size_t take(size_t step, uint32_t* list, size_t count, float* zero, uint8_t* settled, double* errors) const {
    const float top = static_cast<float>(steps.levels - 1);
    const double divisor = static_cast<double>(size);
    const bool last = steps.betas[step] == steps.last_beta;
    size_t kept = 0;
    for (size_t from = 0; from < count; from += kGroupLanes) {
      const LaneGroups lanes(list + from, count - from, weights, size);
      alignas(64) float s[kGroupLanes], z[kGroupLanes], largest[kGroupLanes];
      alignas(64) double error[kGroupLanes], zero_sum[kGroupLanes];
      lanes.gather(inverse, s);
      lanes.gather(zero, z);
      kernels.quantizers.proximal_step(lanes.weights, size, top, s, z, error, zero_sum, largest);
      for (int l = 0; l < lanes.count; ++l) {
        const uint32_t g = lanes.groups[l];
        const double matters = static_cast<double>(largest[l]) > quiet[steps.count] ? static_cast<double>(largest[l]) : 0;
        const float found = matters <= quiet[step] ? static_cast<float>(zero_sum[l] / divisor)
                                                   : shrunk_zero(lanes.weights[l], size, top, s[l], z[l], steps.norm, steps.betas[step]);
        zero[g] = found;
        // Whether a group stops is a branch that nobody can predict, so there is none. What is kept is never behind what is read.
        const size_t stops = (found == z[l]) & ((matters == 0) | last);
        errors[2 * (g * steps.count + step) + stops] = error[l];
        settled[g] = static_cast<uint8_t>(stops);
        list[kept] = g;
        kept += 1 - stops;
      }
    }
    return kept;
  }
};

/// Codes of a tile before they are packed: a group after the other (axis 1), or element after element of all groups, `pitch` apart (axis 0).
struct TileCodes {
  std::unique_ptr<uint8_t[]> data;
  size_t pitch;
};

template <class Word>
void put_lane(uint8_t* words, const uint8_t* codes, size_t count, int shift) {
  for (size_t i = 0; i < count; ++i) {
    Word word;
    std::memcpy(&word, words + i * sizeof(Word), sizeof(Word));
    word = static_cast<Word>(word | static_cast<Word>(static_cast<Word>(codes[i]) << shift));
    std::memcpy(words + i * sizeof(Word), &word, sizeof(Word));
  }
}

void put(const TilePacking& packing, uint8_t* words, const uint8_t* codes, size_t count, int lane) {
  const int shift = packing.bits * (packing.lanes - 1 - lane);
  packing.word_bytes == 1 ? put_lane<uint8_t>(words, codes, count, shift) : put_lane<uint32_t>(words, codes, count, shift);
}

void pack_groups(Pool& pool, const TileWeights& w, const TilePacking& packing, const TileCodes& codes, uint8_t* words) {
  each_chunk(pool, packing.words(w.size), size_t{1} << 15, [&](size_t first, size_t count) {
    uint8_t* to = words + first * static_cast<size_t>(packing.word_bytes);
    std::memset(to, 0, count * static_cast<size_t>(packing.word_bytes));
    size_t at = 0;
    for (int lane = 0; lane < packing.lanes; ++lane) {
      const size_t n = packing.lane_groups[lane] * w.size;
      if (first < n) put(packing, to, codes.data.get() + at + first, std::min(count, n - first), lane);
      at += n;
    }
  });
}

/// A group is a column: element r goes to row r mod word_rows of lane r div word_rows.
void pack_columns(Pool& pool, const TileWeights& w, const TilePacking& packing, const TileCodes& codes, uint8_t* words) {
  const size_t row_bytes = packing.extent * static_cast<size_t>(packing.word_bytes);
  each_chunk(pool, packing.word_rows, (size_t{1} << 15) / std::max<size_t>(1, packing.extent), [&](size_t first, size_t count) {
    for (size_t row = first; row < first + count; ++row) {
      uint8_t* to = words + row * row_bytes;
      std::memset(to, 0, row_bytes);
      for (int lane = 0; lane < packing.lanes; ++lane) {
        const size_t r = static_cast<size_t>(lane) * packing.word_rows + row;
        if (r < w.size) put(packing, to, codes.data.get() + r * codes.pitch, packing.extent, lane);
      }
    }
  });
}

/// What the packing says must be what there is: it says where bytes are written.
bool fits(const TilePacking& packing, const TileWeights& w) {
  if (packing.axis == 0) return packing.extent == w.groups && w.size <= packing.word_rows * static_cast<size_t>(packing.lanes);
  size_t groups = 0;
  for (int lane = 0; lane < packing.lanes; ++lane) {
    if (packing.lane_groups[lane] > packing.extent) return false;
    groups += packing.lane_groups[lane];
  }
  return groups == w.groups;
}

}  // namespace

void hqq_min_max(const Kernels& kernels, Pool& pool, const TileWeights& w, const MinMaxRules& rules, float* inverse, float* zero) {
  const float top = static_cast<float>(rules.levels - 1);
  each_chunk(pool, w.groups, groups_of_chunk(w.size), [&](size_t first, size_t groups) {
    std::unique_ptr<float[]> room;
    std::vector<float> low(groups), high(groups);
    kernels.quantizers.min_max(widened(kernels, w, first, groups, room), groups, w.size, low.data(), high.data());
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

void hqq_proximal_steps(const Kernels& kernels, Pool& pool, const TileWeights& w, const ProximalSteps& steps, const float* inverse,
                        const float* zero, float* zeros, uint8_t* settled, double* sums) {
  std::vector<double> errors(2 * steps.count * w.groups);
  std::vector<std::atomic<size_t>> stopped(steps.count);
  const size_t moving = static_cast<size_t>(std::count(settled, settled + w.groups, uint8_t{0}));
  std::vector<double> quiet;
  for (size_t step = 0; step < steps.count; ++step) quiet.push_back(dead_zone(steps.norm, steps.betas[step]));
  quiet.push_back(dead_zone(steps.norm, steps.last_beta));
  each_chunk(pool, w.groups, groups_of_chunk(w.size), [&](size_t first, size_t groups) {
    std::unique_ptr<float[]> room;
    const StepsOfChunk chunk{kernels, steps, quiet.data(), widened(kernels, w, first, groups, room), w.size, inverse + first};
    const auto list = room_of<uint32_t>(groups);
    size_t count = 0;
    for (size_t i = 0; i < groups; ++i) {
      list[count] = static_cast<uint32_t>(i);
      count += settled[first + i] == 0;
    }
    const float* before = zero;
    for (size_t step = 0; step < steps.count; ++step) {
      float* after = zeros + step * w.groups;
      std::copy(before + first, before + first + groups, after + first);
      const size_t kept = chunk.take(step, list.get(), count, after + first, settled + first, errors.data() + 2 * steps.count * first);
      stopped[step] += count - kept;
      count = kept;
      before = after;
    }
  });
  // Sums of a step are doubles added in the order of the groups; a group that does not count adds nothing.
  std::vector<double> total(2 * steps.count);
  for (size_t g = 0; g < w.groups; ++g) {
    const double* of_group = errors.data() + 2 * steps.count * g;
    for (size_t i = 0; i < 2 * steps.count; ++i) total[i] += of_group[i];
  }
  for (size_t step = 0, left = moving; step < steps.count; ++step) {
    left -= stopped[step];
    sums[3 * step + 2] = static_cast<double>(left);
    sums[3 * step] = total[2 * step];
    sums[3 * step + 1] = total[2 * step + 1];
  }
}

Status hqq_finish(const Kernels& kernels, Pool& pool, const TileWeights& w, int levels, const TileGrid& grid, const TilePacking& packing,
                  uint8_t* words, double* sums) {
  if (!fits(packing, w)) return Status::bad_argument;
  const bool columns = packing.axis == 0;
  const size_t padded = (w.groups + kGroupLanes - 1) / kGroupLanes * kGroupLanes;
  const TileCodes codes{room_of<uint8_t>(padded * w.size), padded};
  const auto errors = room_of<double>(3 * padded);
  double* squared_error = errors.get();
  double* squared_weight = squared_error + padded;
  double* largest = squared_weight + padded;
  each_chunk(pool, w.groups, groups_of_chunk(w.size), [&](size_t first, size_t groups) {
    std::unique_ptr<float[]> room;
    const float* weights = widened(kernels, w, first, groups, room);
    const auto turned = room_of<uint8_t>(columns ? 0 : kGroupLanes * w.size);
    const auto ascending = room_of<uint32_t>(groups);
    std::iota(ascending.get(), ascending.get() + groups, 0u);
    for (size_t from = first; from < first + groups; from += kGroupLanes) {
      const LaneGroups lanes(ascending.get() + (from - first), first + groups - from, weights, w.size);
      alignas(64) float numbers[4][kGroupLanes];
      const float* of_grid[4] = {grid.scale, grid.zero, grid.inverse, grid.solved};
      for (int i = 0; i < 4; ++i) {
        if (of_grid[i] != nullptr) lanes.gather(of_grid[i] + first, numbers[i]);
      }
      kernels.quantizers.assign_codes({lanes.weights, w.size, static_cast<float>(levels - 1), numbers[0], numbers[1],
                                       grid.inverse == nullptr ? nullptr : numbers[2], numbers[3],
                                       columns ? codes.data.get() + from : turned.get(), columns ? codes.pitch : kGroupLanes,
                                       squared_error + from, squared_weight + from, largest + from});
      if (!columns) kernels.quantizers.turn_bytes(turned.get(), w.size, lanes.count, codes.data.get() + from * w.size, w.size);
    }
  });
  columns ? pack_columns(pool, w, packing, codes, words) : pack_groups(pool, w, packing, codes, words);
  sums[0] = sums[1] = sums[2] = 0;
  for (size_t g = 0; g < w.groups; ++g) {
    sums[0] += squared_error[g];
    sums[1] += squared_weight[g];
    sums[2] = std::max(sums[2], largest[g]);
  }
  return Status::ok;
}

}  // namespace lowbit
