#pragma once

#include <string>
#include <vector>

#include "services/session/oci_engine.h"
#include "services/session/oci_engine_bundle.h"

namespace runbus::session {

// Sandboxes by gVisor's runsc, which runs them on a kernel of its own: a program that takes over
// its kernel has taken over a process of "nobody" that may make few system calls. As root.
//
// What differs from the other runtimes. It hands on no descriptor: the agent binds its socket in a
// folder of ours, from which it is moved to SandboxSpec::listen_path before any program runs, and
// its log folder is mounted. /proc shows a process's descriptors to everybody, so the agent and its
// programs are two users: the session's host uid, and the first id of the range for the agent
// (services/agent/identity.h). The number of processes is bounded by gVisor; memory and cpu by a
// cgroup around all of it, so running out of memory ends the sandbox, not one program.
class RunscEngine : public OciEngine {
 public:
  explicit RunscEngine(EngineOptions options) : OciEngine(std::move(options)) {}
  Probe probe() override;

 protected:
  Result<void> start(Start& start) override;
  std::string missing() override;
  std::vector<std::string> agent_command(const SandboxSpec& spec) const override;
  std::uint32_t log_owner(const Start& start) const override;
  std::uint32_t host_tasks(std::uint32_t processes) const override;
  std::string check_probe_output(const std::string& log) const override;

 private:
  static bool is_agent(const Start& start);
  Result<void> add_agent(const Start& start, const std::string& logs, Bundle& bundle,
                         Launch& launch) const;
  Result<void> make_bundle(const Start& start, Launch& launch) const;
  std::uint32_t agent_id() const { return options().first_uid; }
};

}  // namespace runbus::session
