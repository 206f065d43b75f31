// Asynchronous copies, tiles on tensor cores, and what memory does with a warp's addresses.
#include <algorithm>
#include <cmath>
#include <set>

#include "emulator.h"

namespace emulator {
namespace {

constexpr unsigned char kPoison = 0xff;  // halves and floats of it are NaN
constexpr unsigned kBanks = 32, kRound = 128, kSector = 32;

thread_local Counts counted;
thread_local bool counting = false;  // it takes its time

double half(uint32_t bits) {
  static const std::vector<double> all = [] {
    std::vector<double> values(65536);
    for (uint32_t i = 0; i < 65536; ++i) {
      const uint32_t exponent = i >> 10 & 31, fraction = i & 0x3ff;
      double value = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, static_cast<int>(exponent) - 25);
      if (exponent == 31) value = fraction == 0 ? INFINITY : NAN;
      values[i] = i & 0x8000 ? -value : value;
    }
    return values;
  }();
  return all[bits & 0xffff];
}

/// The sum of terms as tensor cores have it: digits below the last of the largest are cut off, and so are those that the result has no room for.
float cut_sum(const double* terms, int count) {
  double largest = 0, plain = 0;
  for (int i = 0; i < count; ++i) {
    largest = std::fmax(largest, std::fabs(terms[i]));
    plain += terms[i];
  }
  if (!(std::fabs(plain) <= 3.4028234e38) || largest == 0) return static_cast<float>(plain);
  // Of a double that is not 0 and no subnormal: what halves and floats come to is neither.
  uint64_t bits;
  std::memcpy(&bits, &largest, 8);
  const uint64_t unit_bits = (1023 + 24 + 1022 - (bits >> 52)) << 52;
  double unit;
  std::memcpy(&unit, &unit_bits, 8);
  long long sum = 0;
  for (int i = 0; i < count; ++i) sum += static_cast<long long>(terms[i] * unit);
  long long cut = 1;
  while (std::llabs(sum / cut) >= 1 << 24) cut *= 2;
  return static_cast<float>(static_cast<double>(sum / cut * cut) / unit);
}

}  // namespace

void gather_addresses(const void* at, const void* (&all)[kWarp], int line) {
  const uint64_t value = reinterpret_cast<uintptr_t>(at);
  const uint32_t mine[2] = {static_cast<uint32_t>(value), static_cast<uint32_t>(value >> 32)};
  uint32_t found[2][kWarp];
  gather(mine, 2, found, line);
  for (unsigned i = 0; i < kWarp; ++i) all[i] = reinterpret_cast<const void*>(static_cast<uintptr_t>(found[1][i]) << 32 | found[0][i]);
}

void copy_async(void* to, const void* from, unsigned bytes) {
  if (reinterpret_cast<uintptr_t>(to) % bytes != 0 || reinterpret_cast<uintptr_t>(from) % bytes != 0) throw Fault("an asynchronous copy that is not aligned");
  std::memset(to, kPoison, bytes);
  self->copies.push_back({to, from, bytes, self->groups});
}

void commit_copies() { ++self->groups; }

void wait_copies(unsigned later) {
  Thread& me = *self;
  const auto waits = [&](const Copy& copy) { return copy.group + later < me.groups; };
  for (const Copy& copy : me.copies) {
    if (!waits(copy)) continue;
    if (copy.from == nullptr) std::memset(copy.to, 0, copy.bytes);
    else std::memcpy(copy.to, copy.from, copy.bytes);
  }
  me.copies.erase(std::remove_if(me.copies.begin(), me.copies.end(), waits), me.copies.end());
}

void multiply_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, int line) {
  const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
  uint32_t all[6][kWarp];
  gather(mine, 6, all, line);
  const unsigned group = self->lane / 4, quarter = self->lane % 4;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned column = 2 * quarter + i % 2;
    double terms[17] = {static_cast<double>(d[i])};
    for (unsigned k = 0; k < 16; ++k) {
      const unsigned of = k % 8 / 2, shift = 16 * (k % 2);
      terms[k + 1] = half(all[(i < 2 ? 0 : 1) + (k < 8 ? 0 : 2)][group * 4 + of] >> shift) * half(all[k < 8 ? 4 : 5][column * 4 + of] >> shift);
    }
    d[i] = cut_sum(terms, 17);
  }
  if (self->lane == 0) ++counted.products;
}

Counts& counts() {
  counting = true;
  return counted;
}

void count_shared(const void* at, unsigned bytes, int line) {
  if (!counting) return;
  const void* all[kWarp];
  gather_addresses(at, all, line);
  if (self->lane != 0) return;
  // As many lanes at once as 128 bytes are of.
  const unsigned lanes = std::min(kWarp, kRound / bytes);
  for (unsigned first = 0; first < kWarp; first += lanes) {
    std::set<uintptr_t> words[kBanks];
    size_t rounds = 0;
    for (unsigned lane = first; lane < first + lanes; ++lane) {
      for (unsigned byte = 0; byte < bytes; byte += 4) {
        const uintptr_t word = (reinterpret_cast<uintptr_t>(all[lane]) + byte) / 4;
        words[word % kBanks].insert(word);
        rounds = std::max(rounds, words[word % kBanks].size());
      }
    }
    counted.shared_rounds += rounds;
    ++counted.shared_least;
  }
}

void count_global(const void* at, unsigned bytes, int line) {
  if (!counting) return;
  const void* all[kWarp];
  gather_addresses(at, all, line);
  if (self->lane != 0) return;
  std::set<uintptr_t> sectors, words;
  for (const void* one : all) {
    if (one == nullptr) continue;
    for (unsigned byte = 0; byte < bytes; byte += 4) {
      const uintptr_t word = reinterpret_cast<uintptr_t>(one) + byte;
      sectors.insert(word / kSector);
      words.insert(word / 4);
    }
  }
  counted.sectors += sectors.size();
  counted.bytes += 4 * words.size();
}

}  // namespace emulator
