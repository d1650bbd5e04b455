#include "tools/runbus/sink.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

namespace runbus::cli {

Sink::Sink(boost::asio::io_context& io, int fd) : fd_(fd), waiter_(io) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) {
    broken_ = true;
    return;
  }
  int own = -1;
  if (S_ISSOCK(info.st_mode)) {
    socket_ = true;
    own = ::fcntl(fd, F_DUPFD_CLOEXEC, 3);
  } else if (S_ISFIFO(info.st_mode) || S_ISCHR(info.st_mode)) {
    const std::string path = "/proc/self/fd/" + std::to_string(fd);
    own = ::open(path.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
  }
  if (own >= 0) {
    boost::system::error_code error;
    waiter_.assign(own, error);
    if (error) {
      ::close(own);
    } else {
      fd_ = own;
    }
  }
}

Sink::~Sink() = default;

bool Sink::write(std::string_view bytes) {
  if (broken_) {
    return true;
  }
  pending_.append(bytes);
  if (!waiting_) {
    flush();
  }
  return pending_.empty();
}

void Sink::flush() {
  std::size_t done = 0;
  while (done < pending_.size()) {
    const char* from = pending_.data() + done;
    const std::size_t left = pending_.size() - done;
    const ssize_t count =
        socket_ ? ::send(fd_, from, left, MSG_DONTWAIT | MSG_NOSIGNAL) : ::write(fd_, from, left);
    if (count >= 0) {
      done += static_cast<std::size_t>(count);
    } else if (errno == EAGAIN && waiter_.is_open()) {
      break;
    } else if (errno == EAGAIN) {
      // Our caller made it non-blocking, and it cannot be opened again: nothing is left but to wait
      // here.
      pollfd polled{fd_, POLLOUT, 0};
      ::poll(&polled, 1, 1000);
    } else if (errno != EINTR) {
      broken_ = true;
      done = pending_.size();
    }
  }
  pending_.erase(0, done);
  if (!pending_.empty()) {
    wait();
  }
}

void Sink::wait() {
  waiting_ = true;
  waiter_.async_wait(boost::asio::posix::stream_descriptor::wait_write,
                     [this](boost::system::error_code error) {
                       if (error == boost::asio::error::operation_aborted) {
                         return;  // this object may be gone
                       }
                       waiting_ = false;
                       flush();
                       if (pending_.empty() && on_drained_) {
                         on_drained_();
                       }
                     });
}

}  // namespace runbus::cli
