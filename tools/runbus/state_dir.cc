#include "tools/runbus/state_dir.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>

#include "proto/support/id.h"
#include "tools/runbus/files.h"

namespace runbus::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kTokenBytes = 24;
constexpr std::size_t kMaxTokenLength = 256;
// "/" + a name of 16 + ".sock", and the final zero of sun_path.
constexpr std::size_t kLongestSocketDir = sizeof(sockaddr_un::sun_path) - 1 - 16 - 6;

Result<void> make_private_directory(const std::string& path) {
  std::error_code error;
  fs::create_directories(fs::path(path).parent_path(), error);
  if (::mkdir(path.c_str(), 0700) == 0) {
    return {};
  }
  if (errno != EEXIST) {
    return failure_of_system("cannot make " + path, errno);
  }
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) {
    return failure(path + " is not a directory");
  }
  if (info.st_uid != ::geteuid()) {
    return failure(path + " belongs to another user");
  }
  if ((info.st_mode & 077U) == 0) {
    return {};
  }
  // Closing a directory that something else uses would break that; an empty one is ours to close.
  if (!fs::is_empty(path, error) || error) {
    return failure(path + " is open to other users: chmod 700 it, or name another directory");
  }
  if (::chmod(path.c_str(), 0700) != 0) {
    return failure_of_system("cannot close " + path + " to other users", errno);
  }
  return {};
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

void remove_sockets(const std::string& directory) {
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory, error)) {
    // The broker locks a socket's path by a file beside it.
    if (entry.is_socket(error) || entry.path().string().ends_with(".sock.lock")) {
      fs::remove(entry.path(), error);
    }
  }
}

}  // namespace

std::string default_state_dir() {
  if (::geteuid() == 0) {
    return "/var/lib/runbus";
  }
  const std::string state = environment("XDG_STATE_HOME");
  if (state.starts_with('/')) {
    return state + "/runbus";
  }
  const std::string home = environment("HOME");
  return (home.empty() ? "/tmp" : home + "/.local/state") + "/runbus";
}

Result<StateDir> StateDir::open(const std::string& path) {
  std::error_code error;
  const fs::path absolute =
      fs::absolute(path.empty() ? default_state_dir() : path, error).lexically_normal();
  std::string text = absolute.string();
  while (text.size() > 1 && text.ends_with('/')) {
    text.pop_back();
  }
  if (const Result<void> made = make_private_directory(text); !made) {
    return made.error();
  }
  return StateDir(std::move(text));
}

Result<void> StateDir::lock() {
  UniqueFd file(::open((path_ + "/lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file) {
    return failure_of_system("cannot open " + path_ + "/lock", errno);
  }
  if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) {
      return failure_of_system("cannot lock " + path_ + "/lock", errno);
    }
    return failure("another `runbus up` runs on the state directory " + path_ +
                   ": stop it, or name another with --state-dir");
  }
  lock_ = std::move(file);
  return {};
}

Result<std::string> StateDir::token(const std::optional<std::string>& chosen) const {
  if (!chosen && fs::exists(token_file())) {
    Result<std::string> text = read_file(token_file(), 4096);
    if (!text) {
      return text;
    }
    std::string token = trimmed(*text);
    if (const Result<void> checked = check_token(token); !checked) {
      return failure(token_file() + ": " + checked.error().detail);
    }
    if (::chmod(token_file().c_str(), 0600) != 0) {
      return failure_of_system("cannot close " + token_file() + " to others", errno);
    }
    return token;
  }
  std::string token = chosen ? *chosen : random_hex(kTokenBytes);
  if (const Result<void> checked = check_token(token); !checked) {
    return checked.error();
  }
  if (const Result<void> written = write_file(token_file(), token + "\n", 0600); !written) {
    return written.error();
  }
  return token;
}

Result<void> check_token(const std::string& token) {
  if (token.empty() || token.size() > kMaxTokenLength) {
    return failure("a token has 1 to 256 characters");
  }
  for (const char c : token) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '-' || c == '.' || c == '_' || c == '~';
    if (!plain) {
      return failure("a token has only letters, digits and - . _ ~");
    }
  }
  return {};
}

Result<SocketDir> SocketDir::make(const std::string& state_dir) {
  const std::string near = state_dir + "/run";
  if (near.size() <= kLongestSocketDir) {
    if (const Result<void> made = make_private_directory(near); !made) {
      return made.error();
    }
    remove_sockets(near);
    return SocketDir(near, false);
  }
  for (const std::string& base : {environment("XDG_RUNTIME_DIR"), std::string("/tmp")}) {
    std::string pattern = base + "/runbus-XXXXXX";
    if (base.starts_with('/') && pattern.size() <= kLongestSocketDir &&
        ::mkdtemp(pattern.data()) != nullptr) {
      return SocketDir(pattern, true);
    }
  }
  return failure(
      "cannot make a directory for sockets in $XDG_RUNTIME_DIR or /tmp; name a shorter "
      "--state-dir");
}

SocketDir::SocketDir(SocketDir&& other) noexcept
    : path_(std::exchange(other.path_, {})), temporary_(other.temporary_) {}

SocketDir::~SocketDir() {
  if (path_.empty()) {
    return;
  }
  remove_sockets(path_);
  if (temporary_) {
    ::rmdir(path_.c_str());
  }
}

}  // namespace runbus::cli
