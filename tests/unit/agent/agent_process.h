#pragma once

#include <sys/types.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "proto/support/unique_fd.h"

// The real agent as a child of the test, in a temporary directory of its own with a workspace, a
// log directory and a socket. Ended, and the directory removed, with the object.
namespace runbus::agent_test {

// Generous: the machine may be slow and busy. Only a failure ever takes that long.
inline constexpr int kPatienceSeconds = 60;

// Whether `condition` came true in time.
bool eventually(const std::function<bool()>& condition);

class AgentProcess {
 public:
  struct Options {
    bool log_directory = true;
    bool pid_namespace = false;  // the agent is PID 1 of one of its own
    std::vector<std::string> arguments;
  };

  AgentProcess() : AgentProcess(Options{}) {}
  explicit AgentProcess(const Options& options);
  ~AgentProcess();
  AgentProcess(const AgentProcess&) = delete;
  AgentProcess& operator=(const AgentProcess&) = delete;

  const std::string& socket_path() const { return socket_path_; }
  const std::string& workspace() const { return workspace_; }
  const std::string& directory() const { return directory_; }
  // The agent, or with a PID namespace the process that made it.
  pid_t pid() const { return pid_; }
  // Waits for its end; empty when it does not come.
  std::optional<int> wait_for_exit_code();

 private:
  std::string directory_;
  std::string workspace_;
  std::string socket_path_;
  pid_t pid_ = -1;
};

// Whether this machine lets the test make a PID namespace.
bool can_make_pid_namespace();

// Whether a process runs that has `argument` among its arguments.
bool has_process_with_argument(const std::string& argument);

// An argument that no other process has.
std::string unique_argument(const std::string& prefix);

}  // namespace runbus::agent_test
