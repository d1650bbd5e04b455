#pragma once

#include <sys/types.h>

#include <csignal>
#include <string>
#include <vector>

#include "proto/support/error.h"
#include "proto/support/unique_fd.h"

namespace runbus::cli {

// A program to start as a child of this process.
struct ChildSpec {
  std::string name;               // for people: "gateway"
  std::vector<std::string> argv;  // argv[0] is a path
  // What the kernel sends the child when this process (its starting thread, which must be its only
  // one) ends.
  int death_signal = SIGKILL;
  // The child gets `--ready-fd 3` and writes one line there when it can work.
  bool reports_ready = false;
  // What becomes the child's stdout: our stderr, unless its output is for our reader.
  int stdout_fd = 2;
};

struct Child {
  pid_t pid = -1;
  UniqueFd ready;  // non-blocking; only with reports_ready
};

// Forks and executes: the child leads a process group of its own, has default signals, /dev/null as
// stdin, and inherits no descriptor besides 0, 1, 2 and, with reports_ready, 3. A program that
// cannot be executed is an error here. Call from a single-threaded process.
Result<Child> spawn(const ChildSpec& spec);

}  // namespace runbus::cli
