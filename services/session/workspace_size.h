#pragma once

#include <cstdint>
#include <string>

#include "proto/support/error.h"

namespace runbus::session {

struct WorkspaceSize {
  std::uint64_t bytes = 0;  // on disk, a file with several names once
  std::uint64_t files = 0;  // and folders
  // Too much to go on counting; or its folders were moved again and again while that was tried.
  bool over = false;
};

// Files that a workspace of this many bytes may have, as mkfs.ext4 gives a file system of that
// size.
std::uint64_t files_of_quota(std::uint64_t bytes);

// What the tree at `path` takes, counted up to `quota` bytes and files_of_quota files. The tree is
// hostile and changes meanwhile: no link is followed, no other file system entered; it may be of
// any depth, three descriptors are open. Blocking, for a time that the quota bounds.
Result<WorkspaceSize> measure_workspace(const std::string& path, std::uint64_t quota);

}  // namespace runbus::session
