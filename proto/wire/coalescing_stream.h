#pragma once

#include <algorithm>
#include <boost/asio/associated_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/bind_handler.hpp>
#include <boost/beast/core/role.hpp>
#include <boost/beast/websocket/teardown.hpp>
#include <chrono>
#include <memory>
#include <string>
#include <utility>

namespace runbus::wire {

// The layer under a WebSocket: gathers small writes (each a whole frame) into one socket write, so
// that many short messages cost one system call. A write of which the bytes were taken over counts
// as done; at most kHighWater bytes are held so, and further ones wait. A small write is taken whole
// or waits: what is written at once comes between frames, never inside of one. Large writes go
// straight to the socket when nothing is held. One write at a time, as Beast has it.
class CoalescingStream {
 public:
  using executor_type = boost::asio::io_context::executor_type;
  using Socket = boost::asio::basic_stream_socket<boost::asio::ip::tcp, executor_type>;
  using Clock = std::chrono::steady_clock;

  explicit CoalescingStream(Socket socket) : state_(std::make_shared<State>(std::move(socket))) {}

  executor_type get_executor() { return state_->socket.get_executor(); }
  Socket& socket() { return state_->socket; }
  // When the socket last took bytes, and when reading last began, which is when bytes last came.
  Clock::time_point last_progress() const { return state_->last_progress; }
  Clock::time_point last_read() const { return state_->last_read; }
  bool writing() const { return state_->in_flight; }
  // Whether write_some() takes a frame of `bytes` whole. Not to be used while an asynchronous write
  // of a message is under way.
  bool takes(std::size_t bytes) const {
    constexpr std::size_t kFrameHeader = 14;
    return !state_->waiter && bytes < kDirect &&
           state_->held.size() + bytes + kFrameHeader <= kHighWater;
  }

  template <class Buffers, class Token>
  auto async_read_some(const Buffers& buffers, Token&& token) {
    state_->last_read = Clock::now();
    return state_->socket.async_read_some(buffers, std::forward<Token>(token));
  }

  // Blocks. Beast's synchronous functions ask for it.
  template <class Buffers>
  std::size_t read_some(const Buffers& buffers, boost::system::error_code& error) {
    return state_->socket.read_some(buffers, error);
  }
  template <class Buffers>
  std::size_t read_some(const Buffers& buffers) {
    return state_->socket.read_some(buffers);
  }

  // Takes the bytes over. Only after takes().
  template <class Buffers>
  std::size_t write_some(const Buffers& buffers, boost::system::error_code& error) {
    error = state_->error;
    return error ? 0 : state_->take(buffers);
  }
  template <class Buffers>
  std::size_t write_some(const Buffers& buffers) {
    boost::system::error_code error;
    const std::size_t bytes = write_some(buffers, error);
    if (error) {
      throw boost::system::system_error(error);
    }
    return bytes;
  }

  template <class Buffers, class Token>
  auto async_write_some(const Buffers& buffers, Token&& token) {
    return boost::asio::async_initiate<Token, void(boost::system::error_code, std::size_t)>(
        Initiate{state_}, token, buffers);
  }

  friend void teardown(boost::beast::role_type role, CoalescingStream& stream,
                       boost::system::error_code& error) {
    boost::beast::websocket::teardown(role, stream.state_->socket, error);
  }

  // The close frame may still be held.
  template <class Handler>
  friend void async_teardown(boost::beast::role_type role, CoalescingStream& stream,
                             Handler&& handler) {
    State& state = *stream.state_;
    if (!state.in_flight || state.error) {
      boost::beast::websocket::async_teardown(role, state.socket, std::forward<Handler>(handler));
      return;
    }
    state.waiter = std::make_unique<TeardownWaiter<std::decay_t<Handler>>>(
        role, std::forward<Handler>(handler));
  }

  friend void beast_close_socket(CoalescingStream& stream) {
    boost::system::error_code ignored;
    stream.state_->socket.close(ignored);
  }

 private:
  static constexpr std::size_t kHighWater = 128U << 10U;
  static constexpr std::size_t kDirect = 16U << 10U;
  // What a reader takes at once; to wait for more would leave it idle.
  static constexpr std::size_t kEnough = 1536;
  static constexpr std::size_t kKeepCapacity = 4096;

  struct State;
  // What happens when held bytes have been written, or the socket failed.
  struct Waiter {
    virtual ~Waiter() = default;
    virtual bool wants_room() const = 0;
    virtual void run(const std::shared_ptr<State>& state) = 0;
  };

  struct State : std::enable_shared_from_this<State> {
    explicit State(Socket connected) : socket(std::move(connected)) {}

    template <class Buffers>
    std::size_t take(const Buffers& buffers) {
      const std::size_t before = held.size();
      const std::size_t count =
          std::min(boost::asio::buffer_size(buffers), kHighWater - std::min(before, kHighWater));
      held.resize(before + count);
      boost::asio::buffer_copy(boost::asio::buffer(held.data() + before, count), buffers);
      if (!in_flight) {
        in_flight = true;
        // After the handlers that are ready now, which may have more to write.
        boost::asio::post(socket.get_executor(), [self = shared_from_this()] { self->gather(); });
      }
      return count;
    }

    // Until it is enough, or a turn of the loop has added nothing.
    void gather() {
      if (held.size() > std::exchange(gathered, held.size()) && held.size() < kEnough) {
        boost::asio::post(socket.get_executor(), [self = shared_from_this()] { self->gather(); });
      } else {
        write();
      }
    }

    void write() {
      gathered = 0;
      std::swap(held, written);
      boost::asio::async_write(
          socket, boost::asio::buffer(written),
          [self = shared_from_this()](const boost::system::error_code& failure,
                                      std::size_t /*bytes*/) { self->on_written(failure); });
    }

    void on_written(const boost::system::error_code& failure) {
      last_progress = Clock::now();
      error = failure;
      written.clear();
      if (written.capacity() > kKeepCapacity && held.empty()) {
        written = std::string();
      }
      if (!error && !held.empty()) {
        write();
      } else {
        in_flight = false;
        if (held.capacity() > kKeepCapacity) {
          held = std::string();
        }
      }
      // A write that waits has room now; a teardown waits until nothing is held.
      if (waiter && (error || waiter->wants_room() || !in_flight)) {
        const auto next = std::exchange(waiter, nullptr);
        next->run(shared_from_this());
      }
    }

    Socket socket;
    std::string held;
    std::string written;
    std::size_t gathered = 0;  // bytes that were held at the last turn
    bool in_flight = false;
    boost::system::error_code error;
    std::unique_ptr<Waiter> waiter;
    Clock::time_point last_progress = Clock::now();
    Clock::time_point last_read = Clock::now();
  };

  template <class Handler>
  static void complete(State& state, Handler&& handler, std::size_t bytes) {
    boost::asio::post(
        state.socket.get_executor(),
        boost::beast::bind_front_handler(std::forward<Handler>(handler), state.error, bytes));
  }

  template <class Buffers, class Handler>
  struct WriteWaiter final : Waiter {
    template <class Other>
    WriteWaiter(const Buffers& to_write, Other&& waiting)
        : buffers(to_write), handler(std::forward<Other>(waiting)) {}
    bool wants_room() const override { return true; }
    void run(const std::shared_ptr<State>& state) override {
      const std::size_t bytes = state->error ? 0 : state->take(buffers);
      complete(*state, std::move(handler), bytes);
    }
    Buffers buffers;
    Handler handler;
  };

  template <class Handler>
  struct TeardownWaiter final : Waiter {
    template <class Other>
    TeardownWaiter(boost::beast::role_type of, Other&& waiting)
        : role(of), handler(std::forward<Other>(waiting)) {}
    bool wants_room() const override { return false; }
    void run(const std::shared_ptr<State>& state) override {
      boost::beast::websocket::async_teardown(role, state->socket, std::move(handler));
    }
    boost::beast::role_type role;
    Handler handler;
  };

  struct Initiate {
    std::shared_ptr<State> state;
    template <class Handler, class Buffers>
    void operator()(Handler&& handler, const Buffers& buffers) const {
      const std::size_t size = boost::asio::buffer_size(buffers);
      if (state->error) {
        complete(*state, std::forward<Handler>(handler), 0);
      } else if (size >= kDirect && !state->in_flight) {
        state->last_progress = Clock::now();
        state->socket.async_write_some(buffers, std::forward<Handler>(handler));
      } else if (state->held.size() + (size < kDirect ? size : 1) <= kHighWater) {
        const std::size_t bytes = state->take(buffers);
        complete(*state, std::forward<Handler>(handler), bytes);
      } else {
        state->waiter = std::make_unique<WriteWaiter<Buffers, std::decay_t<Handler>>>(
            buffers, std::forward<Handler>(handler));
      }
    }
  };

  std::shared_ptr<State> state_;
};

}  // namespace runbus::wire
