#include "services/session/engine_uid.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstring>
#include <functional>

#include "proto/support/unique_fd.h"
#include "services/session/launch.h"

namespace runbus::session {
namespace {

Error errno_error(const std::string& what) {
  return make_error(ErrorCode::kInternal, {}, what + ": " + std::strerror(errno));
}

std::string claims_dir() { return std::string(kRuntimeDir) + "/uids"; }

std::string claim_path(std::uint32_t uid) { return claims_dir() + "/" + std::to_string(uid); }

std::string holder(std::uint32_t uid) {
  char target[PATH_MAX];
  const ssize_t size = ::readlink(claim_path(uid).c_str(), target, sizeof target);
  return size > 0 ? std::string(target, static_cast<std::size_t>(size)) : std::string();
}

// Held while a void claim is replaced: two takers must not both find it void.
Result<UniqueFd> lock_claims() {
  if ((::mkdir(kRuntimeDir, 0755) != 0 && errno != EEXIST) ||
      (::mkdir(claims_dir().c_str(), 0700) != 0 && errno != EEXIST)) {
    return errno_error("mkdir " + claims_dir());
  }
  UniqueFd lock(::open((claims_dir() + "/lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!lock || ::flock(lock.get(), LOCK_EX) != 0) {
    return errno_error("locking " + claims_dir());
  }
  return lock;
}

bool is_empty(int folder) {
  DIR* entries = ::fdopendir(::openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (entries == nullptr) {
    return false;
  }
  int count = 0;
  while (count < 3 && ::readdir(entries) != nullptr) {
    ++count;
  }
  ::closedir(entries);
  return count <= 2;  // "." and ".."
}

bool try_claim(std::uint32_t uid, const std::string& state_dir) {
  const std::string path = claim_path(uid);
  if (::symlink(state_dir.c_str(), path.c_str()) == 0) {
    return true;
  }
  const std::string by = holder(uid);
  if (by == state_dir) {
    return true;  // left by an earlier sandbox of the same session
  }
  return ::access(by.c_str(), F_OK) != 0 && ::unlink(path.c_str()) == 0 &&
         ::symlink(state_dir.c_str(), path.c_str()) == 0;
}

}  // namespace

Result<std::uint32_t> claim_uid(std::uint32_t first, std::uint32_t count, const std::string& key,
                                const std::string& state_dir) {
  const Result<UniqueFd> lock = lock_claims();
  if (!lock) {
    return lock.error();
  }
  const std::uint32_t start = static_cast<std::uint32_t>(std::hash<std::string>{}(key) % count);
  for (std::uint32_t step = 0; step < count; ++step) {
    const std::uint32_t uid = first + (start + step) % count;
    if (try_claim(uid, state_dir)) {
      return uid;
    }
  }
  return make_error(ErrorCode::kQuota, "this node has no user id left for another session");
}

void release_uid(std::uint32_t uid, const std::string& state_dir) {
  if (uid != 0 && holder(uid) == state_dir) {
    ::unlink(claim_path(uid).c_str());
  }
}

Result<void> hand_over(int fd, std::uint32_t owner) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) {
    return errno_error("stat of a sandbox's folder");
  }
  if (status.st_uid == owner && status.st_gid == owner) {
    return {};
  }
  if (is_empty(fd)) {
    return ::fchown(fd, owner, owner) == 0 ? Result<void>()
                                           : errno_error("chown of a sandbox's folder");
  }
  // The tree is hostile (depth, links); coreutils' walk by descriptors copes with it.
  Launch chown;
  chown.argv = {
      find_program("chown"), "-R", "-h", "--", std::to_string(owner) + ":" + std::to_string(owner),
      "/proc/self/fd/3/."};
  chown.descriptors = {-1, -1, -1, fd};
  const Result<int> ended =
      run_program(chown, std::chrono::steady_clock::now() + std::chrono::seconds(30));
  if (!ended) {
    return ended.error();
  }
  if (*ended != 0) {
    return make_error(ErrorCode::kInternal, {}, "chown -R of a sandbox's folder failed");
  }
  return {};
}

}  // namespace runbus::session
