// Packed weights on disk: one file a weight, a header of 4096 bytes and then the bytes of its memory.
//
//   0   "LOWBITPK"
//   8   u32 version of this form, u32 bytes of the header
//   16  key: 32 bytes that say whose weight this is, in which layout; made by src/cache
//   48  u64 bytes of the payload, u64 its checksum
//   64  what a person may want to know: text, zeros after it
//   4088 u64 checksum of the header up to here
//
// The checksum of the payload is that of the checksums of its pieces of 1 MiB. Numbers are little-endian. A file is written under another name and then
// renamed, never changed. What is read comes from a disk that others write to: nothing is taken from a file whose header, length or checksum is off.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "pool.h"

namespace lowbit {

constexpr size_t kPackedHeader = 4096;
constexpr size_t kPackedKey = 32;
/// Longest text of a header, in bytes.
constexpr size_t kPackedText = 4088 - 64;

using PackedKey = std::array<uint8_t, kPackedKey>;

/// A file could not be written: what the system said.
struct FileError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Writes a new file of `pieces`, one after another. Throws FileError; then nothing stays.
void write_packed(const std::string& path, const PackedKey& key, const std::string& text,
                  const std::vector<std::pair<const uint8_t*, size_t>>& pieces);

enum class Verdict { ok, missing, unreadable, foreign, damaged };

/// A weight that is wanted from disk, and what came of it.
struct PackedRead {
  std::string path;
  PackedKey key;
  size_t bytes = 0;  // of the payload
  Verdict verdict = Verdict::missing;
  const uint8_t* data = nullptr;  // 64-byte aligned; stays as long as `home`
  std::shared_ptr<const void> home;
};

/**
 * Reads or maps what is wanted, a file a thread, and checks every byte of it. Read files share one piece of memory that is made for huge pages; each gives
 * its part back when its home ends. Throws std::bad_alloc.
 */
void read_packed(std::vector<PackedRead>& reads, bool mapped, Pool& pool);

}  // namespace lowbit
