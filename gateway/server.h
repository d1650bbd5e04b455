#pragma once

#include <boost/asio/basic_socket_acceptor.hpp>
#include <boost/asio/basic_waitable_timer.hpp>
#include <functional>
#include <memory>
#include <string>

#include "gateway/coroutine.h"
#include "gateway/gateway.h"

namespace runbus::gateway {

// Accepts connections up to a limit, looks after their times, and ends them all.
class Server : public std::enable_shared_from_this<Server> {
 public:
  Server(boost::asio::io_context& io, Gateway& gateway);

  // Throws boost::system::system_error when it cannot listen. Returns "HOST:PORT" as bound.
  std::string listen(const std::string& host, std::uint16_t port);
  void start();
  // Accepts no more, closes WebSockets with 1001 and calls `done` when all are gone, or have been
  // cut off after a while.
  void stop(std::function<void()> done);

 private:
  static Awaitable<void> accept(std::shared_ptr<Server> self);
  static Awaitable<void> look_after(std::shared_ptr<Server> self);
  static Awaitable<void> end_all(std::shared_ptr<Server> self, std::function<void()> done);

  using Timer = boost::asio::basic_waitable_timer<Clock, boost::asio::wait_traits<Clock>, Executor>;
  Executor executor_;
  Gateway& gateway_;
  boost::asio::basic_socket_acceptor<boost::asio::ip::tcp, Executor> acceptor_;
  Timer check_timer_;
  Timer retry_timer_;
  bool stopped_ = false;
};

// Whether only this machine can reach an address.
bool is_loopback(const std::string& host);

}  // namespace runbus::gateway
