#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "proto/support/error.h"
#include "proto/support/unique_fd.h"
#include "services/session/cgroup.h"

// An engine makes sandboxes; the agent inside does the work. Engines know nothing of languages or
// of executions (DESIGN.md "Sessions and sandboxes"): a new one is a new file and a line in
// make_engine(). Every call blocks (create for tens of milliseconds, destroy and probe for seconds
// at worst): call it off the event loop. Any thread and any process; calls for different state_dirs
// may overlap, calls for one state_dir may not.
namespace runbus::session {

// What bounds each resource on this machine: "cgroup", "rlimit", "namespace" or "none"; disk:
// "hard", "soft" (not by the engine: whoever uses it measures the workspace) or "none". `why`
// tells, for each that is not enforced, the reason in words a newcomer acts on.
struct Probe {
  bool works = false;
  std::map<std::string, std::string> enforced;  // memory, pids, cpu, disk, network, pause
  std::map<std::string, std::string> why;
};

struct Limits {
  std::uint64_t memory = 512ULL << 20;  // bytes
  double cpus = 1.0;
  std::uint32_t processes = 256;
  std::uint64_t disk = 1ULL << 30;   // bytes of the workspace
  std::uint64_t tmp = 256ULL << 20;  // bytes of /tmp
};

struct SandboxSpec {
  std::string session_id;  // for people and logs; never a path by itself
  std::string
      key;  // the sandbox's name on this host: lower-case hex and '-', at most 60 characters
  std::string state_dir;  // host directory of this sandbox, 0700, made by the caller
  std::string workspace;  // host directory bound at /workspace, made by the caller
  std::string agent;      // host path of the static runbus-agent binary
  // Further arguments: the engine itself passes where the socket, the logs and the workspace are.
  std::vector<std::string> agent_args;
  int listen_fd = -1;  // the agent's listening socket; the sandbox inherits it as descriptor 3
  // The path at which that is bound: an engine whose sandboxes inherit nothing replaces it by a
  // socket of the agent's own.
  std::string listen_path;
  int log_dir_fd = -1;    // directory for the agent's spilled logs; inherited as descriptor 4
  std::uint32_t uid = 0;  // unprivileged host uid and gid for it; 0: choose as the engine can
  bool network = false;   // false: a network namespace with loopback alone
  Limits limits;
};

// One running sandbox. Destroying the object does not end the sandbox: a worker may die and find it
// again.
struct Sandbox {
  std::string key;
  std::string state_dir;
  pid_t pid = -1;  // host pid of the sandbox's first process or its monitor
};

class Engine {
 public:
  virtual ~Engine() = default;
  virtual std::string name() const = 0;  // "oci", "bubblewrap", "process"
  // Does a tiny real run. Blocking, up to 10 s; the result is kept by the caller.
  virtual Probe probe() = 0;
  // Starts the sandbox with the agent as its PID 1. Blocking until it is started, not until the
  // agent answers.
  virtual Result<Sandbox> create(const SandboxSpec& spec) = 0;
  // Ends every process of the sandbox and removes what the engine made (cgroup, bundle, mounts);
  // the caller removes state_dir and workspace. Works on sandboxes of an earlier process by their
  // state_dir; idempotent.
  virtual Result<void> destroy(const std::string& state_dir) = 0;
  // Whether the sandbox in state_dir still runs.
  virtual bool alive(const std::string& state_dir) = 0;
  virtual Result<void> pause(const std::string& state_dir) = 0;
  virtual Result<void> resume(const std::string& state_dir) = 0;
  // Which limit ended the sandbox as a whole, with all that ran in it: "memory", or empty where
  // that is not so or not known. After its end and before destroy().
  virtual std::string ended_by(const std::string& state_dir) {
    (void)state_dir;
    return {};
  }
  // Of the sandbox that runs in state_dir.
  virtual OomCounter oom_counter(const std::string& state_dir) = 0;
};

// "oci", "bubblewrap", "process" (needs `insecure`), or "auto": the first of oci and bubblewrap
// whose probe works. Fails with what was tried and why each did not work.
struct EngineOptions {
  std::string engine = "auto";
  bool insecure = false;
  std::string runtime;  // of oci: "crun", "runc", "runsc" or a path; empty: crun, else runc
  std::string rootfs;   // an unpacked image; empty: read-only binds of the host's /usr and friends
  std::uint32_t first_uid = 200000;  // range of host uids for sessions, as root
  std::uint32_t uid_count = 10000;
  // What bounds a workspace: "loop" (an image on a loop device), "soft", "none", or "auto": the
  // first of loop and soft that this machine can.
  std::string workspace_quota = "auto";
};
Result<std::unique_ptr<Engine>> make_engine(const EngineOptions& options);

}  // namespace runbus::session
