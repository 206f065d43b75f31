// The routines of feedback and of second moments, on the threads of a pool: the numbers of packages/models/src/feedback and of its sums of squares, bit for bit.
#pragma once

#include "chunks.h"

namespace lowbit {

/// Channels [from, from + size) of a weight with `channels` inputs, of some rows.
struct ChannelGroup {
  size_t rows;
  size_t channels;
  size_t from;
  size_t size;
};

/// C f32 [n, n] and D f64 [n] of a symmetric matrix f32 [n, n], whose upper triangle is read.
void feedback_factor(const Kernels& kernels, Pool& pool, const float* matrix, size_t n, float* coupling, double* cost);

/// Targets f32 [rows, size] from weights and errors f32 [rows, channels].
void feedback_targets(const Kernels& kernels, Pool& pool, const float* weights, const float* errors, const float* coupling, const ChannelGroup& group,
                      float* targets);

/// Codes u8 and errors f32 [rows, size].
void feedback_codes(const Kernels& kernels, Pool& pool, const float* targets, const float* weights, const float* scale, const float* zero,
                    const float* coupling, const ChannelGroup& group, int levels, uint8_t* codes, float* errors);

/// Some rows of a weight that feedback has rounded, gone over again: packages/models/src/feedback/descent.ts.
struct Descent {
  const float* weights;  // [rows, channels]
  const float* moments;  // [channels, channels]
  const float* own;      // [channels]: what stands in their diagonal instead
  size_t rows, channels;
  size_t size;  // channels of a group
  int levels;
  int sweeps;
  Float scale_dtype, zero_dtype;
  uint8_t* codes;       // [rows, channels], changed
  float *scale, *zero;  // [rows, channels / size], changed
  float* errors;        // [rows, channels], written
};
void feedback_descend(const Kernels& kernels, Pool& pool, const Descent& descent);

/// X^T X f64 [width, width] of X f32 [rows, width], each sum over the rows in order.
void moments_squares(const Kernels& kernels, Pool& pool, const float* x, size_t rows, size_t width, double* sums);

}  // namespace lowbit
