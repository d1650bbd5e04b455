#include "gateway/server.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/ip/address.hpp>
#include <string_view>
#include <utility>

#include "gateway/http_session.h"

namespace runbus::gateway {
namespace {

using boost::asio::ip::tcp;
using boost::system::error_code;

constexpr std::string_view kFull =
    "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 5\r\nContent-Length: "
    "0\r\n\r\n";
constexpr std::chrono::milliseconds kAcceptRetry{100};
constexpr std::chrono::milliseconds kEndTimeout{1'300};

boost::asio::ip::address address_of(const std::string& host) {
  return boost::asio::ip::make_address(host == "localhost" ? "127.0.0.1" : host);
}

}  // namespace

bool is_loopback(const std::string& host) {
  error_code error;
  const auto address =
      boost::asio::ip::make_address(host == "localhost" ? "127.0.0.1" : host, error);
  return !error && address.is_loopback();
}

Server::Server(boost::asio::io_context& io, Gateway& gateway)
    : executor_(io.get_executor()),
      gateway_(gateway),
      acceptor_(io.get_executor()),
      check_timer_(io.get_executor()),
      retry_timer_(io.get_executor()) {}

std::string Server::listen(const std::string& host, std::uint16_t port) {
  const tcp::endpoint endpoint(address_of(host), port);
  acceptor_.open(endpoint.protocol());
  acceptor_.set_option(tcp::acceptor::reuse_address(true));
  acceptor_.bind(endpoint);
  acceptor_.listen(4096);
  const tcp::endpoint bound = acceptor_.local_endpoint();
  const std::string address = bound.address().to_string();
  return (bound.address().is_v6() ? "[" + address + "]" : address) + ":" +
         std::to_string(bound.port());
}

void Server::start() {
  spawn_logged(executor_, "acceptor", accept(shared_from_this()));
  spawn_logged(executor_, "timeouts", look_after(shared_from_this()));
}

Awaitable<void> Server::accept(std::shared_ptr<Server> self) {
  while (!self->stopped_) {
    auto [error, socket] = co_await self->acceptor_.async_accept(kTuple);
    if (self->stopped_) {
      break;
    }
    if (error) {
      // No descriptors left, most likely: some may be free in a moment.
      spdlog::warn("accept: {}", error.message());
      self->retry_timer_.expires_after(kAcceptRetry);
      co_await self->retry_timer_.async_wait(kTuple);
      continue;
    }
    if (self->gateway_.connections.size() >= self->gateway_.config.max_connections) {
      error_code ignored;
      socket.non_blocking(true, ignored);
      socket.send(boost::asio::buffer(kFull.data(), kFull.size()), 0, ignored);
      continue;
    }
    error_code ignored;
    socket.set_option(tcp::no_delay(true), ignored);
    start_http(std::move(socket), self->gateway_);
  }
}

Awaitable<void> Server::look_after(std::shared_ptr<Server> self) {
  const auto interval = std::min<std::chrono::milliseconds>(
      std::chrono::seconds(1),
      self->gateway_.config.handshake_timeout / 4 + std::chrono::milliseconds(1));
  while (!self->stopped_) {
    self->check_timer_.expires_after(interval);
    co_await self->check_timer_.async_wait(kTuple);
    const Clock::time_point now = Clock::now();
    const auto check = [now](Connection& connection) { connection.check(now); };
    self->gateway_.connections.each(check);
  }
}

void Server::stop(std::function<void()> done) {
  stopped_ = true;
  error_code ignored;
  acceptor_.close(ignored);
  check_timer_.cancel();
  retry_timer_.cancel();
  spawn_logged(executor_, "shutdown", end_all(shared_from_this(), std::move(done)));
}

Awaitable<void> Server::end_all(std::shared_ptr<Server> self, std::function<void()> done) {
  Connections& connections = self->gateway_.connections;
  const auto close = [](Connection& connection) { connection.close(CloseReason::kShutdown); };
  connections.each(close);
  const Clock::time_point until = Clock::now() + kEndTimeout;
  Timer timer(self->executor_);
  bool aborted = false;
  // Once more after the sockets were cut off, for their coroutines to end.
  while (connections.size() > 0 && Clock::now() < until + kEndTimeout / 4) {
    if (!aborted && Clock::now() >= until) {
      aborted = true;
      const auto abort = [](Connection& connection) { connection.abort(); };
      connections.each(abort);
    }
    timer.expires_after(std::chrono::milliseconds(10));
    co_await timer.async_wait(kTuple);
  }
  done();
}

}  // namespace runbus::gateway
