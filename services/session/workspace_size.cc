#include "services/session/workspace_size.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <unordered_set>
#include <utility>
#include <vector>

#include "proto/support/unique_fd.h"

namespace runbus::session {
namespace {

constexpr std::uint64_t kBytesPerFile = 16384;
constexpr std::uint64_t kLeastFiles = 1024;
// A tree that somebody moves at just that moment is begun again, so often.
constexpr int kMostTries = 8;

struct CloseDirectory {
  void operator()(DIR* directory) const { ::closedir(directory); }
};

UniqueFd open_folder(int parent, const char* name) {
  return UniqueFd(::openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
}

// Walks down by names and up by "..", which must lead to where it came from.
class Walk {
 public:
  Walk(UniqueFd top, dev_t device, std::uint64_t quota)
      : folder_(std::move(top)),
        device_(device),
        quota_(quota),
        most_files_(files_of_quota(quota)) {}

  // False: the tree was moved meanwhile.
  bool count() {
    if (!enter()) {
      return true;
    }
    while (!levels_.empty() && !size_.over) {
      std::vector<std::string>& folders = levels_.back().folders;
      if (folders.empty()) {
        if (!ascend()) {
          return false;
        }
        continue;
      }
      const std::string name = std::move(folders.back());
      folders.pop_back();
      // A folder that nobody but its owner may open is still ours to open, as root; else it is only
      // counted itself.
      if (UniqueFd inner = open_folder(folder_.get(), name.c_str())) {
        UniqueFd outer = std::exchange(folder_, std::move(inner));
        if (!enter()) {
          folder_ = std::move(outer);
        }
      }
    }
    return true;
  }
  const WorkspaceSize& size() const { return size_; }

 private:
  struct Level {
    ino_t inode = 0;
    std::vector<std::string> folders;  // in it, that are still to be looked into
  };

  // Counts what is in folder_, which becomes the last level. False: it is not of this tree.
  bool enter() {
    struct stat own {};
    if (::fstat(folder_.get(), &own) != 0 || own.st_dev != device_) {
      return false;
    }
    Level level{own.st_ino, {}};
    UniqueFd listed = open_folder(folder_.get(), ".");
    const std::unique_ptr<DIR, CloseDirectory> directory(listed ? ::fdopendir(listed.get())
                                                                : nullptr);
    if (directory) {
      listed.release();
    }
    while (directory && !size_.over) {
      const dirent* const entry = ::readdir(directory.get());
      if (entry == nullptr) {
        break;
      }
      look_at(entry->d_name, level);
    }
    levels_.push_back(std::move(level));
    return true;
  }

  void look_at(const char* name, Level& level) {
    struct stat status {};
    if (std::strcmp(name, ".") == 0 || std::strcmp(name, "..") == 0 ||
        ::fstatat(folder_.get(), name, &status, AT_SYMLINK_NOFOLLOW) != 0 ||
        status.st_dev != device_) {
      return;  // one that has gone meanwhile takes nothing
    }
    const bool directory = S_ISDIR(status.st_mode);
    if (!directory && status.st_nlink > 1 && !seen_.insert(status.st_ino).second) {
      return;
    }
    size_.bytes += static_cast<std::uint64_t>(status.st_blocks) * 512;
    ++size_.files;
    size_.over = size_.bytes > quota_ || size_.files > most_files_;
    if (directory) {
      level.folders.emplace_back(name);
    }
  }

  bool ascend() {
    levels_.pop_back();
    if (levels_.empty()) {
      return true;
    }
    UniqueFd parent = open_folder(folder_.get(), "..");
    struct stat status {};
    if (!parent || ::fstat(parent.get(), &status) != 0 || status.st_dev != device_ ||
        status.st_ino != levels_.back().inode) {
      return false;
    }
    folder_ = std::move(parent);
    return true;
  }

  UniqueFd folder_;  // of the last level
  const dev_t device_;
  const std::uint64_t quota_;
  const std::uint64_t most_files_;
  std::vector<Level> levels_;  // the way from the top to where we are
  std::unordered_set<ino_t> seen_;
  WorkspaceSize size_;
};

}  // namespace

std::uint64_t files_of_quota(std::uint64_t bytes) {
  return std::max(kLeastFiles, bytes / kBytesPerFile);
}

Result<WorkspaceSize> measure_workspace(const std::string& path, std::uint64_t quota) {
  for (int attempt = 0; attempt < kMostTries; ++attempt) {
    UniqueFd top = open_folder(AT_FDCWD, path.c_str());
    struct stat status {};
    if (!top || ::fstat(top.get(), &status) != 0) {
      return make_error(ErrorCode::kInternal, {}, "open " + path + ": " + std::strerror(errno));
    }
    Walk walk(std::move(top), status.st_dev, quota);
    if (walk.count()) {
      return walk.size();
    }
  }
  WorkspaceSize restless;
  restless.over = true;
  return restless;
}

}  // namespace runbus::session
