// The inner loops of quantizers, one set per instruction set: what kernels/groups.h and its neighbours compute and dispatch/routines-*.cpp calls.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lowbit {

enum class Float : int;

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

/// Grids of kGroupLanes groups whose codes are to be summed over: kernels/fit.h.
struct GridSumsCall {
  const double* values;   // [size, kGroupLanes]
  const double* weights;  // [size, kGroupLanes]
  size_t size;
  double top;
  const double* inverse;  // by lane, as are all below
  const double* z;
  double* first;
  double* second;
  double* mixed;
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

/// kGroupLanes runs of `size` weights (a multiple of 4), each of a row, into codes of LLM.int8, as fixed-point numbers: packages/bnb/src/int8-row.ts.
struct FixedPointCall {
  const float* const* weights;  // by lane, [size]
  size_t size;
  const double* scale;  // by lane, as are all below: codes in units of 2^-15
  const double* step;   // of a code
  const float* factor;  // of a float16 weight
  const int32_t* limit;  // squares above it are near the middle between two codes
  uint8_t* codes;        // element i of lane l is at [i * kGroupLanes + l]
  double* squared_error;   // in units of 2^-30 squared codes
  double* squared_weight;
  double* largest;  // error
  double* nearest;  // largest error of those near the middle, -1 if there is none
};

/// Vectors [count, dim] of one or two numbers, and square cells on either axis, `side` of them from -extent to extent.
struct CellCall {
  const float* vectors;
  size_t count;
  int dim;
  uint32_t side;
  float extent;
};

/// Rows that make_up takes at a time; where there are fewer the last is repeated.
constexpr int kFeedbackRows = 8;

/// A group of channels of some rows, and the errors of all channels before it.
struct MakeUpCall {
  const float* errors[kFeedbackRows];  // [from]
  float* targets[kFeedbackRows];       // [size]
  const float* coupling;               // element i of channel j is at [j * pitch + i]
  size_t pitch;
  size_t from;
  size_t size;
};

/// A group of channels of one row on its grid.
struct RoundCall {
  float* targets;         // [size], used up
  const float* weights;   // [size]
  const float* coupling;  // as in MakeUpCall, from the group's first channel on
  size_t pitch;
  size_t size;
  float scale;
  float zero;
  double top;
  uint8_t* codes;  // [size]
  float* errors;   // [size]
};

/// Channels on either side of a square of products.
constexpr int kSquareSide = 16;

struct QuantizerKernels {
  /// Smallest and largest of every group [groups, size]: of zeros of both signs the first one, NaN where a number is NaN or infinite.
  void (*min_max)(const float* w, size_t groups, size_t size, float* low, float* high);
  /// Sums of one half-quadratic step over kGroupLanes groups.
  void (*proximal_step)(const float* const* w, size_t size, float top, const float* inverse, const float* zero, double* error,
                        double* zero_sum, float* largest);
  void (*assign_codes)(const AssignCall& call);
  void (*grid_sums)(const GridSumsCall& call);
  /// Bytes [size, 16] as 16 rows of `size`, `stride` bytes apart; the first `lanes` of them.
  void (*turn_bytes)(const uint8_t* from, size_t size, int lanes, uint8_t* into, size_t stride);
  /// Largest magnitudes of blocks [blocks, size], NaN where one is.
  void (*block_absmax)(const float* w, size_t blocks, size_t size, float* absmax);
  void (*four_bit)(const FourBitCall& call);
  void (*fixed_point)(const FixedPointCall& call);
  /// Sums of the squares of kGroupLanes rows of `size` numbers, each in order.
  void (*squares)(const float* const* w, size_t size, double* sums);
  /// Blocks of a Hadamard transform in place, n a multiple of 16: v H / divisor, or of v times a scale, rounded as it is stored.
  void (*rotate_and_divide)(float* v, size_t n, size_t block, float divisor);
  void (*scale_and_rotate)(float* v, size_t n, size_t block, float scale, Float dtype);
  /// In which cell each vector is: column, or column + row * side; beyond all of them as many as there are.
  void (*number_cells)(const CellCall& call, uint32_t* cells);
  /// Of kGroupLanes rows of `size` numbers: sums of the squares of w - v * factor, and the largest of these differences.
  void (*distances)(const float* const* w, const float* const* v, size_t size, double factor, double* squared_error, double* largest);
  /// kernels/feedback.h says what these do.
  void (*make_up)(const MakeUpCall& call);
  void (*round_in_order)(const RoundCall& call);
  void (*take_products)(double* row, const double* shares, const double* columns, size_t pitch, size_t count, size_t from, size_t to);
  void (*add_times)(float* into, const float* from, float by, size_t count);
  void (*add_products)(const double* a, const double* b, size_t rows, double* sums);
};

}  // namespace lowbit
