#include "services/session/remove_tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "proto/support/unique_fd.h"

namespace runbus::session {
namespace {

struct CloseDir {
  void operator()(DIR* directory) const { ::closedir(directory); }
};
using Directory = std::unique_ptr<DIR, CloseDir>;

// Names kept per level: few, since a hostile tree has many levels of long names.
constexpr std::size_t kBatch = 16;

// Opens a directory for reading whatever its mode says, never through a symbolic link.
UniqueFd open_directory(int parent, const char* name) {
  const UniqueFd handle(::openat(parent, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!handle) {
    return {};
  }
  // fchmod refuses an O_PATH descriptor; its name in /proc leads to the very same inode.
  const std::string self = "/proc/self/fd/" + std::to_string(handle.get());
  ::chmod(self.c_str(), 0700);  // on failure the open below says so
  return UniqueFd(::openat(handle.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
}

struct Identity {
  dev_t device = 0;
  ino_t inode = 0;
  bool operator==(const Identity&) const = default;
};

std::optional<Identity> identity_of(int fd) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) {
    return std::nullopt;
  }
  return Identity{status.st_dev, status.st_ino};
}

// Walks down to what can be removed and up again by "..", which must lead to where it came from: so
// a tree that somebody moves meanwhile leads nowhere else.
class Remover {
 public:
  explicit Remover(UniqueFd top) : directory_(std::move(top)) { levels_.emplace_back(); }

  // Empties the top directory; errno tells why it could not.
  bool empty_top() {
    for (;;) {
      Level& level = levels_.back();
      if (level.full.empty() && !scan(level)) {
        return false;
      }
      if (!level.full.empty()) {
        if (!descend()) {
          return false;
        }
      } else if (removed_) {
        continue;  // a stream may skip entries of a directory that changes
      } else if (levels_.size() == 1) {
        return true;
      } else if (!ascend()) {
        return false;
      }
    }
  }

 private:
  struct Level {
    Identity identity;
    std::vector<std::string> full;  // directories in it that are not empty, a few at a time
  };

  // Removes what can be removed at once and notes directories that are not empty. Without an entry
  // in level.full and with nothing removed, the directory is empty.
  bool scan(Level& level) {
    const Directory stream(
        ::fdopendir(::openat(directory_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)));
    if (!stream) {
      return false;
    }
    removed_ = false;
    while (level.full.size() < kBatch) {
      errno = 0;
      const dirent* entry = ::readdir(stream.get());
      if (entry == nullptr) {
        return errno == 0;
      }
      const char* name = entry->d_name;
      if (std::strcmp(name, ".") == 0 || std::strcmp(name, "..") == 0) {
        continue;
      }
      if (::unlinkat(directory_.get(), name, 0) == 0 ||
          ::unlinkat(directory_.get(), name, AT_REMOVEDIR) == 0) {
        removed_ = true;
        continue;
      }
      level.full.emplace_back(name);
    }
    return true;
  }

  bool descend() {
    Level& level = levels_.back();
    const auto here = identity_of(directory_.get());
    UniqueFd child = open_directory(directory_.get(), level.full.back().c_str());
    if (!here || !child) {
      return false;
    }
    level.identity = *here;
    directory_ = std::move(child);
    levels_.emplace_back();
    return true;
  }

  bool ascend() {
    levels_.pop_back();
    Level& level = levels_.back();
    UniqueFd parent(::openat(directory_.get(), "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!parent || identity_of(parent.get()) != level.identity) {
      return false;
    }
    directory_ = std::move(parent);
    const std::string emptied = std::move(level.full.back());
    level.full.pop_back();
    return ::unlinkat(directory_.get(), emptied.c_str(), AT_REMOVEDIR) == 0;
  }

  UniqueFd directory_;  // of the last level
  std::vector<Level> levels_;
  bool removed_ = false;  // by the last scan
};

}  // namespace

Result<void> remove_tree(const std::string& path) {
  UniqueFd top = open_directory(AT_FDCWD, path.c_str());
  if (!top) {
    if (errno == ENOENT) {
      return {};
    }
    return make_error(ErrorCode::kInternal, {}, "open " + path + ": " + std::strerror(errno));
  }
  if (!Remover(std::move(top)).empty_top() || ::rmdir(path.c_str()) != 0) {
    return make_error(ErrorCode::kInternal, {}, "remove " + path + ": " + std::strerror(errno));
  }
  return {};
}

}  // namespace runbus::session
