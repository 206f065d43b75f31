#include "routines-bnb.h"

#include <cmath>
#include <numeric>

namespace lowbit {
namespace {

/// Smaller magnitudes count as this where one is divided by them.
constexpr float kLeastAbsmax = 1e-38f;

TileWeights full_blocks(const BlockRun& run) { return {run.data, run.dtype, run.count / run.size, run.size}; }

/// The weights of the last block if it is short, widened into `room`.
const float* short_block(const Kernels& kernels, const BlockRun& run, std::unique_ptr<float[]>& room) {
  const size_t full = run.count / run.size * run.size;
  const TileWeights rest{run.data + full * (run.dtype == Float::f32 ? 4 : 2), run.dtype, 1, run.count - full};
  return widened(kernels, rest, 0, 1, room);
}

/// What weights of a block are multiplied by, or divided.
struct Factor {
  float value;
  bool divides;

  float operator()(float weight) const { return divides ? weight / value : weight * value; }
};

Factor factor_of(float absmax, bool divides) {
  return divides ? Factor{absmax, true} : Factor{1.0f / (absmax > kLeastAbsmax || std::isnan(absmax) ? absmax : kLeastAbsmax), false};
}

/// One block of any length, plainly. `padded`: its last pair is filled up with a zero.
void plain_block(const float* w, size_t count, const Factor& factor, float scale, const FourBitCells& cells, uint8_t* packed, double errors[3]) {
  const auto cell_of = [&](float v) {
    if (std::isnan(v)) return 15;  // behind all numbers
    int cell = 0;
    for (int i = 0; i < 15; ++i) cell += cells.cuts[i] < v;
    return cell;
  };
  const bool counts = std::isfinite(scale);
  errors[0] = errors[1] = errors[2] = 0;
  for (size_t i = 0; i < count; i += 2) {
    double e[2] = {}, x[2] = {};
    int nibbles[2];
    for (size_t k = 0; k < 2; ++k) {
      const bool there = i + k < count;
      const int cell = cell_of(there ? factor(w[i + k]) : counts ? factor(0.0f) : 0.0f);
      nibbles[k] = cells.codes[cell];
      if (!there) continue;
      x[k] = static_cast<double>(w[i + k]);
      e[k] = std::fabs(x[k] - static_cast<double>(cells.values[cell] * scale));
    }
    packed[i / 2] = static_cast<uint8_t>(nibbles[0] << 4 | nibbles[1]);
    if (!counts) continue;
    errors[0] += e[0] * e[0] + e[1] * e[1];
    errors[1] += x[0] * x[0] + x[1] * x[1];
    errors[2] = std::max({errors[2], e[0], e[1]});
  }
}

constexpr size_t kNestedBlock = 256;

/// How many of the bounds are below it.
uint8_t nearest_entry(const float* bounds, float value) {
  size_t low = 0;
  for (size_t step = 128; step > 0; step /= 2) low += step * static_cast<size_t>(value > bounds[low + step - 1]);
  return static_cast<uint8_t>(low);
}

void code_scales(const NestedScales& nested, const float* absmax, size_t from, size_t to) {
  for (size_t i = from; i < to; ++i) {
    if (!std::isfinite(nested.offset)) {
      nested.codes[i] = 0;
      nested.scale[i] = NAN;
      continue;
    }
    const size_t group = (nested.first + i) / kNestedBlock;
    const float largest = nested.magnitudes[group];
    const float distance = absmax[i] - nested.offset;
    const bool is_short = (group + 1) * kNestedBlock > nested.blocks;  // the last ones divide if they are fewer
    const float least = std::max(largest, kLeastAbsmax);
    nested.codes[i] = nearest_entry(nested.bounds, is_short ? distance / least : distance * (1.0f / least));
    nested.scale[i] = nested.map[nested.codes[i]] * largest + nested.offset;
  }
}

}  // namespace

void bnb_absmax(const Kernels& kernels, Pool& pool, const BlockRun& run, float* absmax) {
  const TileWeights w = full_blocks(run);
  each_chunk(pool, w.groups, groups_of_chunk(w.size), [&](size_t first, size_t blocks) {
    std::unique_ptr<float[]> room;
    kernels.quantizers.block_absmax(widened(kernels, w, first, blocks, room), blocks, w.size, absmax + first);
  });
  if (run.count % run.size == 0) return;
  std::unique_ptr<float[]> room;
  float& last = absmax[w.groups];
  kernels.quantizers.block_absmax(short_block(kernels, run, room), 1, run.count % run.size, &last);
  if (run.divides && last < kLeastAbsmax) last = kLeastAbsmax;
}

void bnb_four_bit(const Kernels& kernels, Pool& pool, const BlockRun& run, const FourBitCells& cells, const NestedScales* nested, float* absmax,
                  uint8_t* packed, double* errors) {
  bnb_absmax(kernels, pool, run, absmax);
  const float* scale = nested == nullptr ? absmax : nested->scale;
  const TileWeights w = full_blocks(run);
  const size_t all_blocks = run.blocks();
  float codes[16];
  std::copy(cells.codes, cells.codes + 16, codes);
  each_chunk(pool, w.groups, groups_of_chunk(w.size), [&](size_t first, size_t blocks) {
    if (nested != nullptr) code_scales(*nested, absmax, first, first + blocks);
    std::unique_ptr<float[]> room;
    const float* weights = widened(kernels, w, first, blocks, room);
    const auto pairs = room_of<uint8_t>(kGroupLanes * w.size / 2);
    const auto ascending = room_of<uint32_t>(blocks);
    std::iota(ascending.get(), ascending.get() + blocks, 0u);
    for (size_t from = first; from < first + blocks; from += kGroupLanes) {
      const LaneGroups lanes(ascending.get() + (from - first), first + blocks - from, weights, w.size);
      alignas(64) float factor[kGroupLanes], scales[kGroupLanes];
      alignas(64) double sums[3][kGroupLanes];
      lanes.gather(scale + first, scales);
      for (int l = 0; l < kGroupLanes; ++l) factor[l] = factor_of(absmax[first + lanes.of(l)], false).value;
      kernels.quantizers.four_bit({lanes.weights, w.size, cells.cuts, cells.values, codes, factor, scales, pairs.get(), sums[0], sums[1], sums[2]});
      kernels.quantizers.turn_bytes(pairs.get(), w.size / 2, lanes.count, packed + from * w.size / 2, w.size / 2);
      for (int l = 0; l < lanes.count; ++l) {
        const size_t block = from + static_cast<size_t>(l);
        double of_block[3] = {sums[0][l], sums[1][l], sums[2][l]};
        if (!std::isfinite(scale[block])) {
          plain_block(lanes.weights[l], w.size, factor_of(absmax[block], false), scale[block], cells, packed + block * w.size / 2, of_block);
        }
        for (size_t k = 0; k < 3; ++k) errors[k * all_blocks + block] = of_block[k];
      }
    }
  });
  if (run.count % run.size == 0) return;
  if (nested != nullptr) code_scales(*nested, absmax, w.groups, w.groups + 1);
  std::unique_ptr<float[]> room;
  double of_block[3];
  plain_block(short_block(kernels, run, room), run.count % run.size, factor_of(absmax[w.groups], run.divides), scale[w.groups], cells,
              packed + w.groups * w.size / 2, of_block);
  for (size_t k = 0; k < 3; ++k) errors[k * all_blocks + w.groups] = of_block[k];
}

}  // namespace lowbit
