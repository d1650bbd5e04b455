#include "services/agent/workspace.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

namespace runbus::agent {
namespace {

constexpr std::size_t kMaxPath = 4095;

// The parts of a path that may be used at all.
Outcome<std::vector<std::string>> split(const std::string& path) {
  if (path.empty() || path.size() > kMaxPath || path.find('\0') != std::string::npos) {
    return invalid("path is empty, too long or has a zero byte");
  }
  if (path.front() == '/') {
    return invalid("path is absolute; it must be relative to the workspace");
  }
  std::vector<std::string> parts;
  for (std::size_t start = 0; start <= path.size();) {
    const std::size_t end = std::min(path.find('/', start), path.size());
    std::string part = path.substr(start, end - start);
    if (part == "..") {
      return invalid("path has a \"..\"");
    }
    if (!part.empty() && part != ".") {
      parts.push_back(std::move(part));
    }
    start = end + 1;
  }
  return parts;
}

std::string join(const std::vector<std::string>& parts, std::size_t count) {
  std::string path;
  for (std::size_t i = 0; i < count; ++i) {
    path += (i == 0 ? "" : "/") + parts[i];
  }
  return path.empty() ? "." : path;
}

// What a program may have put in our way is the request's fault; a full disk is the system's.
Failure path_failure(const std::string& what, int error) {
  switch (error) {
    case EXDEV:
    case ELOOP:
      return {v1::Failed::INVALID, what + ": leads out of the workspace or is a symbolic link",
              error};
    case ENOTDIR:
    case EISDIR:
    case ENXIO:
    case ENAMETOOLONG:
    case ENOENT:
    case EINVAL:
      return {v1::Failed::INVALID, what + ": " + std::strerror(error), error};
    default:
      return system_failure(what, error);
  }
}

// Where openat2 is missing: every part by itself, no symbolic link at all.
UniqueFd open_by_steps(int root, const std::string& path, int flags, mode_t mode) {
  UniqueFd at(::openat(root, ".", O_PATH | O_DIRECTORY | O_CLOEXEC));
  std::size_t start = 0;
  for (std::size_t slash = path.find('/'); at && slash != std::string::npos;
       slash = path.find('/', start)) {
    const std::string part = path.substr(start, slash - start);
    at.reset(::openat(at.get(), part.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    start = slash + 1;
  }
  if (!at) {
    return at;
  }
  return UniqueFd(
      ::openat(at.get(), path.substr(start).c_str(), flags | O_NOFOLLOW | O_CLOEXEC, mode));
}

bool write_all(int file, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(file, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) {
      continue;
    }
    if (written <= 0) {
      return false;
    }
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

}  // namespace

Workspace::Workspace(const std::string& path)
    : root_(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)) {
  if (!root_) {
    throw std::system_error(errno, std::generic_category(), "workspace " + path);
  }
}

UniqueFd Workspace::open_beneath(const std::string& path, int flags, mode_t mode) const {
  open_how how{};
  how.flags = static_cast<__u64>(flags | O_CLOEXEC);
  how.mode = mode;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
  // EAGAIN: somebody renames directories at this moment.
  for (int tries = 0; tries < 16; ++tries) {
    const long fd = ::syscall(SYS_openat2, root_.get(), path.c_str(), &how, sizeof(how));
    if (fd >= 0) {
      return UniqueFd(static_cast<int>(fd));
    }
    if (errno == ENOSYS || errno == EPERM) {
      return open_by_steps(root_.get(), path, flags, mode);
    }
    if (errno != EAGAIN) {
      break;
    }
  }
  return UniqueFd();
}

Outcome<UniqueFd> Workspace::open_directory(const std::string& path) const {
  std::vector<std::string> parts;
  if (!path.empty()) {
    auto split_path = split(path);
    if (const auto* failure = std::get_if<Failure>(&split_path)) {
      return *failure;
    }
    parts = std::get<std::vector<std::string>>(std::move(split_path));
  }
  UniqueFd directory = open_beneath(join(parts, parts.size()), O_PATH | O_DIRECTORY, 0);
  if (!directory) {
    return path_failure("working directory", errno);
  }
  return directory;
}

std::optional<Failure> Workspace::make_parents(const std::vector<std::string>& parts) const {
  UniqueFd parent = open_beneath(".", O_PATH | O_DIRECTORY, 0);
  for (std::size_t count = 1; parent && count < parts.size(); ++count) {
    const std::string path = join(parts, count);
    UniqueFd next = open_beneath(path, O_PATH | O_DIRECTORY, 0);
    if (!next && errno == ENOENT) {
      if (::mkdirat(parent.get(), parts[count - 1].c_str(), 0755) != 0 && errno != EEXIST) {
        return path_failure("cannot make a parent directory", errno);
      }
      next = open_beneath(path, O_PATH | O_DIRECTORY, 0);
    }
    parent = std::move(next);
  }
  if (!parent) {
    return path_failure("cannot open a parent directory", errno);
  }
  return std::nullopt;
}

std::optional<Failure> Workspace::write_file(const std::string& path, std::uint32_t mode,
                                             bool append, std::string_view content) const {
  const auto split_path = split(path);
  if (const auto* failure = std::get_if<Failure>(&split_path)) {
    return *failure;
  }
  const auto& parts = std::get<std::vector<std::string>>(split_path);
  if (parts.empty() || path.back() == '/') {
    return invalid("path names no file");
  }
  const std::string clean = join(parts, parts.size());
  const int flags =
      O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | (append ? O_APPEND : 0);
  const mode_t bits = mode == 0 ? 0644 : (mode & 0777);
  UniqueFd file = open_beneath(clean, flags, bits);
  if (!file && errno == ENOENT) {
    if (const auto failure = make_parents(parts)) {
      return failure;
    }
    file = open_beneath(clean, flags, bits);
  }
  if (!file) {
    return path_failure("cannot open the file", errno);
  }
  struct stat status {};
  if (::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) {
    return invalid("not a regular file");
  }
  // Cut to its size at the end: ext4 writes a file that was cut to nothing to the disk at close().
  const bool is_longer = !append && status.st_size > static_cast<off_t>(content.size());
  if ((mode != 0 && ::fchmod(file.get(), bits) != 0) || !write_all(file.get(), content) ||
      (is_longer && ::ftruncate(file.get(), static_cast<off_t>(content.size())) != 0)) {
    return system_failure("cannot write the file", errno);
  }
  return std::nullopt;
}

bool Workspace::is_full() const {
  struct statvfs status {};
  if (::fstatvfs(root_.get(), &status) != 0) {
    return false;
  }
  // Programs are refused before the last block: ext4 keeps some for itself, and takes or refuses a
  // large write in pieces of up to 2 MiB.
  constexpr std::uint64_t kPiece = 2U << 20U;
  const std::uint64_t piece =
      std::min<std::uint64_t>(kPiece / status.f_frsize, status.f_blocks / 8);
  return status.f_bavail < std::max<std::uint64_t>(piece, status.f_blocks / 100) ||
         (status.f_files != 0 && status.f_favail == 0);  // some do not count files
}

}  // namespace runbus::agent
