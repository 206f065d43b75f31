// The largest numbers of a row: as packages/core/src/program/largest.ts.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lowbit {

/// The `count` largest of row[0 .. width), falling, and their places: of equals the lower one first, of NaNs the first
/// in front of all and the others nowhere. -infinity and -1 where there are no more.
/// Throws std::bad_alloc.
void largest_of_row(const float* row, size_t width, size_t count, float* values, int32_t* ids);

}  // namespace lowbit
