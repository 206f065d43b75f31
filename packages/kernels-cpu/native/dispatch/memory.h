// Aligned memory for weights and scratch; large pieces ask for huge pages, which a stream through them is 10 to 25 % faster with.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lowbit {

/// Zeroed, 64-byte aligned; null where there is no memory. `bytes` 0 gives a pointer, too.
uint8_t* take_memory(size_t bytes);
/// `bytes` as they were taken. Null does nothing.
void give_memory(uint8_t* memory, size_t bytes);
/// Gives the whole pages in a part of such memory back to the system, which stays taken: its numbers are gone. Small pieces keep theirs.
void give_pages(uint8_t* memory, size_t bytes);

/**
 * Memory of a weight: zero, 64-byte aligned. Those that are smaller than a huge page lie side by side in pieces that are made of such pages: a model of
 * small layers would miss the processor's table of pages at every step otherwise. A piece goes back to the system with the last weight in it.
 * Null where there is no memory.
 */
uint8_t* take_weight_memory(size_t bytes);
void give_weight_memory(uint8_t* memory, size_t bytes);

}  // namespace lowbit
