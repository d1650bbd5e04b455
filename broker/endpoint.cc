#include "broker/endpoint.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cerrno>
#include <filesystem>
#include <stdexcept>
#include <string_view>
#include <system_error>

namespace runbus::broker {
namespace {

constexpr std::string_view kIpc = "ipc://";
constexpr std::string_view kTcp = "tcp://";

[[noreturn]] void refuse(const std::string& endpoint, const std::string& why) {
  throw std::runtime_error("cannot listen on " + endpoint + ": " + why);
}

std::string message(int error) { return std::generic_category().message(error); }

void prepare_directory(const std::string& endpoint, const std::filesystem::path& directory) {
  struct stat info {};
  if (::stat(directory.c_str(), &info) != 0) {
    std::error_code error;
    std::filesystem::create_directories(directory.parent_path(), error);
    if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) {
      refuse(endpoint, "its directory cannot be made: " + message(errno));
    }
    if (::stat(directory.c_str(), &info) != 0) {
      refuse(endpoint, "its directory cannot be examined: " + message(errno));
    }
  }
  if (!S_ISDIR(info.st_mode)) {
    refuse(endpoint, "its directory is no directory");
  }
  if ((info.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
    refuse(endpoint, "others can write to its directory");
  }
}

UniqueFd lock(const std::string& endpoint, const std::string& path) {
  UniqueFd fd(::open((path + ".lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) {
    refuse(endpoint, "its lock file cannot be opened: " + message(errno));
  }
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    refuse(endpoint, errno == EWOULDBLOCK ? "another broker does" : message(errno));
  }
  return fd;
}

}  // namespace

bool is_ipc(const std::string& endpoint) { return endpoint.starts_with(kIpc); }
bool is_tcp(const std::string& endpoint) { return endpoint.starts_with(kTcp); }

UniqueFd bind_ipc(zmq::socket_t& socket, const std::string& endpoint) {
  const std::string path = endpoint.substr(kIpc.size());
  if (path.empty() || path.front() == '@' || path.find('*') != std::string::npos) {
    refuse(endpoint, "it is not the path of a socket file");
  }
  if (path.size() >= sizeof(sockaddr_un::sun_path)) {
    refuse(endpoint, "the path is longer than the " +
                         std::to_string(sizeof(sockaddr_un::sun_path) - 1) +
                         " bytes that a socket's can have");
  }
  prepare_directory(endpoint, std::filesystem::absolute(path).parent_path());
  UniqueFd held = lock(endpoint, path);
  // By the mask and not by chmod afterwards: there is no moment at which others could connect.
  const mode_t mask = ::umask(0177);
  const int result = zmq_bind(socket.handle(), endpoint.c_str());
  const int error = zmq_errno();
  ::umask(mask);
  if (result != 0) {
    refuse(endpoint, zmq_strerror(error));
  }
  return held;
}

std::string bind_tcp(zmq::socket_t& socket, const std::string& endpoint) {
  if (zmq_bind(socket.handle(), endpoint.c_str()) != 0) {
    refuse(endpoint, zmq_strerror(zmq_errno()));
  }
  // An IPv4 address comes back in its IPv6 form, "tcp://[::ffff:127.0.0.1]:5555".
  constexpr std::string_view kMapped = "tcp://[::ffff:";
  std::string bound = socket.get(zmq::sockopt::last_endpoint);
  const std::size_t bracket = bound.rfind(']');
  if (bound.starts_with(kMapped) && bracket != std::string::npos) {
    bound = std::string(kTcp) + bound.substr(kMapped.size(), bracket - kMapped.size()) +
            bound.substr(bracket + 1);
  }
  return bound;
}

}  // namespace runbus::broker
