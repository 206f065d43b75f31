// The nearest point of a grid, as packages/higgs/src/nearest.ts defines it: the code c with the largest score 2 x . point[c] - |point[c]|^2 in f32, the
// lowest one if several have it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "lowbit_cpu.h"

namespace lowbit {

/// Points of one or two numbers [size, dim], at most 256 of them, and |point|^2 of each.
struct Grid {
  const float* points;
  const float* norms;
  size_t size;
  int dim;
};

/**
 * Square cells, each with the codes of the points that can be nearest to some place in it, in ascending order: in most cells one. A point is left out if
 * another one's score is larger at all corners by more than rounding can change it (packages/higgs/src/buckets.ts has the reasons). Numbers stand for
 * points of a plane whose second coordinate is 0.
 */
class NearestPoints {
 public:
  explicit NearestPoints(const Grid& grid);

  /// Codes of `count` vectors of `dim` finite numbers; `room` for 2 * count numbers.
  void find(const Kernels& kernels, const float* vectors, size_t count, uint8_t* codes, uint32_t* room) const;
  bool of(const Grid& grid) const;

 private:
  struct Point {
    float x, y, norm;
  };
  struct Square {
    double left, bottom, width, height;
  };
  std::vector<uint8_t> contenders(const std::vector<uint8_t>& codes, const Square& square) const;
  void divide(const std::vector<uint8_t>& codes, size_t column, size_t row, size_t columns, size_t rows, std::vector<std::vector<uint8_t>>& known);
  uint16_t place(std::vector<uint8_t> codes, std::vector<std::vector<uint8_t>>& known);

  int dim_;
  std::vector<Point> points_;
  double margin_;
  std::vector<uint16_t> cells_;  // a code, or kList and where its list begins; the last is of all places beyond the cells
  std::vector<uint8_t> lists_;   // for each: its length less one, and codes
};

/// That of a grid, kept for the next call with an equal one.
std::shared_ptr<const NearestPoints> nearest_points(const Grid& grid);

}  // namespace lowbit
