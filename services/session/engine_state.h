#pragma once

#include <cstdint>
#include <string>

#include "services/session/cgroup.h"
#include "services/session/process_id.h"

// What is written beside a sandbox so that any later process can find and end it:
// state_dir/engine.json, replaced atomically, removed when the sandbox is gone.
namespace runbus::session {

struct EngineState {
  std::string engine;
  std::string key;
  ProcessId monitor;  // bwrap's outer process; none with other engines
  ProcessId first;    // the sandbox's PID 1, as the host sees it
  Cgroup cgroup;
  std::uint32_t claimed_uid = 0;  // to be released; 0: none
  std::string runtime;            // oci: the program
  std::string runtime_root;

  Result<void> save(const std::string& state_dir) const;
  // kNotFound when there is none, or when the machine was started anew since.
  static Result<EngineState> load(const std::string& state_dir);
  static void remove(const std::string& state_dir);
};

}  // namespace runbus::session
