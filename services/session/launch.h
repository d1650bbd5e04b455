#pragma once

#include <sys/resource.h>
#include <sys/types.h>

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "proto/support/error.h"
#include "services/session/process_id.h"

// Starts a program in exactly the surroundings that were asked for: descriptors, limits, cgroups,
// mounts, identity. Everything is prepared before the fork; the child makes only async-signal-safe
// system calls, so a process with other threads may call this. Blocking until the program was
// executed. Any thread.
namespace runbus::session {

// One step of building the child's private mount namespace, done as the caller's user, in order.
struct MountStep {
  enum class Kind {
    kTmpfs,      // a small tmpfs at target
    kDirectory,  // makes target with the mode
    kFile,       // makes target, with source as its content
    kLink,       // makes target a symbolic link to source
    kBind,       // source at target, nosuid and nodev
    kDetach,     // lazily unmounts target
    kImage,      // the ext4 file system of the device source at target, whose top owner gets
  };
  Kind kind;
  std::string source;
  std::string target;
  mode_t mode = 0755;  // of a directory
  uid_t owner = 0;     // of an image
};

// Performs one step in the caller's own mount namespace; false leaves errno. Async-signal-safe.
bool perform(const MountStep& step);

struct Launch {
  std::vector<std::string> argv;         // argv[0] is a path
  std::vector<std::string> environment;  // "NAME=value", all of it
  std::vector<int>
      descriptors;  // the i-th becomes descriptor i; -1: /dev/null. No other is inherited.
  std::vector<std::pair<int, rlim_t>> limits;  // RLIMIT_… to soft and hard value
  std::vector<int> cgroups;                    // open cgroup.procs files that the child joins
  std::vector<MountStep> mounts;  // not empty: in a mount namespace of its own (needs root)
  bool new_network = false;       // a network namespace with loopback up (needs root)
  std::optional<uid_t> identity;  // becomes this uid and gid, without groups (needs root)
  std::string working_directory = "/";
};

// Starts `launch` in a session of its own. `before_exec` runs in the caller while the child waits:
// what it records is on disk before the program does anything, and a caller that dies there leaves
// no child. The child is the caller's: it is reaped by ProcessId::wait or alive.
Result<ProcessId> start_program(const Launch& launch,
                                const std::function<Result<void>(ProcessId)>& before_exec = {});

// Starts `launch`, waits for its end and returns its exit status (128 + signal when killed); at the
// deadline it is killed and the error is kTimeout.
Result<int> run_program(const Launch& launch, Deadline deadline);

// The first executable of this name in PATH or in the usual system folders; empty when there is
// none.
std::string find_program(const std::string& name);

}  // namespace runbus::session
