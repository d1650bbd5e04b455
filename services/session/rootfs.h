#pragma once

#include <string>
#include <utility>
#include <vector>

#include "proto/support/error.h"

// What a sandbox sees of the host or of an unpacked image, besides /workspace, /tmp, /dev and
// /proc: read-only binds, symbolic links and a few generated files. Both engines build it from this
// one description.
namespace runbus::session {

constexpr const char* kAgentPath = "/run/runbus/runbus-agent";  // in the sandbox
constexpr unsigned kSandboxUid = 1000;                          // uid and gid in the sandbox

struct Rootfs {
  std::vector<std::pair<std::string, std::string>> binds;  // host path → path; read-only
  std::vector<std::pair<std::string, std::string>> links;  // path → what it points to
  std::vector<std::pair<std::string, std::string>> files;  // path → content
};

// The host's /usr and what of /etc programs need (no secrets: no shadow, no private keys, no host
// names), or, when `image` is not empty, that folder's top level. `network`: with the host's
// resolver. `user`: the sandbox's, in /etc/passwd. Fails when the image is not a folder that holds
// at least /usr or /bin.
Result<Rootfs> describe_rootfs(const std::string& image, bool network, unsigned user = kSandboxUid);

// PATH, HOME and the like for the agent.
std::vector<std::string> sandbox_environment();

}  // namespace runbus::session
