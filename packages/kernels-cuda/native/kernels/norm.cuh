// Normalisation of rows or of equal parts of rows, and routing. What they compute: packages/core/src/reference/norm.ts, routing.ts.
#pragma once

#include "port.cuh"

namespace lowbit {

/// How a part of a row is normalised; weight and bias have the numbers of a row (weight_width, bias_width) or those of a part; 0: none.
struct Normalizing {
  int kind;  // 0: not at all, 1: by root mean square, 2: by mean and deviation
  float eps;
  const float* weight;
  int weight_width;
  float offset;
  const float* bias;
  int bias_width;
};

struct Moments {
  float mean, factor;
};

/// Of `part` numbers, over a block of 256 threads: the order of sums follows from their number.
__device__ __forceinline__ Moments moments_of(const float* x, int part, const Normalizing& norm, float* scratch) {
  if (norm.kind == 0) return {0, 1};
  const float count = static_cast<float>(part);
  float mean = 0;
  if (norm.kind == 2) {
    float sum = 0;
    for (int i = threadIdx.x; i < part; i += blockDim.x) sum += x[i];
    mean = block_sum(sum, scratch) / count;
  }
  float squares = 0;
  for (int i = threadIdx.x; i < part; i += blockDim.x) {
    const float from_mean = x[i] - mean;
    squares = fmaf(from_mean, from_mean, squares);
  }
  return {mean, 1.0f / sqrtf(block_sum(squares, scratch) / count + norm.eps)};
}

/// Number i of a part that is at `in_row` of a row.
__device__ __forceinline__ float normalized(float x, const Moments& moments, const Normalizing& norm, int i, int in_row, int width) {
  if (norm.kind == 0) return x;
  float y = (x - moments.mean) * moments.factor;
  if (norm.weight_width > 0) y *= norm.weight[norm.weight_width == width ? in_row : i] + norm.offset;
  if (norm.bias_width > 0) y += norm.bias[norm.bias_width == width ? in_row : i];
  return y;
}

/// Grid: (groups, rows); block: 256.
extern "C" __global__ void normalize(const float* x, float* out, int width, int groups, float eps, int kind, const float* weight, int weight_width, float offset,
                     const float* bias, int bias_width) {
  LOWBIT_SHARED(float, scratch, 32);
  const int part = width / groups, first = blockIdx.x * part;
  const long long at = static_cast<long long>(blockIdx.y) * width + first;
  const Normalizing norm = {kind, eps, weight, weight_width, offset, bias, bias_width};
  const Moments moments = moments_of(x + at, part, norm, scratch);
  for (int i = threadIdx.x; i < part; i += blockDim.x) out[at + i] = normalized(x[at + i], moments, norm, i, first + i, width);
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
