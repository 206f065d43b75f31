#include "routines-int8.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "layout.h"

namespace lowbit {
namespace {

constexpr double kOne = 1 << 15;
/// Weights whose sums are taken by themselves.
constexpr size_t kSpan = 4096;

struct RowScale {
  float factor = 0;  // of float16 weights
  double step = 0;   // of codes
  int32_t limit = 0;
  bool by_rule = true;
};

/// Of the largest float16 magnitude: see RowCoder.code.
RowScale scale_of(float largest, bool few, bool narrow) {
  RowScale row;
  row.step = static_cast<double>(largest) * static_cast<double>(static_cast<float>(1.0 / 127));
  if (largest == 0) return row;
  row.factor = 1.0f / largest * 127.0f;
  const int exponent = narrow ? -14 : std::max(std::ilogb(largest), -14);
  const double unit = std::ldexp(1.0, exponent - 10);
  const double margin = std::max(127 * unit / 2 / static_cast<double>(largest) + 0x1p-12, 0x1p-8);
  row.by_rule = few || !(margin < 0.5);
  if (!row.by_rule) row.limit = static_cast<int32_t>(std::floor((0.5 - margin) * kOne * ((0.5 - margin) * kOne)));
  return row;
}

/// Weights one by one; adds to sums[3].
void code_by_rule(const float* w, size_t count, const RowScale& row, uint8_t* codes, double* sums) {
  for (size_t i = 0; i < count; ++i) {
    const float code = std::nearbyint(from_f16(to_f16(w[i])) * row.factor);
    codes[i] = static_cast<uint8_t>(static_cast<int32_t>(code));
    const double weight = static_cast<double>(w[i]);
    const double error = std::fabs(weight - static_cast<double>(static_cast<float>(static_cast<double>(code) * row.step)));
    sums[0] += error * error;
    sums[1] += weight * weight;
    sums[2] = std::max(sums[2], error);
  }
}

struct Span {
  double squared_error, squared_weight, largest, nearest;
};

/// Rows of a call that are coded span by span.
struct SpanCoder {
  const Kernels& kernels;
  const TileWeights& w;
  const RowScale* scales;
  uint8_t* codes;
  Span* spans;  // [rows, spans_of_row]
  size_t spans_of_row;

  /// Span `index` of some rows.
  void code(const uint32_t* rows, size_t count, size_t index, size_t size) const {
    const float* weights[kGroupLanes];
    std::unique_ptr<float[]> room[kGroupLanes];
    alignas(64) double scale[kGroupLanes], step[kGroupLanes], sums[4][kGroupLanes];
    alignas(64) float factor[kGroupLanes];
    alignas(64) int32_t limit[kGroupLanes];
    const size_t width = float_bytes(w.dtype);
    for (size_t l = 0; l < kGroupLanes; ++l) {
      const RowScale& row = scales[rows[std::min(l, count - 1)]];
      const size_t at = rows[std::min(l, count - 1)] * w.size + index * kSpan;
      weights[l] = l < count ? widened(kernels, {w.data + at * width, w.dtype, 1, size}, 0, 1, room[l]) : weights[count - 1];
      scale[l] = kOne / row.step;
      step[l] = row.step;
      factor[l] = row.factor;
      limit[l] = row.limit;
    }
    const auto turned = room_of<uint8_t>(size * kGroupLanes);
    const auto straight = room_of<uint8_t>(size * kGroupLanes);
    kernels.quantizers.fixed_point({weights, size, scale, step, factor, limit, turned.get(), sums[0], sums[1], sums[2], sums[3]});
    kernels.quantizers.turn_bytes(turned.get(), size, static_cast<int>(count), straight.get(), size);
    for (size_t l = 0; l < count; ++l) {
      std::memcpy(codes + rows[l] * w.size + index * kSpan, straight.get() + l * size, size);
      const double unit = step[l] / kOne;
      spans[rows[l] * spans_of_row + index] = {sums[0][l] * unit * unit, sums[1][l] * unit * unit, sums[2][l], sums[3][l]};
    }
  }
};

}  // namespace

void bnb_int8(const Kernels& kernels, Pool& pool, const Int8Rows& rows, float* magnitudes, uint8_t* codes, double* errors) {
  const TileWeights& w = rows.weights;
  const size_t whole = w.size / 4 * 4;
  const size_t spans_of_row = (whole + kSpan - 1) / kSpan;
  const auto scales = room_of<RowScale>(w.groups);
  const auto spans = room_of<Span>(w.groups * spans_of_row);
  std::vector<uint32_t> list;
  const size_t rows_of_chunk = std::max<size_t>(1, 4 * kSpan / std::max<size_t>(1, w.size));
  each_chunk(pool, w.groups, rows_of_chunk, [&](size_t first, size_t count) {
    std::unique_ptr<float[]> room;
    kernels.quantizers.block_absmax(widened(kernels, w, first, count, room), count, w.size, magnitudes + first);
    for (size_t r = first; r < first + count; ++r) {
      const float largest = from_f16(to_f16(magnitudes[r]));
      scales[r] = std::isfinite(largest) ? scale_of(largest, rows.few, rows.narrow) : RowScale{};
    }
  });
  for (size_t r = 0; r < w.groups; ++r) {
    if (!scales[r].by_rule) list.push_back(static_cast<uint32_t>(r));
  }
  const SpanCoder coder{kernels, w, scales.get(), codes, spans.get(), spans_of_row};
  const size_t sets = (list.size() + kGroupLanes - 1) / kGroupLanes;
  each_chunk(pool, sets * spans_of_row, 1, [&](size_t first, size_t count) {
    for (size_t i = first; i < first + count; ++i) {
      const size_t set = i / spans_of_row * kGroupLanes, index = i % spans_of_row;
      coder.code(list.data() + set, std::min<size_t>(kGroupLanes, list.size() - set), index, std::min(kSpan, whole - index * kSpan));
    }
  });
  each_chunk(pool, w.groups, rows_of_chunk, [&](size_t first, size_t count) {
    for (size_t r = first; r < first + count; ++r) {
      const RowScale& row = scales[r];
      double sums[3] = {0, 0, 0}, largest = 0;
      bool near = false;
      size_t from = 0;
      if (!row.by_rule) {
        for (size_t s = 0; s < spans_of_row; ++s) {
          const Span& span = spans[r * spans_of_row + s];
          sums[0] += span.squared_error;
          sums[1] += span.squared_weight;
          largest = std::max(largest, span.largest);
          near = near || span.nearest >= 0;
          sums[2] = std::max(sums[2], span.nearest);
        }
        if (!near) sums[2] = largest;
        from = whole;
      }
      uint8_t* to = codes + r * w.size;
      if (!std::isfinite(from_f16(to_f16(magnitudes[r])))) {
        std::fill_n(to, w.size, uint8_t{0});
      } else if (from < w.size) {
        std::unique_ptr<float[]> room;
        const TileWeights rest{w.data + (r * w.size + from) * float_bytes(w.dtype), w.dtype, 1, w.size - from};
        code_by_rule(widened(kernels, rest, 0, 1, room), rest.size, row, to + from, sums);
      }
      for (size_t k = 0; k < 3; ++k) errors[k * w.groups + r] = sums[k];
    }
  });
}

}  // namespace lowbit
