#pragma once

#include <optional>
#include <string>

#include "services/session/engine.h"

// Words for people: why an engine does not work here and what to do about it. Any thread.
namespace runbus::session {

// What of this machine decides whether sandboxes can be made; absent settings are those the kernel
// lacks.
struct Machine {
  bool root = false;
  bool container = false;  // this process is in a container already
  std::optional<long>
      apparmor_restricts_namespaces;            // kernel.apparmor_restrict_unprivileged_userns
  std::optional<long> unprivileged_namespaces;  // kernel.unprivileged_userns_clone (Debian's)
  std::optional<long> max_user_namespaces;      // user.max_user_namespaces
  bool hybrid_cgroups = false;
};

Machine inspect_machine();

// The end of what a sandbox and its tools wrote, on one line.
std::string last_lines(const std::string& log);

// "bwrap is not installed: …" with the package to install.
std::string missing_program(const std::string& program, const std::string& package);

// Why a trial sandbox of `engine` failed, one sentence per cause that applies, then the end of what
// its tools wrote, escaped and bounded.
std::string explain_sandbox_failure(const std::string& engine, const Machine& machine,
                                    const std::string& log);

// The result of a probe as lines of text: whether the engine works, and what bounds each resource
// or why nothing does.
std::string describe(const Probe& probe, const std::string& engine);

}  // namespace runbus::session
