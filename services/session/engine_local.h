#pragma once

#include <chrono>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "services/session/cgroup.h"
#include "services/session/engine.h"
#include "services/session/engine_state.h"
#include "services/session/launch.h"
#include "services/session/workspace_image.h"

// What the engines of this host share: a sandbox is a tree of local processes, maybe in a cgroup,
// described by its EngineState. They differ in how they start it.
namespace runbus::session {

class LocalEngine : public Engine {
 public:
  explicit LocalEngine(EngineOptions options);

  Probe probe() override;
  Result<Sandbox> create(const SandboxSpec& spec) override;
  Result<void> destroy(const std::string& state_dir) override;
  bool alive(const std::string& state_dir) override;
  Result<void> pause(const std::string& state_dir) override;
  Result<void> resume(const std::string& state_dir) override;
  OomCounter oom_counter(const std::string& state_dir) override;

 protected:
  // One creation under way: what the sandbox gets, owned until it was started.
  struct Start {
    const SandboxSpec& spec;
    std::vector<std::string> command;  // the agent's path in the sandbox and its arguments
    std::uint32_t uid = 0;             // of the host; 0: the caller's own
    UniqueFd workspace;
    WorkspaceImage image;  // the workspace's file system, where it has one of its own
    UniqueFd log_dir;
    UniqueFd log;                // descriptors 1 and 2
    std::vector<UniqueFd> join;  // cgroup.procs files
    EngineState state;
    // Descriptors 0 to 4 of the sandbox.
    std::vector<int> descriptors() const;
    std::vector<int> join_descriptors() const;
    // Puts the workspace at `target` of the launch's mount namespace.
    MountStep mount_workspace(const std::string& target) const;
    // Writes the state, and again when it changes.
    Result<void> record() const { return state.save(spec.state_dir); }
  };

  // Starts the sandbox; on success state.first is its PID 1. What it made is found by the state on
  // failure.
  virtual Result<void> start(Start& start) = 0;
  // Whether this engine can be tried at all: empty, or why not.
  virtual std::string missing() = 0;
  // Explains a failed probe; `log` is what the sandbox and its tools wrote.
  virtual std::string explain(const std::string& log) const = 0;
  // Whether sandboxes are namespaces of processes with a filter on system calls.
  virtual bool is_boundary() const { return true; }
  // The agent's command line, without SandboxSpec::agent_args.
  virtual std::vector<std::string> agent_command(const SandboxSpec& spec) const;
  // Whose the folder of the agent's logs is.
  virtual std::uint32_t log_owner(const Start& start) const { return start.uid; }
  // Tasks of the host that a sandbox of so many processes may have: the agent and the engine's
  // monitor besides.
  virtual std::uint32_t host_tasks(std::uint32_t processes) const { return processes + 2; }
  static bool has_line(const std::string& log, const std::string& line);
  // What is wrong with what the trial sandbox's shell wrote; empty: nothing.
  virtual std::string check_probe_output(const std::string& log) const;
  // Runs after the processes have ended, before the cgroup goes.
  virtual void clean_up(const EngineState& state) { (void)state; }

  // Waits until state.first has executed the command.
  static Result<void> await_exec(const Start& start, Deadline deadline);

  const EngineOptions& options() const { return options_; }
  const CgroupRoom& room() const { return room_; }
  bool as_root() const { return as_root_; }
  // The resource limits of every process of a sandbox.
  std::vector<std::pair<int, rlim_t>> resource_limits(const Limits& limits) const;

 private:
  Result<void> prepare(Start& start);
  Result<Sandbox> create_with(const SandboxSpec& spec, std::vector<std::string> command);
  void fill_enforced(Probe& probe);
  // Why workspaces are not images here; empty: they are.
  const std::string& image_problem();
  std::string try_image() const;

  EngineOptions options_;
  CgroupRoom room_;
  bool as_root_;
  std::once_flag image_tried_;
  std::string image_problem_;
};

}  // namespace runbus::session
