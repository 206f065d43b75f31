// What routines of quantizers share: weights as they are stored, in chunks on the threads of a pool.
#pragma once

#include <algorithm>
#include <memory>

#include "lowbit_cpu.h"
#include "pool.h"

namespace lowbit {

/// Weights in groups, [groups, size], in f32, f16 or bf16 at any byte offset.
struct TileWeights {
  const uint8_t* data;
  Float dtype;
  size_t groups;
  size_t size;
};

/// Memory that is not cleared.
template <class T>
std::unique_ptr<T[]> room_of(size_t count) {
  return std::make_unique_for_overwrite<T[]>(std::max<size_t>(1, count));
}

/// Runs body(first, count) for all of `total` items on the pool, `step` or a multiple of it at a time.
template <class F>
void each_chunk(Pool& pool, size_t total, size_t step, F&& body) {
  struct Work {
    F* body;
    size_t step, total;
  };
  step = std::max<size_t>(1, step);
  const Work work{&body, step * (total / step / pool.most_chunks() + 1), total};
  const Stage stage{[](const void* context, size_t chunk, int) {
                      const Work& all = *static_cast<const Work*>(context);
                      const size_t first = chunk * all.step;
                      (*all.body)(first, std::min(all.step, all.total - first));
                    },
                    &work, static_cast<uint32_t>((total + work.step - 1) / work.step)};
  pool.run(&stage, 1);
}

/// Up to kGroupLanes groups as the kernels take them: lanes without one repeat the last.
struct LaneGroups {
  const uint32_t* groups;  // counted from the first of a chunk
  int count;
  const float* weights[kGroupLanes];

  LaneGroups(const uint32_t* list, size_t left, const float* chunk, size_t size)
      : groups(list), count(static_cast<int>(std::min<size_t>(left, kGroupLanes))) {
    for (int l = 0; l < kGroupLanes; ++l) weights[l] = chunk + of(l) * size;
  }
  size_t of(int lane) const { return groups[std::min(lane, count - 1)]; }
  void gather(const float* values, float* lanes) const {
    for (int l = 0; l < kGroupLanes; ++l) lanes[l] = values[of(l)];
  }
};

/// Groups of a chunk, in whole vectors of them: some thousands of weights, which stay in a core's caches, and several chunks a thread.
inline size_t groups_of_chunk(size_t size) {
  const size_t groups = std::max<size_t>(1, (size_t{1} << 14) / std::max<size_t>(1, size));
  return (groups + kGroupLanes - 1) / kGroupLanes * kGroupLanes;
}

/// Groups [first, first + groups) as f32, widened into `room` where they are not (or not where floats may lie).
inline const float* widened(const Kernels& kernels, const TileWeights& w, size_t first, size_t groups, std::unique_ptr<float[]>& room) {
  const size_t width = w.dtype == Float::f32 ? 4 : 2;
  const uint8_t* from = w.data + first * w.size * width;
  if (w.dtype == Float::f32 && reinterpret_cast<uintptr_t>(from) % alignof(float) == 0) return reinterpret_cast<const float*>(from);
  room = room_of<float>(groups * w.size);
  kernels.widen(from, w.dtype, groups * w.size, room.get());
  return room.get();
}

}  // namespace lowbit
