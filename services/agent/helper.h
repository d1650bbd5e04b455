#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "proto/support/unique_fd.h"

// The helper of a run: a fork of the agent that is child subreaper, forks the program, and reaps
// until it has no child. So all that the program starts stays below one process, and "no child
// left" is a fact, not a guess. It tells the agent by fixed-size records in a pipe. User code runs
// with our uid and may kill or stop it: reaper.h deals with that; it cannot read it (not dumpable)
// and no program inherits the pipe.
namespace runbus::agent {

struct HelperReport {
  enum Kind : std::uint32_t {
    kStarted = 1,     // value: the program's pid
    kForkFailed = 2,  // value: errno; nothing was started, the helper ends
    kExecFailed = 3,  // value: errno; after kStarted; kExited follows with 126 or 127
    kExited = 4,      // value: the wait status of the program
    kGone =
        5,  // nothing is left below the helper, which ends; in one write with kExited when at once
    kReady = 6,  // of a warm helper, once: value is its pid; kStarted follows in the same write
  };
  std::uint32_t kind = 0;
  std::int32_t value = 0;
  std::uint64_t cpu_microseconds = 0;  // of all that was reaped so far
  std::uint64_t peak_memory = 0;       // bytes, of the largest process so far
};

// One limit of setrlimit(2); lowered to the hard limit that is already there.
struct ProcessLimit {
  int resource = 0;
  std::uint64_t soft = 0;
  std::uint64_t hard = 0;
};

// All that the program is started with. Strings are prepared before the fork.
struct ProgramPlan {
  std::vector<std::string> candidates;  // paths to try, in the order of PATH
  std::vector<std::string> arguments;
  std::vector<std::string> environment;
  std::vector<ProcessLimit> limits;
  UniqueFd directory;
  UniqueFd standard_input;
  UniqueFd standard_output;
  UniqueFd standard_error;
  UniqueFd job;  // of a spare: becomes its descriptor kJobDescriptor; usually none
};

// Above what an interpreter opens for itself at its start, so that its numbers are as without it.
inline constexpr int kJobDescriptor = 100;

// The exit code of a program that could not be started, as shells have it.
int exit_code_of_exec_error(int error);

// Runs in the child of a fork; never returns. `reports` is the write end of the pipe.
[[noreturn]] void run_helper(const ProgramPlan& plan, int reports, pid_t agent);

// Starts a child of the agent's own that serves it: no helper, no terminal, `control` as descriptor
// 3 and `extra` as 4. Its pid, or -1 with errno; that it cannot be executed shows as its end.
pid_t start_service(const ProgramPlan& plan, int control, int extra);

}  // namespace runbus::agent
