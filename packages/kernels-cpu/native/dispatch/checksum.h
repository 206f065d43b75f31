// Checksums of packed weights on disk: XXH64, which reads memory about as fast as it comes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lowbit {

/// XXH64 (Collet) of `bytes` bytes with seed 0, the same on every machine.
uint64_t checksum(const uint8_t* data, size_t bytes);

}  // namespace lowbit
