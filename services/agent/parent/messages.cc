#include "services/agent/parent/messages.h"

#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace runbus::agent {
namespace {

constexpr unsigned kFewDescriptors = 4096;

}  // namespace

Message receive(int socket, char* data, std::size_t room, int count) {
  Message message;
  iovec part{data, room};
  alignas(cmsghdr) char space[CMSG_SPACE(sizeof(message.descriptors))];
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = space;
  header.msg_controllen = sizeof(space);
  do {
    message.size = ::recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
  } while (message.size < 0 && errno == EINTR);
  if (message.size <= 0) {
    ::_exit(0);
  }
  const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(int);
  const cmsghdr* const control = CMSG_FIRSTHDR(&header);
  if (control == nullptr || control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS ||
      control->cmsg_len != CMSG_LEN(bytes)) {
    ::_exit(1);
  }
  std::memcpy(message.descriptors, CMSG_DATA(control), bytes);
  return message;
}

void close_range(unsigned first, unsigned last) {
  if (first > last || ::syscall(SYS_close_range, first, last, 0U) == 0) {
    return;
  }
  // Before Linux 5.9.
  for (unsigned fd = first; fd <= last && fd < kFewDescriptors; ++fd) {
    ::close(static_cast<int>(fd));
  }
}

}  // namespace runbus::agent
