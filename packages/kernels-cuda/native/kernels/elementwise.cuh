// Operations on each number by itself, and those that move rows. What they mean: packages/core/src/spec/program.ts.
#pragma once

#include "step.cuh"

namespace lowbit {

enum Activation : int { kSilu, kGelu, kGeluTanh, kQuickGelu, kRelu, kRelu2, kSigmoid, kTanh, kIdentity };

__device__ __forceinline__ float activated(float x, int kind) {
  switch (kind) {
    case kSilu:
      return x / (1.0f + expf(-x));
    case kGelu:
      return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    case kGeluTanh:
      return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    case kQuickGelu:
      return x / (1.0f + expf(-1.702f * x));
    case kRelu:
      return x > 0 || x != x ? x : 0;
    case kRelu2:
      return x > 0 || x != x ? x * x : 0;
    case kSigmoid:
      return 1.0f / (1.0f + expf(-x));
    case kTanh:
      return tanhf(x);
    default:
      return x;
  }
}

/// Element of [rows, width] that this thread has; grid: (ceil(width / 256), rows), block: 256.
#define LOWBIT_ELEMENT(width)                                \
  const int column = blockIdx.x * blockDim.x + threadIdx.x;  \
  if (column >= (width)) return;                             \
  const int row = blockIdx.y;                                \
  const long long at = static_cast<long long>(row) * (width) + column

extern "C" __global__ void activate(const float* x, float* out, int width, int kind) {
  LOWBIT_ELEMENT(width);
  out[at] = activated(x[at], kind);
}

/// Zeros. Grid: ceil(count / 256); block: 256.
extern "C" __global__ void clear(uint32_t* out, int count) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) out[i] = 0;
}

/// act(gate) * x; a gate of width 1 is broadcast.
extern "C" __global__ void gate(const float* gates, int gate_width, const float* x, float* out, int width, int kind) {
  LOWBIT_ELEMENT(width);
  out[at] = activated(gate_width == 1 ? gates[row] : gates[at], kind) * x[at];
}

/// a + factor * b.
extern "C" __global__ void add(const float* a, const float* b, float* out, int width, float factor) {
  LOWBIT_ELEMENT(width);
  out[at] = fmaf(factor, b[at], a[at]);
}

extern "C" __global__ void scale(const float* x, float* out, int width, float factor) {
  LOWBIT_ELEMENT(width);
  out[at] = x[at] * factor;
}

/// cap * tanh(x / cap).
extern "C" __global__ void softcap(const float* x, float* out, int width, float cap) {
  LOWBIT_ELEMENT(width);
  out[at] = cap * tanhf(x[at] / cap);
}

/// Of each of `groups` parts of a row of x [rows, x_width] `part` numbers at `offset`.
extern "C" __global__ void slice(const float* x, int x_width, float* out, int width, int groups, int offset) {
  LOWBIT_ELEMENT(width);
  const int part = width / groups;
  out[at] = x[static_cast<long long>(row) * x_width + column / part * (x_width / groups) + offset + column % part];
}

/// The token rows that are wanted.
extern "C" __global__ void select_rows(const float* x, const Step* step, float* out, int width) {
  LOWBIT_ELEMENT(width);
  out[at] = x[static_cast<long long>(section<int>(step, step->source)[row]) * width + column];
}

/// Rows that the caller handed in.
extern "C" __global__ void input_rows(const Step* step, int named, float* out, int width) {
  LOWBIT_ELEMENT(width);
  out[at] = section<float>(step, step->named[named])[at];
}

/// x, but rows that the step names are replaced: map [tokens] has the row of the values, or -1.
extern "C" __global__ void inject(const float* x, const Step* step, int named, float* out, int width) {
  LOWBIT_ELEMENT(width);
  const int from = section<int>(step, step->named[named])[row];
  out[at] = from < 0 ? x[at] : section<float>(step, step->named[named + 1])[static_cast<long long>(from) * width + column];
}

/// x + table[position + offset].
extern "C" __global__ void position_embed(const float* x, const Step* step, int domain, const float* table, int offset, float* out, int width) {
  LOWBIT_ELEMENT(width);
  const long long position = section<int>(step, step->position[domain])[row] + offset;
  out[at] = x[at] + table[position * width + column];
}

/// Sum over j of weights[row][j] * x[row * top_k + j].
extern "C" __global__ void combine(const float* x, const float* weights, float* out, int width, int top_k) {
  LOWBIT_ELEMENT(width);
  float sum = 0;
  for (int j = 0; j < top_k; ++j) sum = fmaf(weights[row * top_k + j], x[(static_cast<long long>(row) * top_k + j) * width + column], sum);
  out[at] = sum;
}

/// Frequencies of rotation `index` for a row of `share`.
__device__ __forceinline__ const double* frequencies_of(const Step* step, int domain, int index, int share) {
  const int list = (index * 2 + (domain == kEncoder ? 1 : 0)) * static_cast<int>(step->share_count) + share;
  return section<double>(step, section<uint32_t>(step, step->ropes)[list]);
}

/// Sine and cosine of position * frequency, times `factor`.
__device__ __forceinline__ void turned(double position, double frequency, float factor, float* sine, float* cosine) {
  // In half turns, whole turns taken off while there are digits to do it with.
  double turn = position * frequency * 0.31830988618379067154;
  turn -= 2.0 * rint(turn * 0.5);
  sine_cosine_pi(static_cast<float>(turn), sine, cosine);
  *sine *= factor;
  *cosine *= factor;
}

/// Rotates the first `dim` numbers of each of `heads` parts by position * frequency. Grid: rows; block: 128.
extern "C" __global__ void rope(const float* x, const Step* step, int domain, int index, float* out, int width, int heads, int dim, int interleaved,
                     float factor) {
  const int row = blockIdx.x, part = width / heads, half = dim / 2;
  const int share = section<int>(step, step->share_of[domain])[row];
  const double position = section<int>(step, step->position[domain])[row];
  const double* frequencies = frequencies_of(step, domain, index, share);
  const float* from = x + static_cast<long long>(row) * width;
  float* to = out + static_cast<long long>(row) * width;
  for (int i = threadIdx.x; i < half; i += blockDim.x) {
    float sine, cosine;
    turned(position, frequencies[i], factor, &sine, &cosine);
    for (int head = 0; head < heads; ++head) {
      const int first = head * part + (interleaved ? 2 * i : i), second = first + (interleaved ? 1 : half);
      const float a = from[first], b = from[second];
      to[first] = a * cosine - b * sine;
      to[second] = b * cosine + a * sine;
    }
  }
  for (int i = threadIdx.x; i < heads * (part - dim); i += blockDim.x) {
    const int at = i / (part - dim) * part + dim + i % (part - dim);
    to[at] = from[at];
  }
}

}  // namespace lowbit
