// Operations on rows of floats that need no kernels: as packages/core/src/reference has them, in f32 where that is within its tolerance.
#pragma once

#include "program.h"

namespace lowbit {

float activate(Activation kind, float x);
/// One row, in equal parts. weight and bias (null for none) have the width of the row or of a part.
void norm_row(const Op& op, const float* x, size_t width, const std::vector<float>* weight, const std::vector<float>* bias, float* out);
/// T5's bucket of a distance (key position - query position).
size_t relative_bucket(int64_t distance, size_t buckets, size_t max_distance, bool bidirectional);
/// The best experts of a row, and their weights.
void route_row(const Op& op, const float* x, size_t experts, int32_t* ids, float* weights);
/// Frequencies in force for a sequence that is `length` positions long.
std::vector<double> rope_frequencies(const Rope& rope, size_t length);

}  // namespace lowbit
