#pragma once

#include <boost/asio/io_context.hpp>
#include <functional>
#include <memory>
#include <zmq.hpp>

// Tells when a ZeroMQ socket wants attention, on an io_context. ZMQ_FD only signals changes, so
// whoever uses the socket calls arm() once it has read ZMQ_EVENTS and found nothing to do, and
// soon() after each use that may have swallowed a signal (any send or receive).
namespace runbus::wire {

class SocketWatch {
 public:
  // `attend` is called from the loop, never from inside a function of this class.
  SocketWatch(boost::asio::io_context& io, zmq::socket_t& socket, std::function<void()> attend);
  ~SocketWatch();
  SocketWatch(const SocketWatch&) = delete;
  SocketWatch& operator=(const SocketWatch&) = delete;

  void arm();
  void soon();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

// What every socket of ours that connects is given: nothing lingers, dead hosts are noticed, IPv6
// works, a frame is at most `max_frame_bytes`.
void set_client_options(zmq::socket_t& socket, std::size_t max_frame_bytes);

}  // namespace runbus::wire
