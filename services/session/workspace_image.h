#pragma once

#include <cstdint>
#include <string>

#include "proto/support/error.h"
#include "proto/support/unique_fd.h"

namespace runbus::session {

// A workspace that cannot grow beyond its size: an ext4 file system in a sparse file, on a loop
// device. Nothing of it has to be undone: it is mounted in the sandbox's own mount namespace alone
// and the device frees itself when nothing uses it any more, so all that stays after a kill -9 of
// everything is the file. Needs root.
struct WorkspaceImage {
  std::string device;  // "/dev/loop3"
  // Keeps the device until it is mounted.
  UniqueFd loop;
};

// Makes `file`, of `bytes` bytes, and a device of it. Copies an empty file system that is made once
// for each size (mkfs.ext4 takes longer than all the rest). Blocking; any thread, any process.
Result<WorkspaceImage> make_workspace_image(const std::string& file, std::uint64_t bytes);

}  // namespace runbus::session
