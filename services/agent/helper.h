#pragma once

#include <sys/types.h>

#include <span>
#include <string>
#include <vector>

#include "proto/support/unique_fd.h"
#include "services/agent/helper_protocol.h"

// The helper of a run: a fork of the agent that is child subreaper, forks the program, and reaps
// until it has no child. So all that the program starts stays below one process, and "no child
// left" is a fact, not a guess. It tells the agent by fixed-size records in a pipe. User code runs
// with our uid and may kill or stop it: reaper.h deals with that; it cannot read it (not dumpable)
// and no program inherits the pipe.
namespace runbus::agent {

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
};

// The exit code of a program that could not be started, as shells have it.
int exit_code_of_exec_error(int error);

// Runs in the child of a fork; never returns. `reports` is the write end of the pipe.
[[noreturn]] void run_helper(const ProgramPlan& plan, int reports, pid_t agent);

// Starts a child of the agent's own that serves it: no helper, no terminal, `descriptors` as 3 and
// the numbers after it. Its pid, or -1 with errno; that it cannot be executed shows as its end.
pid_t start_service(const ProgramPlan& plan, std::span<const int> descriptors);

}  // namespace runbus::agent
