#include "emulator.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "fibers.h"

namespace emulator {

thread_local Thread* self = nullptr;
thread_local dim3 block_index, block_dim, grid_dim;

/// Lanes that meet.
struct Meeting {
  uint32_t arrived = 0, mask = 0;
  int line = 0;
  uint64_t count = 0;
};

/// Values that have come, and those of the meeting before, which its lanes read as they go on. Lanes may meet in parts that have none in common, each by its
/// lowest lane: what one part does says nothing of another.
struct Warp {
  Meeting meetings[kWarp];
  uint32_t coming[kWarp] = {}, met[kWarp] = {};
  uint32_t more_coming[kMostGathered][kWarp] = {}, more_met[kMostGathered][kWarp] = {};
  uint32_t alive = 0;
};

struct Block {
  Fibers fibers;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<char> ended;
  std::vector<unsigned char> statics, dynamic;
  size_t alive = 0, waiting = 0, dynamic_from = 0, dynamic_bytes = 0;
  int line = 0;
  uint64_t barriers = 0, steps = 0;
  void (*kernel)(void**) = nullptr;
  void** arguments = nullptr;
  std::string fault;
};

namespace {

thread_local Block* running = nullptr;

/// Bytes past shared memory that a kernel must leave alone.
constexpr size_t kMargin = 256;
constexpr size_t kDynamicAlign = 128;
constexpr unsigned char kPoison = 0xff;  // four of them are a NaN

std::string where(const Thread& thread) {
  return "thread " + std::to_string(thread.flat) + " of block (" + std::to_string(block_index.x) + ", " + std::to_string(block_index.y) + ", " +
         std::to_string(block_index.z) + ")";
}

void pause() {
  Thread* const me = self;
  me->block->fibers.yield();
  self = me;
}

void body(size_t index) {
  Block& block = *running;
  self = &block.threads[index];
  try {
    block.kernel(block.arguments);
  } catch (const std::exception& error) {
    if (block.fault.empty()) block.fault = error.what();
  }
  Thread& me = block.threads[index];
  block.ended[index] = 1;
  --block.alive;
  block.warps[me.warp].alive &= ~(1u << me.lane);
}

/// Puts a value (and `count` more) and waits for the others of the mask.
const uint32_t* meet(uint32_t mask, uint32_t value, int line, const uint32_t* more = nullptr, unsigned count = 0) {
  Thread& me = *self;
  Warp& warp = me.block->warps[me.warp];
  if (!(mask >> me.lane & 1)) throw Fault("a lane that is not in its own mask: " + where(me) + ", line " + std::to_string(line));
  // A mask of 32 lanes in a block of fewer threads is the custom: what is not there is not waited for.
  const unsigned rest = static_cast<unsigned>(me.block->threads.size()) - me.warp * kWarp;
  if (rest < kWarp) mask &= (1u << rest) - 1;
  Meeting& meeting = warp.meetings[__builtin_ctz(mask)];
  for (const Meeting& other : warp.meetings) {
    if (other.arrived == 0 || (other.mask & mask) == 0 || (other.mask == mask && other.line == line)) continue;
    throw Fault("lanes of a warp meet at lines " + std::to_string(other.line) + " and " + std::to_string(line) + ": " + where(me));
  }
  meeting.mask = mask;
  meeting.line = line;
  warp.coming[me.lane] = value;
  for (unsigned i = 0; i < count; ++i) warp.more_coming[i][me.lane] = more[i];
  meeting.arrived |= 1u << me.lane;
  ++me.block->steps;
  if (meeting.arrived == mask) {
    for (unsigned lane = 0; lane < kWarp; ++lane) {
      if (!(mask >> lane & 1)) continue;
      warp.met[lane] = warp.coming[lane];
      for (unsigned i = 0; i < count; ++i) warp.more_met[i][lane] = warp.more_coming[i][lane];
    }
    meeting.arrived = 0;
    ++meeting.count;
    return warp.met;
  }
  for (const uint64_t before = meeting.count; meeting.count == before;) pause();
  ++me.block->steps;
  return warp.met;
}

void run_block(Block& block, std::minstd_rand& random) {
  const size_t count = block.threads.size();
  std::fill(block.statics.begin(), block.statics.end(), kPoison);
  std::fill(block.dynamic.begin(), block.dynamic.end(), kPoison);
  block.warps.assign((count + kWarp - 1) / kWarp, {});
  block.ended.assign(count, 0);
  block.alive = count;
  block.waiting = 0;
  block.fault.clear();
  for (size_t i = 0; i < count; ++i) {
    block.threads[i].shared_used = 0;
    block.threads[i].copies.clear();
    block.threads[i].groups = 0;
    block.warps[i / kWarp].alive |= 1u << (i % kWarp);
    block.fibers.start(i, body);
  }
  std::vector<size_t> warps(block.warps.size()), lanes(kWarp);
  std::iota(warps.begin(), warps.end(), 0);
  std::iota(lanes.begin(), lanes.end(), 0);
  std::shuffle(lanes.begin(), lanes.end(), random);
  // Each lane of a warp once; whether one went on.
  const auto run_warp = [&](size_t warp) {
    const uint64_t before = block.steps;
    const size_t alive = block.alive;
    for (const size_t lane : lanes) {
      const size_t i = warp * kWarp + lane;
      if (i >= count || block.ended[i]) continue;
      block.fibers.resume(i);
      if (!block.fault.empty()) throw Fault(block.fault);
    }
    return block.steps != before || block.alive != alive;
  };
  while (block.alive > 0) {
    // One warp as far as it gets, then the next: whoever needs a barrier between them and has none meets the other's values of later, or of before.
    bool went_on = false;
    std::shuffle(warps.begin(), warps.end(), random);
    for (const size_t warp : warps) {
      while (run_warp(warp)) went_on = true;
    }
    if (went_on) continue;
    // Nobody went on. Threads at a barrier wait for those that have not ended.
    if (block.waiting > 0 && block.waiting == block.alive) {
      block.waiting = 0;
      ++block.barriers;
      continue;
    }
    throw Fault("threads wait for each other: a barrier or a shuffle that some of them do not reach, in block (" + std::to_string(block_index.x) +
                ", " + std::to_string(block_index.y) + ", " + std::to_string(block_index.z) + ")");
  }
  const auto untouched = [](const std::vector<unsigned char>& memory, size_t from) {
    return std::all_of(memory.begin() + static_cast<ptrdiff_t>(from), memory.end(), [](unsigned char byte) { return byte == kPoison; });
  };
  if (!untouched(block.dynamic, block.dynamic_from + block.dynamic_bytes)) throw Fault("a write past the shared memory that the launch asked for");
  if (!untouched(block.statics, kMostShared)) throw Fault("a write past the shared memory of a block");
}

}  // namespace

void barrier(int line) {
  Thread& me = *self;
  Block& block = *me.block;
  if (block.waiting > 0 && block.line != line)
    throw Fault("threads of a block meet at barriers of lines " + std::to_string(block.line) + " and " + std::to_string(line) + ": " + where(me));
  block.line = line;
  ++block.steps;
  if (++block.waiting == block.alive) {
    block.waiting = 0;
    ++block.barriers;
    return;
  }
  for (const uint64_t before = block.barriers; block.barriers == before;) pause();
  ++block.steps;
}

uint32_t exchange(uint32_t mask, uint32_t value, unsigned source, int line) {
  if (!(mask >> source & 1)) throw Fault("a shuffle from lane " + std::to_string(source) + ", which is not in the mask");
  return meet(mask, value, line)[source];
}

uint32_t vote(uint32_t mask, bool value, int line) {
  const uint32_t* met = meet(mask, value ? 1 : 0, line);
  uint32_t bits = 0;
  for (unsigned lane = 0; lane < kWarp; ++lane) bits |= mask >> lane & 1 && met[lane] == 1 ? 1u << lane : 0;
  return bits;
}

void gather(const uint32_t* values, unsigned count, uint32_t (*all)[kWarp], int line) {
  if (count > kMostGathered) throw Fault("more values of a lane than are gathered");
  meet(0xffffffffu, 0, line, values, count);
  const Warp& warp = self->block->warps[self->warp];
  for (unsigned i = 0; i < count; ++i) std::copy(warp.more_met[i], warp.more_met[i] + kWarp, all[i]);
}

void* shared_array(size_t bytes) {
  Thread& me = *self;
  void* at = me.block->statics.data() + me.shared_used;
  me.shared_used += (bytes + 15) / 16 * 16;
  if (me.shared_used > kMostShared || me.shared_used + me.block->dynamic_bytes > kMostAsked) throw Fault("more shared memory than a block has");
  return at;
}

void* dynamic_shared() { return self->block->dynamic.data() + self->block->dynamic_from; }

void run(const Launch& launch, void (*kernel)(void**), void** arguments) {
  const size_t count = size_t{launch.block.x} * launch.block.y * launch.block.z;
  const auto dimension = [](unsigned value, unsigned most) { return value >= 1 && value <= most; };
  if (!dimension(launch.grid.x, 0x7fffffff) || !dimension(launch.grid.y, 65535) || !dimension(launch.grid.z, 65535))
    throw Fault("a grid of (" + std::to_string(launch.grid.x) + ", " + std::to_string(launch.grid.y) + ", " + std::to_string(launch.grid.z) + ")");
  if (count < 1 || count > kMostThreads) throw Fault(std::to_string(count) + " threads in a block");
  if (launch.shared_bytes > kMostAsked) throw Fault("more shared memory than a block has");
  static thread_local Block block;
  block.threads.resize(count);
  block.statics.resize(kMostShared + kMargin);
  block.dynamic.resize(launch.shared_bytes + kMargin + kDynamicAlign);
  block.dynamic_from = (kDynamicAlign - reinterpret_cast<uintptr_t>(block.dynamic.data()) % kDynamicAlign) % kDynamicAlign;
  block.dynamic_bytes = launch.shared_bytes;
  block.kernel = kernel;
  block.arguments = arguments;
  for (size_t i = 0; i < count; ++i) {
    const unsigned flat = static_cast<unsigned>(i);
    block.threads[i] = {{flat % launch.block.x, flat / launch.block.x % launch.block.y, flat / launch.block.x / launch.block.y},
                        flat, flat % kWarp, flat / kWarp, 0, &block, {}, 0};
  }
  block_dim = launch.block;
  grid_dim = launch.grid;
  running = &block;
  std::minstd_rand random(static_cast<unsigned>(launch.seed % 2147483646 + 1));
  std::vector<uint64_t> blocks(size_t{launch.grid.x} * launch.grid.y * launch.grid.z);
  std::iota(blocks.begin(), blocks.end(), 0);
  std::shuffle(blocks.begin(), blocks.end(), random);
  for (const uint64_t flat : blocks) {
    block_index = {static_cast<unsigned>(flat % launch.grid.x), static_cast<unsigned>(flat / launch.grid.x % launch.grid.y),
                   static_cast<unsigned>(flat / launch.grid.x / launch.grid.y)};
    run_block(block, random);
  }
}

}  // namespace emulator
