#include "services/agent/parent/large_pages.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace runbus::agent {
namespace {

constexpr int kCollapse = 25;  // MADV_COLLAPSE, since Linux 6.1

char* at(std::uint64_t address) { return reinterpret_cast<char*>(address); }

}  // namespace

char* map_blocks(std::size_t size) {
  // Not by the C library's function, which an interpreter's module may stand before.
  const auto mapped = ::syscall(SYS_mmap, nullptr, size + kBlock, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == -1) {
    return nullptr;
  }
  char* const all = reinterpret_cast<char*>(mapped);
  const std::size_t head = to_block(all);
  if (head != 0) {
    ::munmap(all, head);
  }
  if (kBlock - head != 0) {
    ::munmap(all + head + size, kBlock - head);
  }
  return all + head;
}

bool has_large_pages() {
  char* const block = map_blocks(kBlock);
  if (block == nullptr) {
    return false;
  }
  ::madvise(block, kBlock, MADV_HUGEPAGE);
  *static_cast<volatile char*>(block) = 1;
  const bool given = ::madvise(block, kBlock, kCollapse) == 0;
  ::munmap(block, kBlock);
  return given;
}

int own_blocks(const MemoryRange* blocks, std::uint64_t count) {
  std::size_t size = 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    size += blocks[i].size;
  }
  if (size == 0) {
    return 0;
  }
  char* copy = map_blocks(size);
  if (copy == nullptr) {
    return errno;
  }
  ::madvise(copy, size, MADV_HUGEPAGE);
  for (std::uint64_t i = 0; i < count; ++i) {
    const MemoryRange& block = blocks[i];
    std::memcpy(copy, at(block.start), block.size);
    if (block.writable == 0) {
      ::mprotect(copy, block.size, PROT_READ | PROT_EXEC);
    }
    if (::mremap(copy, block.size, block.size, MREMAP_MAYMOVE | MREMAP_FIXED, at(block.start)) ==
        MAP_FAILED) {
      return errno;  // the rest of the copy stays: this process is not worth tidying
    }
    copy += block.size;
  }
  return 0;
}

}  // namespace runbus::agent
