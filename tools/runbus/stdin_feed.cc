#include "tools/runbus/stdin_feed.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <cerrno>

namespace runbus::cli {
namespace {

constexpr std::size_t kChunk = 64U << 10U;
constexpr std::chrono::milliseconds kFirstPause{5};
constexpr std::chrono::milliseconds kLongestPause{250};

}  // namespace

StdinFeed::StdinFeed(boost::asio::io_context& io, int fd, Send send)
    : input_(io), timer_(io), send_(std::move(send)), fd_(fd) {
  struct stat info {};
  // A file is always readable, and epoll refuses it.
  if (::fstat(fd, &info) == 0 && !S_ISREG(info.st_mode)) {
    const int own = ::fcntl(fd, F_DUPFD_CLOEXEC, 3);
    boost::system::error_code error;
    if (own >= 0) {
      input_.assign(own, error);
      pollable_ = !error;
    }
  }
}

void StdinFeed::start() {
  if (running_ || finished_) {
    return;
  }
  running_ = true;
  if (!chunk_.empty() || eof_) {
    send();
  } else {
    read();
  }
}

void StdinFeed::stop() {
  finished_ = true;
  running_ = false;
  timer_.cancel();
  boost::system::error_code ignored;
  input_.cancel(ignored);
}

void StdinFeed::read() {
  if (!pollable_) {
    boost::asio::post(timer_.get_executor(), [this] { read_now(); });
    return;
  }
  input_.async_wait(boost::asio::posix::stream_descriptor::wait_read,
                    [this](boost::system::error_code error) {
                      if (error == boost::asio::error::operation_aborted) {
                        return;
                      }
                      // Not everything can be waited for (/dev/null, /dev/zero): those never block
                      // either.
                      read_now();
                    });
}

void StdinFeed::read_now() {
  if (finished_ || !running_) {
    return;
  }
  chunk_.resize(kChunk);
  const ssize_t count = ::read(fd_, chunk_.data(), chunk_.size());
  chunk_.resize(count > 0 ? static_cast<std::size_t>(count) : 0);
  if (count < 0 && (errno == EINTR || errno == EAGAIN)) {
    read();
    return;
  }
  eof_ = count <= 0;
  send();
}

void StdinFeed::send() {
  in_flight_ = true;
  send_(chunk_, eof_);
}

void StdinFeed::acknowledge(std::size_t accepted) {
  in_flight_ = false;
  if (finished_ || !running_) {
    return;
  }
  chunk_.erase(0, std::min(accepted, chunk_.size()));
  if (!chunk_.empty()) {
    pause_ =
        accepted > 0 || pause_ == pause_.zero() ? kFirstPause : std::min(pause_ * 2, kLongestPause);
    retry();
    return;
  }
  pause_ = pause_.zero();
  if (eof_) {
    finished_ = true;
    return;
  }
  read();
}

void StdinFeed::retry() {
  timer_.expires_after(pause_);
  timer_.async_wait([this](boost::system::error_code error) {
    if (!error && running_ && !finished_) {
      send();
    }
  });
}

std::size_t StdinFeed::lost() {
  if (!running_) {
    return 0;
  }
  running_ = false;
  timer_.cancel();
  boost::system::error_code ignored;
  input_.cancel(ignored);
  const std::size_t doubtful = in_flight_ ? chunk_.size() : 0;
  if (in_flight_) {
    chunk_.clear();
    in_flight_ = false;
  }
  return doubtful;
}

}  // namespace runbus::cli
