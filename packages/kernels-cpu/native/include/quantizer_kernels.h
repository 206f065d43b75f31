// The inner loops of quantizers, one set per instruction set: what kernels/groups.h and its neighbours compute and dispatch/routines-*.cpp calls.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lowbit {

/// Groups that one call takes: the lanes of a vector. Lanes without a group of their own repeat one.
constexpr int kGroupLanes = 16;

/// Grids of kGroupLanes groups, and where their codes go.
struct AssignCall {
  const float* const* weights;  // by lane, [size]
  size_t size;
  float top;
  const float* scale;  // as stored
  const float* zero;
  const float* inverse;  // as solved; null: codes are the nearest to what is stored
  const float* solved;
  uint8_t* codes;  // element i of lane l is at [i * pitch + l]
  size_t pitch;
  double* squared_error;  // by lane, as are these
  double* squared_weight;
  double* largest;
};

/// Blocks of kGroupLanes times `size` weights (an even number) into codes of 4 bits.
struct FourBitCall {
  const float* const* weights;  // by lane, [size]
  size_t size;
  const float* cuts;    // [15], ascending
  const float* values;  // [16]: of each cell
  const float* codes;   // [16]: of each cell
  const float* factor;  // by lane: what weights are multiplied by before they are compared
  const float* scale;   // by lane: what a reader multiplies by
  uint8_t* pairs;       // pair i of lane l is at [i * kGroupLanes + l]
  double* squared_error;  // by lane, as are these
  double* squared_weight;
  double* largest;
};

struct QuantizerKernels {
  /// Smallest and largest of every group [groups, size]: of zeros of both signs the first one, NaN where a number is NaN or infinite.
  void (*min_max)(const float* w, size_t groups, size_t size, float* low, float* high);
  /// Sums of one half-quadratic step over kGroupLanes groups.
  void (*proximal_step)(const float* const* w, size_t size, float top, const float* inverse, const float* zero, double* error,
                        double* zero_sum, float* largest);
  void (*assign_codes)(const AssignCall& call);
  /// Bytes [size, 16] as 16 rows of `size`, `stride` bytes apart; the first `lanes` of them.
  void (*turn_bytes)(const uint8_t* from, size_t size, int lanes, uint8_t* into, size_t stride);
  /// Largest magnitudes of blocks [blocks, size], NaN where one is.
  void (*block_absmax)(const float* w, size_t blocks, size_t size, float* absmax);
  void (*four_bit)(const FourBitCall& call);
};

}  // namespace lowbit
