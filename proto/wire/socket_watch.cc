#include "proto/wire/socket_watch.h"

#include <fcntl.h>
#include <unistd.h>

#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <cerrno>
#include <system_error>
#include <utility>

namespace runbus::wire {

// Handlers that are still queued when the watch goes hold this and find `attend` empty.
struct SocketWatch::State : std::enable_shared_from_this<State> {
  State(boost::asio::io_context& loop, int fd, std::function<void()> callback)
      : io(loop),
        descriptor(loop, fd),
        attend(std::make_shared<std::function<void()>>(std::move(callback))) {}

  void run() const {
    if (const auto hold = attend) {  // it may destroy the watch
      (*hold)();
    }
  }

  boost::asio::io_context& io;
  boost::asio::posix::stream_descriptor descriptor;
  std::shared_ptr<std::function<void()>> attend;
  bool armed = false;
  bool posted = false;
};

SocketWatch::SocketWatch(boost::asio::io_context& io, zmq::socket_t& socket,
                         std::function<void()> attend) {
  // A descriptor of our own: libzmq closes its one whenever it likes.
  const int fd = ::fcntl(socket.get(zmq::sockopt::fd), F_DUPFD_CLOEXEC, 0);
  if (fd < 0) {
    throw std::system_error(errno, std::generic_category(), "duplicating a ZeroMQ descriptor");
  }
  state_ = std::make_shared<State>(io, fd, std::move(attend));
}

SocketWatch::~SocketWatch() {
  state_->attend = nullptr;
  boost::system::error_code ignored;
  state_->descriptor.close(ignored);
}

void SocketWatch::arm() {
  if (std::exchange(state_->armed, true)) {
    return;
  }
  state_->descriptor.async_wait(boost::asio::posix::descriptor_base::wait_read,
                                [state = state_](const boost::system::error_code& error) {
                                  state->armed = false;
                                  if (!error) {
                                    state->run();
                                  }
                                });
}

void SocketWatch::soon() {
  if (std::exchange(state_->posted, true)) {
    return;
  }
  boost::asio::post(state_->io, [state = state_] {
    state->posted = false;
    state->run();
  });
}

void set_client_options(zmq::socket_t& socket, std::size_t max_frame_bytes) {
  socket.set(zmq::sockopt::linger, 0);
  socket.set(zmq::sockopt::ipv6, true);
  socket.set(zmq::sockopt::maxmsgsize, static_cast<std::int64_t>(max_frame_bytes));
  socket.set(zmq::sockopt::tcp_keepalive, 1);
  socket.set(zmq::sockopt::tcp_keepalive_idle, 10);
  socket.set(zmq::sockopt::tcp_keepalive_intvl, 5);
  socket.set(zmq::sockopt::tcp_keepalive_cnt, 3);
  socket.set(zmq::sockopt::connect_timeout, 5000);
  socket.set(zmq::sockopt::handshake_ivl, 5000);
  socket.set(zmq::sockopt::reconnect_ivl, 50);
  socket.set(zmq::sockopt::reconnect_ivl_max, 1000);
}

}  // namespace runbus::wire
