#include "services/agent/node/fork.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "services/agent/parent/decimal.h"
#include "services/agent/parent/large_pages.h"

namespace runbus::agent {
namespace {

constexpr int kFirst = 4;
constexpr int kEnd = 256;
constexpr std::size_t kMuchCode = 1 << 20;

enum class Queue : char { kNone, kEvents, kPoll };
Queue queues[kEnd];

Queue queue_of(int fd) {
  char name[32] = "/proc/self/fd/";
  char digits[kMostDigits];
  std::strcpy(name + std::strlen(name), to_decimal(fd, digits));
  char target[32];
  const ssize_t size = ::readlink(name, target, sizeof(target) - 1);
  if (size <= 0) {
    return Queue::kNone;
  }
  target[size] = '\0';
  if (std::strcmp(target, "anon_inode:[eventfd]") == 0) {
    return Queue::kEvents;
  }
  return std::strcmp(target, "anon_inode:[eventpoll]") == 0 ? Queue::kPoll : Queue::kNone;
}

bool is_hex_digit(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); }

// A child of a fork finds the pages of a file one fault after the other, unless one page of the
// mapping is the process's own: then the kernel copies all that the parent has found.
void have_it_copied(char* code, std::size_t size) {
  // The whole of it, or the mapping would be two.
  volatile char* const byte = code;
  if (size != 0 && ::mprotect(code, size, PROT_READ | PROT_WRITE | PROT_EXEC) == 0) {
    *byte = *byte;
    ::mprotect(code, size, PROT_READ | PROT_EXEC);
  }
}

// What of it is whole blocks goes into large pages, which a fork has at once.
void share_code(char* code, std::size_t size, bool large_pages) {
  const std::size_t head = to_block(code) < size ? to_block(code) : size;
  const std::size_t blocks = large_pages ? (size - head) / kBlock * kBlock : 0;
  const MemoryRange middle = {reinterpret_cast<std::uintptr_t>(code + head), blocks, 0};
  if (blocks == 0 || own_blocks(&middle, 1) != 0) {
    have_it_copied(code, size);
    return;
  }
  have_it_copied(code, head);
  have_it_copied(code + head + blocks, size - head - blocks);
}

// A line of /proc/self/maps begins with "start-end rwxp".
void share(const char* line, bool large_pages) {
  std::uint64_t range[2] = {};
  for (std::uint64_t& number : range) {
    for (; is_hex_digit(*line); ++line) {
      number =
          number * 16 + static_cast<std::uint64_t>(*line <= '9' ? *line - '0' : *line - 'a' + 10);
    }
    ++line;
  }
  // Not all mappings can be: those of the kernel.
  ::madvise(reinterpret_cast<void*>(range[0]), range[1] - range[0], MADV_DOFORK);
  if (std::strncmp(line, "r-xp", 4) == 0 && range[1] - range[0] >= kMuchCode) {
    share_code(reinterpret_cast<char*>(range[0]), range[1] - range[0], large_pages);
  }
}

}  // namespace

void prepare_to_fork() {
  for (int fd = kFirst; fd < kEnd; ++fd) {
    queues[fd] = queue_of(fd);
  }
  const bool large_pages = has_large_pages();
  const int maps = ::open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  char text[8192];
  char line[40];  // as much of it as is needed
  std::size_t column = 0;
  ssize_t size = 0;
  while ((size = ::read(maps, text, sizeof(text))) > 0 || (size < 0 && errno == EINTR)) {
    for (ssize_t i = 0; i < size; ++i) {
      if (text[i] == '\n') {
        line[column] = '\0';
        share(line, large_pages);
        column = 0;
      } else if (column < sizeof(line) - 1) {
        line[column++] = text[i];
      }
    }
  }
  if (size < 0) {
    ::_exit(1);
  }
  ::close(maps);
}

void part_from_parent() {
  for (int fd = kFirst; fd < kEnd; ++fd) {
    if (queues[fd] == Queue::kNone) {
      continue;
    }
    const int fresh = queues[fd] == Queue::kEvents ? ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
                                                   : ::epoll_create1(EPOLL_CLOEXEC);
    if (fresh < 0 || ::dup3(fresh, fd, O_CLOEXEC) < 0) {
      ::_exit(1);
    }
    ::close(fresh);
  }
}

}  // namespace runbus::agent
