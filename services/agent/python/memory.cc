#include "services/agent/python/memory.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>

#include "services/agent/parent/large_pages.h"
#include "services/agent/python/module.h"

// Where the interpreter's memory lies. A block can be copied in one go only if all of it is of one
// kind, so the two allocators of an interpreter are given whole blocks from its first allocation
// on.
namespace {

using runbus::agent::map_blocks;
using runbus::agent::to_block;

constexpr std::size_t kPage = 4096;
// Of Python's object allocator: since 3.10, and before.
constexpr std::size_t kArenaSizes[] = {1 << 20, 256 << 10};
constexpr std::size_t kMostArenas = 32 << 20;
// Since Linux 5.14.
constexpr int kPopulateRead = 22;
constexpr int kPopulateWrite = 23;
constexpr int kReadWrite = PROT_READ | PROT_WRITE;
constexpr int kAnonymous = MAP_PRIVATE | MAP_ANONYMOUS;

// Where arenas come from until runbus_settle(); both null without.
char* next_arena = nullptr;
char* end_of_arenas = nullptr;

char* at(std::uint64_t address) { return reinterpret_cast<char*>(address); }

void* map(void* hint, std::size_t size, int protection, int flags, int file, off_t offset) {
  return reinterpret_cast<void*>(::syscall(SYS_mmap, hint, size, protection, flags, file, offset));
}

// The heap grows from the break on, to which it adds whole pages.
void round_up_break() {
  char* const now = static_cast<char*>(::sbrk(0));
  ::sbrk(static_cast<std::intptr_t>(to_block(now)));
}

__attribute__((constructor)) void begin() {
  round_up_break();
  next_arena = map_blocks(kMostArenas);
  end_of_arenas = next_arena == nullptr ? nullptr : next_arena + kMostArenas;
}

char* take_arena(std::size_t size) {
  for (const std::size_t known : kArenaSizes) {
    if (size == known && next_arena != nullptr) {
      // An arena has its size's alignment, as those from the kernel usually have not; it is no
      // harm.
      char* const arena = __atomic_fetch_add(&next_arena, size, __ATOMIC_RELAXED);
      return arena + size <= end_of_arenas ? arena : nullptr;
    }
  }
  return nullptr;
}

}  // namespace

extern "C" {

// In place of the C library's: Python's object allocator takes its arenas by it.
__attribute__((visibility("default"))) void* mmap(void* hint, std::size_t size, int protection,
                                                  int flags, int file, off_t offset) noexcept {
  if (hint == nullptr && protection == kReadWrite && flags == kAnonymous && file == -1) {
    if (char* const arena = take_arena(size)) {
      return arena;
    }
  }
  return map(hint, size, protection, flags, file, offset);
}

__attribute__((visibility("default"))) void* mmap64(void* hint, std::size_t size, int protection,
                                                    int flags, int file, off_t offset) noexcept {
  return mmap(hint, size, protection, flags, file, offset);
}

__attribute__((visibility("default"))) void runbus_settle() {
  round_up_break();
  if (next_arena != nullptr && next_arena < end_of_arenas) {
    char* const unused = next_arena + to_block(next_arena);
    if (unused < end_of_arenas) {
      ::munmap(unused, static_cast<std::size_t>(end_of_arenas - unused));
    }
  }
  next_arena = end_of_arenas = nullptr;
}

__attribute__((visibility("default"))) int runbus_own(const runbus::agent::MemoryRange* blocks,
                                                      std::uint64_t count) {
  return runbus::agent::own_blocks(blocks, count);
}
}

namespace runbus::agent {

void touch(const MemoryRange* ranges, std::uint64_t count) {
  for (std::uint64_t i = 0; i < count; ++i) {
    const int advice = ranges[i].writable != 0 ? kPopulateWrite : kPopulateRead;
    if (::madvise(at(ranges[i].start), ranges[i].size, advice) == 0) {
      continue;
    }
    for (std::uint64_t page = 0; page < ranges[i].size; page += kPage) {
      volatile char* const byte = at(ranges[i].start + page);
      const char value = *byte;
      if (ranges[i].writable != 0) {
        *byte = value;
      }
    }
  }
}

}  // namespace runbus::agent
