#include "proto/support/message_process.h"

#include <malloc.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>

namespace runbus {
namespace {

// More than all messages of a window (2 MiB each way) in any state of fragmentation.
constexpr int kKept = 16 << 20;
// Larger ones come from the kernel and go back to it at once.
constexpr int kLargest = 4 << 20;

// 0: not known, or not to be relied on.
std::atomic<pid_t> known_pid{0};

pid_t ask_kernel() { return static_cast<pid_t>(::syscall(SYS_getpid)); }

}  // namespace

void tune_message_process() {
  ::mallopt(M_TRIM_THRESHOLD, kKept);
  ::mallopt(M_MMAP_THRESHOLD, kLargest);
  if (::pthread_atfork(nullptr, nullptr, [] { known_pid.store(ask_kernel()); }) == 0) {
    known_pid.store(ask_kernel());
  }
}

}  // namespace runbus

// In the program, so that it comes before the C library's for every library of the process.
extern "C" pid_t getpid() noexcept {
  const pid_t pid = runbus::known_pid.load(std::memory_order_relaxed);
  return pid != 0 ? pid : runbus::ask_kernel();
}
