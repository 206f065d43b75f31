#include "routines-higgs.h"

#include <cmath>
#include <cstring>
#include <numeric>

#include "layout.h"

namespace lowbit {
namespace {

float rounded_to(Float dtype, float value) {
  if (dtype == Float::f16) return from_f16(to_f16(value));
  if (dtype == Float::f32) return value;
  const uint32_t bits = static_cast<uint32_t>(to_bf16(value)) << 16;
  std::memcpy(&value, &bits, 4);
  return value;
}

/// What all blocks of a run share.
struct Coding {
  const Kernels& kernels;
  const RotatedRun& run;
  const NearestPoints& points;
  const float* stored;
  size_t dim;
  float root;      // of the block
  double farthest;  // magnitude of a stored number

  /// Some blocks, each in `pitch` numbers; sums [3]: of each block.
  void code(const float* weights, size_t first, size_t count, uint8_t* codes, float* scales, double* const* sums) const {
    const size_t block = run.block;
    const size_t pitch = std::max<size_t>(16, block);
    const auto restored = room_of<float>(count * pitch);
    const auto room = room_of<uint32_t>(2 * block / dim);
    alignas(64) double squares[kGroupLanes], lane_sums[2][kGroupLanes];
    const float* w[kGroupLanes];
    const float* v[kGroupLanes];
    for (int l = 0; l < kGroupLanes; ++l) {
      const size_t b = std::min(static_cast<size_t>(l), count - 1);
      w[l] = weights + b * block;
      v[l] = restored.get() + b * pitch;
    }
    kernels.quantizers.squares(w, block, squares);
    for (size_t b = 0; b < count; ++b) {
      float* values = restored.get() + b * pitch;
      const float scale = block_of(w[b], squares[b], values, codes + (first + b) * block / dim, room.get());
      const size_t of_block = block / run.group;
      std::fill_n(scales + (first + b) * of_block, of_block, scale);
      const size_t numbers = run.numbers_of(first + b);
      std::fill(values + numbers, values + block, 0.0f);
    }
    kernels.quantizers.distances(w, v, block, 1.0 / std::sqrt(static_cast<double>(block)), lane_sums[0], lane_sums[1]);
    for (size_t b = 0; b < count; ++b) {
      sums[0][first + b] = lane_sums[0][b];
      sums[1][first + b] = squares[b];
      sums[2][first + b] = lane_sums[1][b];
    }
  }

  /// The scale of a block; its codes, and what they stand for times the root of the block's size.
  float block_of(const float* weights, double squares, float* values, uint8_t* codes, uint32_t* room) const {
    const size_t block = run.block;
    const size_t n = std::max<size_t>(16, block);
    const auto none = [&](float scale) {
      std::fill(values, values + n, 0.0f);
      std::fill(codes, codes + block / dim, uint8_t{0});
      return scale;
    };
    if (!(squares > 0)) return none(0);
    const float norm = static_cast<float>(std::sqrt(squares));
    const float scale = rounded_to(run.scale, norm / root);
    const float most = rounded_to(run.scale, static_cast<float>(static_cast<double>(scale) * farthest));
    if (!(static_cast<double>(norm) * static_cast<double>(block) < 0x1p127 && std::isfinite(most))) return none(INFINITY);
    std::copy(weights, weights + block, values);
    std::fill(values + block, values + n, 0.0f);
    kernels.quantizers.rotate_and_divide(values, n, block, norm);
    points.find(kernels, values, block / dim, codes, room);
    if (dim == 2) {
      for (size_t i = 0; i < block / 2; ++i) std::memcpy(values + 2 * i, stored + 2 * codes[i], 8);
    } else {
      for (size_t i = 0; i < block; ++i) values[i] = stored[codes[i]];
    }
    kernels.quantizers.scale_and_rotate(values, n, block, scale, run.scale);
    return scale;
  }
};

}  // namespace

void higgs_code(const Kernels& kernels, Pool& pool, const RotatedRun& run, const Grid& grid, const float* stored, uint8_t* codes, float* scales,
                double* sums) {
  const std::shared_ptr<const NearestPoints> points = nearest_points(grid);
  const size_t dim = static_cast<size_t>(grid.dim);
  double farthest = 0;
  for (size_t i = 0; i < grid.size * dim; ++i) farthest = std::max(farthest, static_cast<double>(std::fabs(stored[i])));
  const Coding coding{kernels, run, *points, stored, dim, static_cast<float>(std::sqrt(static_cast<double>(run.block))), farthest};
  const auto of_blocks = room_of<double>(3 * run.blocks);
  double* const columns[3] = {of_blocks.get(), of_blocks.get() + run.blocks, of_blocks.get() + 2 * run.blocks};
  const size_t threads = static_cast<size_t>(pool.threads());
  const size_t step = std::min<size_t>(kGroupLanes, (run.blocks + threads - 1) / threads);
  const bool whole = run.inp % run.block == 0;
  each_chunk(pool, run.blocks, step, [&](size_t begin, size_t all) {
    for (size_t first = begin; first < begin + all; first += kGroupLanes) {
      const size_t count = std::min<size_t>(kGroupLanes, begin + all - first);
      const size_t from = run.start(first), numbers = run.start(first + count) - from;
      std::unique_ptr<float[]> room, filled;
      const float* weights = widened(kernels, {run.data + from * float_bytes(run.dtype), run.dtype, 1, numbers}, 0, 1, room);
      if (!whole) {
        filled = room_of<float>(count * run.block);
        for (size_t b = 0; b < count; ++b) {
          float* to = filled.get() + b * run.block;
          const float* row = weights + (run.start(first + b) - from);
          std::fill(std::copy(row, row + run.numbers_of(first + b), to), to + run.block, 0.0f);
        }
        weights = filled.get();
      }
      coding.code(weights, first, count, codes, scales, columns);
    }
  });
  sums[0] = sums[1] = sums[2] = 0;
  for (size_t b = 0; b < run.blocks; ++b) {
    sums[0] += columns[0][b];
    sums[1] += columns[1][b];
    sums[2] = std::max(sums[2], columns[2][b]);
  }
}

void flute_pack(Pool& pool, const FlutePacking& packing, const uint8_t* codes, size_t columns, uint32_t* words) {
  const size_t fields = columns * packing.dim / 2;
  const int width = 2 * packing.bits;
  // Some bits of the fields of a row, at a place in a row of words.
  const auto put = [&](size_t row, size_t word_row, int low, uint32_t mask, int shift) {
    const uint8_t* from = codes + row * columns;
    uint32_t* to = words + word_row * fields;
    for (size_t j = 0; j < fields; ++j) {
      const uint32_t field = packing.dim == 2 ? from[j] : static_cast<uint32_t>(from[2 * j] << packing.bits | from[2 * j + 1]);
      to[j] |= (field >> low & mask) << shift;
    }
  };
  const uint32_t whole = (1u << width) - 1;
  each_chunk(pool, packing.tile, 1, [&](size_t first, size_t count) {
    for (size_t t = first; t < first + count; ++t) {
      const size_t second = packing.tile + t / 32 * 64 + t % 32;
      const size_t at[] = {t, second, second + 32};
      for (size_t plane = 0; plane < (packing.bits == 3 ? 3u : 1u); ++plane) std::fill_n(words + at[plane] * fields, fields, 0u);
      if (packing.bits != 3) {
        for (int c = 0; c * width < 32; ++c) put(static_cast<size_t>(c) * packing.tile + t, t, 0, whole, width * c);
        continue;
      }
      for (size_t c = 0; c < 15; ++c) put(c * packing.tile + t, at[c % 3], 0, whole, width * static_cast<int>(c / 3));
      for (int i = 0; i < 3; ++i) put(15 * packing.tile + t, at[i], 2 * i, 3, 30);
    }
  });
}

}  // namespace lowbit
