#include "services/session/unix_path.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>

namespace runbus::session {
namespace {

constexpr int kBacklog = 64;

Error socket_error(ErrorCode code, const char* what) {
  return make_error(code, "the sandbox's agent cannot be reached",
                    std::string(what) + ": " + std::strerror(errno));
}

Result<UniqueFd> make_socket() {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) {
    return socket_error(ErrorCode::kUnavailable, "socket");
  }
  return fd;
}

}  // namespace

Result<UnixAddress> UnixAddress::of(const std::string& path) {
  UnixAddress result;
  result.address_.sun_family = AF_UNIX;
  std::string name = path;
  if (name.size() >= sizeof(result.address_.sun_path)) {
    const std::size_t slash = path.rfind('/');
    if (slash == std::string::npos || slash == 0) {
      return make_error(ErrorCode::kInternal, {}, "socket name too long");
    }
    result.directory_.reset(
        ::open(path.substr(0, slash).c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!result.directory_) {
      return socket_error(ErrorCode::kUnavailable, "open socket directory");
    }
    name = "/proc/self/fd/" + std::to_string(result.directory_.get()) + path.substr(slash);
    if (name.size() >= sizeof(result.address_.sun_path)) {
      return make_error(ErrorCode::kInternal, {}, "socket name too long");
    }
  }
  std::memcpy(result.address_.sun_path, name.c_str(), name.size() + 1);
  return result;
}

const sockaddr* UnixAddress::address() const {
  return reinterpret_cast<const sockaddr*>(&address_);
}

Result<UniqueFd> listen_unix(const std::string& path) {
  auto address = UnixAddress::of(path);
  if (!address) {
    return address.error();
  }
  auto fd = make_socket();
  if (!fd) {
    return fd.error();
  }
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
    return socket_error(ErrorCode::kUnavailable, "unlink old socket");
  }
  if (::bind(fd->get(), address->address(), address->size()) != 0 ||
      ::chmod(path.c_str(), 0600) != 0 || ::listen(fd->get(), kBacklog) != 0) {
    return socket_error(ErrorCode::kUnavailable, "bind agent socket");
  }
  return fd;
}

Result<UniqueFd> connect_unix(const std::string& path) {
  auto address = UnixAddress::of(path);
  if (!address) {
    return address.error();
  }
  auto fd = make_socket();
  if (!fd) {
    return fd.error();
  }
  if (::connect(fd->get(), address->address(), address->size()) != 0) {
    const bool nobody = errno == ECONNREFUSED || errno == ENOENT;
    return socket_error(nobody ? ErrorCode::kUnavailable : ErrorCode::kConnection,
                        "connect to agent");
  }
  return fd;
}

}  // namespace runbus::session
