// Normalisation of rows or of equal parts of rows, and routing. What they compute: packages/core/src/reference/norm.ts, routing.ts.
#pragma once

#include "port.cuh"

namespace lowbit {

/**
 * weight and bias have `width` numbers (weight_width, bias_width) or those of a part; 0: none.
 * Grid: (groups, rows); block: 128.
 */
extern "C" __global__ void normalize(const float* x, float* out, int width, int groups, float eps, int layer, const float* weight, int weight_width, float offset,
                     const float* bias, int bias_width) {
  LOWBIT_SHARED(float, scratch, 32);
  const int part = width / groups, first = blockIdx.x * part;
  const long long at = static_cast<long long>(blockIdx.y) * width + first;
  const float count = static_cast<float>(part);
  float mean = 0;
  if (layer) {
    float sum = 0;
    for (int i = threadIdx.x; i < part; i += blockDim.x) sum += x[at + i];
    mean = block_sum(sum, scratch) / count;
  }
  float squares = 0;
  for (int i = threadIdx.x; i < part; i += blockDim.x) {
    const float from_mean = x[at + i] - mean;
    squares = fmaf(from_mean, from_mean, squares);
  }
  const float factor = 1.0f / sqrtf(block_sum(squares, scratch) / count + eps);
  for (int i = threadIdx.x; i < part; i += blockDim.x) {
    float y = (x[at + i] - mean) * factor;
    if (weight_width > 0) y *= weight[weight_width == width ? first + i : i] + offset;
    if (bias_width > 0) y += bias[bias_width == width ? first + i : i];
    out[at + i] = y;
  }
}

/// Grid: ceil(rows / 64); block: 64; a thread for each row.
extern "C" __global__ void route(const float* x, int experts, int* ids, float* weights, int top_k, int sigmoid, int divide, float factor, int rows) {
  const int row = blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= rows) return;
  const float* logits = x + static_cast<long long>(row) * experts;
  int* chosen = ids + static_cast<long long>(row) * top_k;
  float* scores = weights + static_cast<long long>(row) * top_k;
  for (int j = 0; j < top_k; ++j) {
    int best = -1;
    for (int i = 0; i < experts; ++i) {
      bool taken = false;
      for (int before = 0; before < j; ++before) taken = taken || chosen[before] == i;
      if (!taken && (best < 0 || logits[i] > logits[best])) best = i;
    }
    chosen[j] = best;
  }
  const float largest = logits[chosen[0]];
  float total = 0;
  for (int i = 0; i < experts; ++i) total += expf(logits[i] - largest);
  float sum = 0;
  for (int j = 0; j < top_k; ++j) {
    const float logit = logits[chosen[j]];
    scores[j] = sigmoid ? 1.0f / (1.0f + expf(-logit)) : expf(logit - largest) / total;
    sum += scores[j];
  }
  for (int j = 0; j < top_k; ++j) scores[j] = (divide ? scores[j] / sum : scores[j]) * factor;
}

}  // namespace lowbit
