#pragma once

#include <cstddef>
#include <cstdint>

// Memory of a parent in pages of 2 MiB: one fault, and one entry to copy in a fork, where there
// would be one of each for every page of 4 KiB.
namespace runbus::agent {

inline constexpr std::size_t kBlock = 2 << 20;

// `size` bytes from the address `start`, both multiples of a page.
struct MemoryRange {
  std::uint64_t start;
  std::uint64_t size;
  std::uint64_t writable;  // 0: it is code and constants
};

// How far it is to the next block.
inline std::size_t to_block(const char* address) {
  return -reinterpret_cast<std::uintptr_t>(address) % kBlock;
}

// Whole blocks of fresh memory, or null.
char* map_blocks(std::size_t size);

// Whether the kernel gives large pages when asked; false too where it cannot be sure.
bool has_large_pages();

// Replaces the memory of these ranges, all of them whole blocks, by copies of their contents in
// large pages, as far as there are some. Nothing may be written to them meanwhile. 0, or an errno.
int own_blocks(const MemoryRange* blocks, std::uint64_t count);

}  // namespace runbus::agent
