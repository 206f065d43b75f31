#include "routines-feedback.h"

#include <cstring>
#include <vector>

namespace lowbit {
namespace {

/// Channels that are factored before what they take off the others is done in one go.
constexpr size_t kPanel = 32;
/// Rows of samples that squares go through at a time: a strip of kSquareSide channels stays in the first cache.
constexpr size_t kSampleRows = 256;

}  // namespace

void feedback_factor(const Kernels& kernels, Pool& pool, const float* matrix, size_t n, float* coupling, double* cost) {
  const auto left = room_of<double>(n * n);
  const auto columns = room_of<double>(kPanel * n);  // of the panel: [kPanel, n]
  const auto shares = room_of<double>(n * kPanel);   // [n, kPanel]
  for (size_t i = 0; i < n * n; ++i) left[i] = static_cast<double>(matrix[i]);
  std::memset(coupling, 0, n * n * sizeof(float));
  for (size_t end = n; end > 0;) {
    const size_t count = std::min(end, kPanel), begin = end - count;
    for (size_t p = 0; p < count; ++p) {
      const size_t i = end - 1 - p;
      double* column = columns.get() + p * n;
      for (size_t l = 0; l <= i; ++l) column[l] = left[l * n + i];
      cost[i] = column[i];
      for (size_t j = 0; j < i; ++j) {
        const double share = column[j] / column[i];
        shares[j * kPanel + p] = share;
        coupling[j * n + i] = static_cast<float>(share);
        for (size_t l = std::max(j, begin); l < i; ++l) left[j * n + l] -= share * column[l];
      }
    }
    each_chunk(pool, begin, 8, [&](size_t first, size_t rows) {
      for (size_t j = first; j < first + rows; ++j) {
        kernels.quantizers.take_products(left.get() + j * n, shares.get() + j * kPanel, columns.get(), n, count, j, begin);
      }
    });
    end = begin;
  }
}

void feedback_targets(const Kernels& kernels, Pool& pool, const float* weights, const float* errors, const float* coupling, const ChannelGroup& group,
                      float* targets) {
  const auto [rows, channels, from, size] = group;
  each_chunk(pool, rows, kFeedbackRows, [&, channels = channels, from = from, size = size](size_t first, size_t count) {
    const auto spare = room_of<float>(size);  // of rows that are not there
    for (size_t at = first; at < first + count; at += kFeedbackRows) {
      MakeUpCall call{};
      call.coupling = coupling + from;
      call.pitch = channels;
      call.from = from;
      call.size = size;
      for (size_t r = 0; r < kFeedbackRows; ++r) {
        const size_t row = std::min(at + r, first + count - 1);
        const bool own = row == at + r;
        call.errors[r] = errors + row * channels;
        call.targets[r] = own ? targets + row * size : spare.get();
        std::memcpy(call.targets[r], weights + row * channels + from, size * sizeof(float));
      }
      kernels.quantizers.make_up(call);
    }
  });
}

void feedback_codes(const Kernels& kernels, Pool& pool, const float* targets, const float* weights, const float* scale, const float* zero,
                    const float* coupling, const ChannelGroup& group, int levels, uint8_t* codes, float* errors) {
  const auto [rows, channels, from, size] = group;
  each_chunk(pool, rows, kFeedbackRows, [&, channels = channels, from = from, size = size](size_t first, size_t count) {
    const auto row = room_of<float>(size);
    for (size_t r = first; r < first + count; ++r) {
      std::memcpy(row.get(), targets + r * size, size * sizeof(float));
      const RoundCall call{row.get(),  weights + r * channels + from, coupling + from * channels + from, channels, size, scale[r], zero[r],
                           static_cast<double>(levels - 1), codes + r * size, errors + r * size};
      kernels.quantizers.round_in_order(call);
    }
  });
}

void moments_squares(const Kernels& kernels, Pool& pool, const float* x, size_t rows, size_t width, double* sums) {
  constexpr size_t kSide = kSquareSide;
  const size_t strips = (width + kSide - 1) / kSide;
  const size_t most = std::min(rows, kSampleRows);
  const auto turned = room_of<double>(strips * most * kSide);  // [strips, most, kSide], zeros beyond the last channel
  std::memset(sums, 0, width * width * sizeof(double));
  for (size_t begin = 0; begin < rows; begin += most) {
    const size_t count = std::min(most, rows - begin);
    each_chunk(pool, strips, 1, [&](size_t first, size_t number) {
      for (size_t strip = first; strip < first + number; ++strip) {
        double* into = turned.get() + strip * most * kSide;
        const size_t channels = std::min(kSide, width - strip * kSide);
        for (size_t r = 0; r < count; ++r, into += kSide) {
          const float* from = x + (begin + r) * width + strip * kSide;
          for (size_t i = 0; i < kSide; ++i) into[i] = i < channels ? static_cast<double>(from[i]) : 0;
        }
      }
    });
    // A strip of the upper triangle at a time; strip s has as many squares less as strip `strips - 1 - s` has more, so the two go together.
    each_chunk(pool, (strips + 1) / 2, 1, [&](size_t first, size_t number) {
      double square[kSide * kSide];
      const auto strip_of = [&](size_t a) {
        for (size_t b = a; b < strips; ++b) {
          const size_t down = std::min(kSide, width - a * kSide), across = std::min(kSide, width - b * kSide);
          std::memset(square, 0, sizeof square);
          for (size_t i = 0; i < down; ++i) std::memcpy(square + i * kSide, sums + (a * kSide + i) * width + b * kSide, across * sizeof(double));
          kernels.quantizers.add_products(turned.get() + a * most * kSide, turned.get() + b * most * kSide, count, square);
          for (size_t i = 0; i < down; ++i) std::memcpy(sums + (a * kSide + i) * width + b * kSide, square + i * kSide, across * sizeof(double));
        }
      };
      for (size_t s = first; s < first + number; ++s) {
        strip_of(s);
        if (strips - 1 - s != s) strip_of(strips - 1 - s);
      }
    });
  }
  each_chunk(pool, width, 64, [&](size_t first, size_t number) {
    for (size_t i = first; i < first + number; ++i) {
      for (size_t j = 0; j < i; ++j) sums[i * width + j] = sums[j * width + i];
    }
  });
}

}  // namespace lowbit
