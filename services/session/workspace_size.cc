#include "services/session/workspace_size.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <unordered_set>
#include <vector>

#include "proto/support/unique_fd.h"

namespace runbus::session {
namespace {

constexpr std::uint64_t kBytesPerFile = 16384;
constexpr std::uint64_t kLeastFiles = 1024;
constexpr std::size_t kMaxDepth = 128;

struct CloseDirectory {
  void operator()(DIR* directory) const { ::closedir(directory); }
};
using Directory = std::unique_ptr<DIR, CloseDirectory>;

Directory open_folder(int parent, const char* name) {
  const int fd = ::openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  return Directory(fd < 0 ? nullptr : ::fdopendir(fd));
}

}  // namespace

std::uint64_t files_of_quota(std::uint64_t bytes) {
  return std::max(kLeastFiles, bytes / kBytesPerFile);
}

Result<WorkspaceSize> measure_workspace(const std::string& path, std::uint64_t quota) {
  const std::uint64_t most_files = files_of_quota(quota);
  std::vector<Directory> open;  // the way from the top to where we are
  std::unordered_set<ino_t> seen;
  open.push_back(open_folder(AT_FDCWD, path.c_str()));
  struct stat top {};
  if (!open.back() || ::fstat(::dirfd(open.back().get()), &top) != 0) {
    return make_error(ErrorCode::kInternal, {}, "open " + path + ": " + std::strerror(errno));
  }
  WorkspaceSize size;
  while (!open.empty()) {
    const dirent* entry = ::readdir(open.back().get());
    if (entry == nullptr) {
      open.pop_back();
      continue;
    }
    const char* name = entry->d_name;
    struct stat status {};
    const int folder = ::dirfd(open.back().get());
    if (std::strcmp(name, ".") == 0 || std::strcmp(name, "..") == 0 ||
        ::fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW) != 0 || status.st_dev != top.st_dev) {
      continue;  // one that has gone meanwhile takes nothing
    }
    const bool directory = S_ISDIR(status.st_mode);
    if (!directory && status.st_nlink > 1 && !seen.insert(status.st_ino).second) {
      continue;
    }
    size.bytes += static_cast<std::uint64_t>(status.st_blocks) * 512;
    ++size.files;
    const bool too_deep = directory && open.size() >= kMaxDepth;
    if (size.bytes > quota || size.files > most_files || too_deep) {
      size.over = true;
      return size;
    }
    if (directory) {
      // A folder that nobody but its owner may open is still ours to open, as root; else it is
      // only counted itself.
      if (Directory inner = open_folder(folder, name)) {
        open.push_back(std::move(inner));
      }
    }
  }
  return size;
}

}  // namespace runbus::session
