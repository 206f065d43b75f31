#include "nearest.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>
#include <numeric>
#include <stdexcept>

namespace lowbit {
namespace {

/// Cells cover [-kExtent, kExtent): one in 8000 pairs of normal numbers lies beyond.
constexpr float kExtent = 4;
/// Cells of a row of pairs, and of numbers.
constexpr uint32_t kSide = 256, kStrip = 1024;
constexpr uint16_t kList = 256;
/// Further than rounding can move a number into the next cell.
constexpr double kBorder = 0x1p-16;
/// Grids to keep: there are six.
constexpr size_t kKept = 8;

}  // namespace

NearestPoints::NearestPoints(const Grid& grid) : dim_(grid.dim) {
  float largest = 0, longest = 0;
  for (size_t c = 0; c < grid.size; ++c) {
    const Point point{grid.points[c * static_cast<size_t>(dim_)], dim_ == 2 ? grid.points[2 * c + 1] : 0.0f, grid.norms[c]};
    points_.push_back(point);
    largest = std::max({largest, std::fabs(point.x), std::fabs(point.y)});
    longest = std::max(longest, point.norm);
  }
  margin_ = 2 * (2 * 0x1p-24 * (3 * 4 * static_cast<double>(kExtent) * static_cast<double>(largest) + static_cast<double>(longest)));
  const size_t columns = dim_ == 2 ? kSide : kStrip, rows = dim_ == 2 ? kSide : 1;
  std::vector<uint8_t> all(grid.size);
  std::iota(all.begin(), all.end(), uint8_t{0});
  std::vector<std::vector<uint8_t>> known;
  cells_.resize(columns * rows + 1);
  divide(all, 0, 0, columns, rows, known);
  cells_[columns * rows] = place(all, known);
}

/// From the whole down to cells: what is out of a square is out of its quarters.
void NearestPoints::divide(const std::vector<uint8_t>& codes, size_t column, size_t row, size_t columns, size_t rows,
                           std::vector<std::vector<uint8_t>>& known) {
  const size_t side = dim_ == 2 ? kSide : kStrip;
  const double unit = 2 * static_cast<double>(kExtent) / static_cast<double>(side);
  const double left = static_cast<double>(column) * unit - static_cast<double>(kExtent);
  const double bottom = dim_ == 2 ? static_cast<double>(row) * unit - static_cast<double>(kExtent) : 0;
  const std::vector<uint8_t> kept = contenders(
      codes, {left - kBorder, bottom - kBorder, static_cast<double>(columns) * unit + 2 * kBorder, static_cast<double>(rows) * unit + 2 * kBorder});
  if (columns == 1) {
    cells_[row * side + column] = place(kept, known);
    return;
  }
  const size_t half = columns / 2, upper = rows / 2;
  for (size_t i = 0; i < (upper > 0 ? 4u : 2u); ++i) {
    divide(kept, column + (i & 1) * half, row + (i >> 1) * upper, half, std::max<size_t>(1, upper), known);
  }
}

std::vector<uint8_t> NearestPoints::contenders(const std::vector<uint8_t>& codes, const Square& s) const {
  struct Corners {
    double at[4];
  };
  std::vector<Corners> corners;
  for (const uint8_t c : codes) {
    const double px = 2 * static_cast<double>(points_[c].x), py = 2 * static_cast<double>(points_[c].y);
    const double first = px * s.left + py * s.bottom - static_cast<double>(points_[c].norm);
    corners.push_back({{first, first + px * s.width, first + py * s.height, first + px * s.width + py * s.height}});
  }
  std::vector<uint8_t> kept;
  for (size_t i = 0; i < codes.size(); ++i) {
    const bool beaten = std::any_of(corners.begin(), corners.end(), [&](const Corners& other) {
      for (int k = 0; k < 4; ++k) {
        if (!(other.at[k] > corners[i].at[k] + margin_)) return false;
      }
      return true;
    });
    if (!beaten) kept.push_back(codes[i]);
  }
  return kept;
}

/// Cells with equal lists share one. `known` has their codes in the order of lists_.
uint16_t NearestPoints::place(std::vector<uint8_t> codes, std::vector<std::vector<uint8_t>>& known) {
  if (codes.size() == 1) return codes[0];
  if (codes.size() == 2) codes.push_back(codes[1]);
  size_t at = 0;
  for (const std::vector<uint8_t>& list : known) {
    if (list == codes) break;
    at += 1 + list.size();
  }
  if (at + kList > 0xffff) throw std::invalid_argument("a grid of points that lie too close");
  if (at == lists_.size()) {
    lists_.push_back(static_cast<uint8_t>(codes.size() - 1));
    lists_.insert(lists_.end(), codes.begin(), codes.end());
    known.push_back(std::move(codes));
  }
  return static_cast<uint16_t>(kList + at);
}

void NearestPoints::find(const Kernels& kernels, const float* vectors, size_t count, uint8_t* codes, uint32_t* room) const {
  // Bytes may lie anywhere, so what is a member is loaded anew after each that is written; these are not.
  uint32_t* const places = room;
  uint32_t* const open = room + count;
  const uint16_t* const cells = cells_.data();
  const uint8_t* const lists = lists_.data();
  const Point* const points = points_.data();
  const size_t dim = static_cast<size_t>(dim_);
  kernels.quantizers.number_cells({vectors, count, dim_, dim == 2 ? kSide : kStrip, kExtent}, places);
  // Whether a cell has one code is a branch that nobody can predict, so there is none: what is open grows by one or not.
  size_t left = 0;
  for (size_t i = 0; i < count; ++i) {
    const uint32_t cell = cells[places[i]];
    places[left] = cell;  // never behind what is read
    open[left] = static_cast<uint32_t>(i);
    codes[i] = static_cast<uint8_t>(cell);
    left += cell / kList != 0;
  }
  for (size_t k = 0; k < left; ++k) {
    const size_t i = open[k];
    const float x = 2 * vectors[i * dim], y = dim == 2 ? 2 * vectors[2 * i + 1] : 0.0f;
    const uint8_t* list = lists + (places[k] - kList);
    // Scores and codes as one integer, for the greatest of which there need be no branch.
    const auto rank = [&](uint32_t c) {
      const float score = x * points[c].x + y * points[c].y - points[c].norm + 0.0f;  // never -0
      int32_t bits;
      std::memcpy(&bits, &score, 4);
      return static_cast<int64_t>(bits ^ (bits >> 31 & 0x7fffffff)) * (int64_t{1} << 32) + (255 - c);
    };
    int64_t best = std::max(rank(list[1]), std::max(rank(list[2]), rank(list[3])));
    for (size_t j = 3; j <= list[0]; ++j) best = std::max(best, rank(list[1 + j]));
    codes[i] = static_cast<uint8_t>(255 - best);
  }
}

bool NearestPoints::of(const Grid& grid) const {
  if (grid.dim != dim_ || grid.size != points_.size()) return false;
  for (size_t c = 0; c < grid.size; ++c) {
    const float* point = grid.points + c * static_cast<size_t>(dim_);
    if (point[0] != points_[c].x || (dim_ == 2 && point[1] != points_[c].y) || grid.norms[c] != points_[c].norm) return false;
  }
  return true;
}

std::shared_ptr<const NearestPoints> nearest_points(const Grid& grid) {
  static std::mutex guard;
  static std::vector<std::shared_ptr<const NearestPoints>> kept;
  const std::lock_guard<std::mutex> lock(guard);
  for (const auto& found : kept) {
    if (found->of(grid)) return found;
  }
  auto made = std::make_shared<const NearestPoints>(grid);
  if (kept.size() == kKept) kept.erase(kept.begin());
  kept.push_back(made);
  return made;
}

}  // namespace lowbit
