#pragma once

#include <optional>
#include <string>

#include "proto/support/error.h"
#include "proto/support/unique_fd.h"

namespace runbus::cli {

// /var/lib/runbus for root, else $XDG_STATE_HOME/runbus (or ~/.local/state/runbus).
std::string default_state_dir();

// The directory (mode 0700) in which one `runbus up` keeps what outlives it:
//   lock    held while an `up` runs
//   token   what clients must show (0600), made at the first start
//   url     the gateway's address while an `up` runs
//   node/   the workers' own
class StateDir {
 public:
  // Makes the directory if need be. An existing one that others can read is refused, unless it is
  // empty.
  static Result<StateDir> open(const std::string& path);

  const std::string& path() const { return path_; }
  std::string token_file() const { return path_ + "/token"; }
  std::string url_file() const { return path_ + "/url"; }
  std::string node_dir() const { return path_ + "/node"; }

  // Held as long as this object lives; an error when another `up` holds it.
  Result<void> lock();

  // The token: `chosen` if given (and kept), else the one that is there, else a new one.
  Result<std::string> token(const std::optional<std::string>& chosen) const;

 private:
  explicit StateDir(std::string path) : path_(std::move(path)) {}
  std::string path_;
  UniqueFd lock_;
};

// Whether `token` can go into a URL and a header as it is; an error that says why not.
Result<void> check_token(const std::string& token);

// Where the sockets of one `up` are: STATE/run, or, where a socket's path would not fit into
// sockaddr_un, a private directory under $XDG_RUNTIME_DIR or /tmp. Empty at the start; its sockets,
// and a private directory, are removed with this object.
class SocketDir {
 public:
  static Result<SocketDir> make(const std::string& state_dir);
  SocketDir(SocketDir&& other) noexcept;
  SocketDir& operator=(SocketDir&&) = delete;
  ~SocketDir();

  const std::string& path() const { return path_; }
  // "ipc://PATH/NAME.sock"; names of at most 16 characters.
  std::string endpoint(const std::string& name) const {
    return "ipc://" + path_ + "/" + name + ".sock";
  }

 private:
  SocketDir(std::string path, bool temporary) : path_(std::move(path)), temporary_(temporary) {}
  std::string path_;
  bool temporary_;
};

}  // namespace runbus::cli
