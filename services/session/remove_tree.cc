#include "services/session/remove_tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "proto/support/unique_fd.h"

namespace runbus::session {
namespace {

struct CloseDir {
  void operator()(DIR* directory) const { ::closedir(directory); }
};
using Directory = std::unique_ptr<DIR, CloseDir>;

// Names are taken in batches, so that a directory of millions needs bounded memory.
constexpr std::size_t kBatch = 4096;

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

std::vector<std::string> batch_of_names(int fd) {
  std::vector<std::string> names;
  const Directory directory(::fdopendir(::openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)));
  if (!directory) {
    return names;
  }
  while (names.size() < kBatch) {
    const dirent* entry = ::readdir(directory.get());
    if (entry == nullptr) {
      break;
    }
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") {
      names.emplace_back(name);
    }
  }
  return names;
}

class Remover {
 public:
  explicit Remover(int top) : top_(top) {}

  // Empties the top directory; errno tells why it could not.
  bool empty_top() {
    for (;;) {
      const std::vector<std::string> names = batch_of_names(top_);
      if (names.empty()) {
        return true;
      }
      bool progress = false;
      for (const std::string& name : names) {
        progress = remove_entry(name) || progress;
      }
      if (!progress) {
        return false;
      }
    }
  }

 private:
  // Whether anything was achieved.
  bool remove_entry(const std::string& name) {
    if (::unlinkat(top_, name.c_str(), 0) == 0) {
      return true;
    }
    bool progress = false;
    const UniqueFd directory = open_directory(top_, name.c_str());
    while (directory) {
      const std::vector<std::string> children = batch_of_names(directory.get());
      bool moved = false;
      for (const std::string& child : children) {
        moved =
            (::unlinkat(directory.get(), child.c_str(), 0) == 0 || lift(directory.get(), child)) ||
            moved;
      }
      progress = progress || moved;
      if (!moved) {
        break;
      }
    }
    return ::unlinkat(top_, name.c_str(), AT_REMOVEDIR) == 0 || progress;
  }

  // Moves a directory up into the top one, under a name that is free.
  bool lift(int parent, const std::string& child) {
    if (::unlinkat(parent, child.c_str(), AT_REMOVEDIR) == 0) {
      return true;
    }
    // Moving a directory rewrites its "..", for which its owner needs to be able to write to it.
    open_directory(parent, child.c_str());
    for (int attempt = 0; attempt < 1000; ++attempt) {
      const std::string name = ".removing-" + std::to_string(++counter_);
      if (::renameat2(parent, child.c_str(), top_, name.c_str(), RENAME_NOREPLACE) == 0) {
        return true;
      }
      if (errno != EEXIST) {
        return false;
      }
    }
    return false;
  }

  int top_;
  std::uint64_t counter_ = 0;
};

}  // namespace

Result<void> remove_tree(const std::string& path) {
  const UniqueFd top = open_directory(AT_FDCWD, path.c_str());
  if (!top) {
    if (errno == ENOENT) {
      return {};
    }
    return make_error(ErrorCode::kInternal, {}, "open " + path + ": " + std::strerror(errno));
  }
  if (!Remover(top.get()).empty_top() || ::rmdir(path.c_str()) != 0) {
    return make_error(ErrorCode::kInternal, {}, "remove " + path + ": " + std::strerror(errno));
  }
  return {};
}

}  // namespace runbus::session
