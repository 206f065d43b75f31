#include "elementwise.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace lowbit {

float activate(Activation kind, float x) {
  switch (kind) {
    case Activation::silu:
      return x / (1 + std::exp(-x));
    case Activation::gelu: {
      const double wide = static_cast<double>(x);
      return static_cast<float>(0.5 * wide * (1 + std::erf(wide * 0.70710678118654752)));
    }
    case Activation::gelu_tanh: {
      const double wide = static_cast<double>(x);
      return static_cast<float>(0.5 * wide * (1 + std::tanh(0.79788456080286536 * (wide + 0.044715 * wide * wide * wide))));
    }
    case Activation::quick_gelu:
      return x / (1 + std::exp(-1.702f * x));
    case Activation::relu:
      return std::fmax(0.0f, x);
    case Activation::relu2: {
      const float positive = std::fmax(0.0f, x);
      return positive * positive;
    }
    case Activation::sigmoid:
      return 1 / (1 + std::exp(-x));
    case Activation::tanh:
      return std::tanh(x);
    case Activation::identity:
      break;
  }
  return x;
}

void norm_row(const Op& op, const float* x, size_t width, const std::vector<float>* weight, const std::vector<float>* bias, float* out) {
  const size_t part = width / op.groups;
  for (size_t at = 0; at < width; at += part) {
    // Four sums of doubles hide the latency of the additions; their order is fixed.
    const auto sum_of = [&](auto&& term) {
      double sums[4] = {};
      size_t i = 0;
      for (; i + 4 <= part; i += 4) {
        for (size_t lane = 0; lane < 4; ++lane) sums[lane] += term(static_cast<double>(x[at + i + lane]));
      }
      for (; i < part; ++i) sums[i % 4] += term(static_cast<double>(x[at + i]));
      return (sums[0] + sums[1]) + (sums[2] + sums[3]);
    };
    const double mean = op.layer_norm ? sum_of([](double v) { return v; }) / static_cast<double>(part) : 0;
    const double squares = sum_of([mean](double v) { return (v - mean) * (v - mean); });
    const double factor = 1 / std::sqrt(squares / static_cast<double>(part) + op.eps);
    const auto of_part = [&](const std::vector<float>* v) { return v == nullptr ? nullptr : v->data() + (v->size() == width ? at : 0); };
    const float* scale = of_part(weight);
    const float* shift = of_part(bias);
    for (size_t i = 0; i < part; ++i) {
      double y = (static_cast<double>(x[at + i]) - mean) * factor;
      if (scale != nullptr) y *= static_cast<double>(scale[i]) + op.weight_offset;
      if (shift != nullptr) y += static_cast<double>(shift[i]);
      out[at + i] = static_cast<float>(y);
    }
  }
}

size_t relative_bucket(int64_t distance, size_t buckets, size_t max_distance, bool bidirectional) {
  const size_t side = bidirectional ? buckets / 2 : buckets;
  const size_t base = bidirectional && distance > 0 ? side : 0;
  const size_t n = static_cast<size_t>(bidirectional ? std::abs(distance) : std::max<int64_t>(0, -distance));
  const size_t exact = side / 2;
  if (n < exact) return base + n;
  // Rounded to f32 step by step, as the published code: the edges of buckets depend on it.
  const float ratio = static_cast<float>(std::log(static_cast<double>(static_cast<float>(static_cast<double>(n) / static_cast<double>(exact)))));
  const float whole = static_cast<float>(std::log(static_cast<double>(max_distance) / static_cast<double>(exact)));
  const float grown = static_cast<float>(ratio / whole) * static_cast<float>(side - exact);
  return base + std::min(side - 1, exact + static_cast<size_t>(std::floor(grown)));
}

void route_row(const Op& op, const float* x, size_t experts, int32_t* ids, float* weights) {
  std::vector<int32_t> ranked(experts);
  std::iota(ranked.begin(), ranked.end(), 0);
  std::stable_sort(ranked.begin(), ranked.end(), [&](int32_t a, int32_t b) { return x[a] > x[b]; });
  const double max = static_cast<double>(x[ranked[0]]);
  double total = 0;
  for (size_t i = 0; i < experts; ++i) total += std::exp(static_cast<double>(x[i]) - max);
  std::vector<double> scores(op.top_k);
  double sum = 0;
  for (size_t j = 0; j < op.top_k; ++j) {
    const double logit = static_cast<double>(x[ranked[j]]);
    scores[j] = op.sigmoid ? 1 / (1 + std::exp(-logit)) : std::exp(logit - max) / total;
    sum += scores[j];
  }
  for (size_t j = 0; j < op.top_k; ++j) {
    ids[j] = ranked[j];
    weights[j] = static_cast<float>(scores[j] / (op.normalize ? sum : 1) * op.factor);
  }
}

std::vector<double> rope_frequencies(const Rope& rope, size_t length) {
  if (rope.kind == 0) return rope.frequencies;
  if (rope.kind == 2) return length <= rope.original ? rope.frequencies : rope.longer;
  const double original = static_cast<double>(rope.original);
  const double growth = length <= rope.original ? 1 : rope.factor * static_cast<double>(length) / original - (rope.factor - 1);
  const double dim = static_cast<double>(rope.dim);
  const double base = rope.base * std::pow(growth, dim / (dim - 2));
  std::vector<double> frequencies(rope.dim / 2);
  for (size_t i = 0; i < frequencies.size(); ++i) frequencies[i] = std::pow(base, -2.0 * static_cast<double>(i) / dim);
  return frequencies;
}

}  // namespace lowbit
