#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

// Who the agent and its programs are, where a kernel does not keep one process of a user from
// another (gVisor: everybody opens /proc/PID/fd): then programs run as a user of their own. The
// agent acts as that user too, so its files and signals are the session's, and becomes itself only
// for its logs; its real user is another, so that programs can neither signal nor trace it. Set
// once, before anything is started; without it all of this does nothing. One thread.
namespace runbus::agent {

// From root to `agent` for ourselves and `programs`, whose group we have already, for what we do;
// all capabilities go but CAP_SETUID. What went wrong, or empty.
std::string separate_users(uid_t agent, uid_t programs);

// In a child, before anything else: a program's user for good, without any capability. False: it
// could not be.
bool become_program_user();

// While one is alive, files are opened and made as the agent's own.
class AsAgent {
 public:
  AsAgent();
  AsAgent(const AsAgent&) = delete;
  AsAgent& operator=(const AsAgent&) = delete;
  ~AsAgent();
};

// Applies a compiled list of system calls (sock_filter[]) to ourselves and all that we start, where
// the sandbox's maker could not. What went wrong, or empty.
std::string restrict_system_calls(const std::string& program_path);

// At most `count` processes besides the agent, by a group of gVisor's pids controller, which is
// mounted at `folder`; as root. What went wrong, or empty.
std::string bound_processes(std::uint64_t count, const std::string& folder);

}  // namespace runbus::agent
