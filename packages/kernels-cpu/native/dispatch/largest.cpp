#include "largest.h"

#include <algorithm>
#include <limits>
#include <vector>

namespace lowbit {
namespace {

struct Entry {
  float value;
  int32_t id;
};

/// Order of the result; as that of a heap it keeps the last of the result in front.
bool before(const Entry& a, const Entry& b) { return a.value > b.value || (a.value == b.value && a.id < b.id); }

}  // namespace

void largest_of_row(const float* row, size_t width, size_t count, float* values, int32_t* ids) {
  constexpr float kNone = -std::numeric_limits<float>::infinity();
  // Hardly any number of a long row gets in: blocks are looked at as a whole first.
  constexpr size_t kBlock = 64;
  const size_t nan = static_cast<size_t>(std::find_if(row, row + width, [](float v) { return v != v; }) - row);
  if (nan < width) {
    *values++ = row[nan];
    *ids++ = static_cast<int32_t>(nan);
    --count;
  }
  std::vector<Entry> heap;
  heap.reserve(std::min(count, width));
  for (size_t from = 0; from < width && count > 0; from += kBlock) {
    const size_t to = std::min(width, from + kBlock);
    if (heap.size() == count) {
      float most[8];
      std::fill(most, most + 8, kNone);
      size_t i = from;
      for (; i + 8 <= to; i += 8) {
        for (size_t lane = 0; lane < 8; ++lane) most[lane] = row[i + lane] > most[lane] ? row[i + lane] : most[lane];
      }
      for (; i < to; ++i) most[0] = row[i] > most[0] ? row[i] : most[0];
      if (!(*std::max_element(most, most + 8) > heap.front().value)) continue;
    }
    for (size_t i = from; i < to; ++i) {
      const Entry entry{row[i], static_cast<int32_t>(i)};
      if (entry.value != entry.value) continue;
      if (heap.size() == count) {
        if (!(entry.value > heap.front().value)) continue;
        std::pop_heap(heap.begin(), heap.end(), before);
        heap.pop_back();
      }
      heap.push_back(entry);
      std::push_heap(heap.begin(), heap.end(), before);
    }
  }
  std::sort_heap(heap.begin(), heap.end(), before);
  for (size_t i = 0; i < count; ++i) {
    values[i] = i < heap.size() ? heap[i].value : kNone;
    ids[i] = i < heap.size() ? heap[i].id : -1;
  }
}

}  // namespace lowbit
