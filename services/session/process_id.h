#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "proto/support/unique_fd.h"

// A process that outlives the one that started it, named so that a reused pid is never mistaken for
// it: by pid and start time (proc(5), field 22 of stat). Any thread.
namespace runbus::session {

using Deadline = std::chrono::steady_clock::time_point;

struct ProcessId {
  pid_t pid = -1;
  std::uint64_t start_time = 0;  // clock ticks since boot

  // The process that has `pid` now; start_time 0 when there is none.
  static ProcessId of(pid_t pid);

  // Runs (a zombie does not).
  bool alive() const;
  // A pidfd of exactly this process, or none when it has gone.
  UniqueFd open() const;
  // Sends `signal`; false when the process has gone.
  bool signal(int signal) const;
  // Blocks until it has ended, and reaps it when it is a child of ours; false at the deadline.
  bool wait(Deadline deadline) const;
  // Children of its main thread.
  std::vector<pid_t> children() const;
};

// What /proc/PID/`file` holds, at most 64 KiB; empty when the process has gone.
std::string read_proc(pid_t pid, const char* file);

// All of a small file, at most 64 KiB; empty when it cannot be read.
std::string read_small_file(const std::string& path);

}  // namespace runbus::session
