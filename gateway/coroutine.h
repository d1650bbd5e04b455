#pragma once

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <chrono>
#include <exception>

// The gateway's coroutines: all on the one io_context, so neither strands nor locks. Parameters by
// value, first a shared_ptr to the object the coroutine works for; no capturing lambdas; what a
// co_await needs has a name (GCC 12 destroys some temporaries twice).
namespace runbus::gateway {

using Executor = boost::asio::io_context::executor_type;
template <class T>
using Awaitable = boost::asio::awaitable<T, Executor>;
using TcpSocket = boost::asio::basic_stream_socket<boost::asio::ip::tcp, Executor>;
using Clock = std::chrono::steady_clock;

// co_await operation(..., kTuple) gives a tuple that starts with the error code and does not throw.
inline constexpr auto kTuple = boost::asio::as_tuple(boost::asio::use_awaitable_t<Executor>{});

// Logs what escaped from the coroutine `name`; null is nothing.
void log_escaped(const char* name, const std::exception_ptr& exception) noexcept;

// Starts a coroutine; an exception that leaves it is logged.
inline void spawn_logged(const Executor& executor, const char* name, Awaitable<void> work) {
  boost::asio::co_spawn(executor, std::move(work), [name](const std::exception_ptr& exception) {
    log_escaped(name, exception);
  });
}

}  // namespace runbus::gateway
