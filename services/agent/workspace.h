#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "proto/support/unique_fd.h"
#include "services/agent/failure.h"

// The session's files, as the agent touches them while programs change them under its feet. Paths
// are relative, without "..", and are resolved by the kernel below the workspace (openat2
// RESOLVE_BENEATH), so that no swap of a symbolic link leads out. Only regular files are written: a
// FIFO or a device never blocks the agent.
namespace runbus::agent {

class Workspace {
 public:
  // Throws std::system_error when `path` is no directory.
  explicit Workspace(const std::string& path);

  // For a program to start in. "" is the workspace itself.
  Outcome<UniqueFd> open_directory(const std::string& path) const;

  // Makes missing parents (0755). `mode` 0 is 0644 for a new file and leaves that of an old one;
  // set-id bits are dropped.
  std::optional<Failure> write_file(const std::string& path, std::uint32_t mode, bool append,
                                    std::string_view content) const;

  // Whether its file system has as good as no room or no file left for programs.
  bool is_full() const;

 private:
  UniqueFd open_beneath(const std::string& path, int flags, mode_t mode) const;
  std::optional<Failure> make_parents(const std::vector<std::string>& parts) const;

  UniqueFd root_;
};

}  // namespace runbus::agent
