#pragma once

#include <sys/socket.h>
#include <sys/un.h>

#include <string>

#include "proto/support/error.h"
#include "proto/support/unique_fd.h"

namespace runbus::session {

// The address of a Unix socket at a path of any length: sun_path holds 108 bytes (unix(7)), so a
// longer path is named through a descriptor of its directory, which lives as long as this object.
class UnixAddress {
 public:
  static Result<UnixAddress> of(const std::string& path);
  const sockaddr* address() const;
  socklen_t size() const { return sizeof(address_); }

 private:
  UniqueFd directory_;
  sockaddr_un address_{};
};

// A listening, non-blocking, close-on-exec socket at `path`; one that is there already is replaced.
Result<UniqueFd> listen_unix(const std::string& path);

// A connected, non-blocking, close-on-exec socket. kUnavailable when nobody listens there,
// kConnection otherwise. Does not block: a full backlog is an error.
Result<UniqueFd> connect_unix(const std::string& path);

}  // namespace runbus::session
