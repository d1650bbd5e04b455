#include "gateway/websocket_connection.h"

#include <spdlog/spdlog.h>

#include <boost/asio/bind_executor.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/websocket/stream.hpp>
#include <memory>
#include <utility>

#include "gateway/sink.h"
#include "gateway/write_queue.h"
#include "proto/wire/coalescing_stream.h"
#include "proto/wire/turn_executor.h"

namespace runbus::gateway {
namespace {

namespace websocket = boost::beast::websocket;
using HttpRequest = boost::beast::http::request<boost::beast::http::string_body>;
using boost::system::error_code;
using wire::CoalescingStream;

constexpr std::size_t kKeepCapacity = 2048;  // of a buffer of an idle connection
constexpr std::chrono::seconds kCloseTimeout{2};

class WebSocketConnection final : public Connection,
                                  public Sink,
                                  public std::enable_shared_from_this<WebSocketConnection> {
 public:
  WebSocketConnection(TcpSocket socket, Gateway& gateway)
      : Connection(gateway.connections),
        stream_(CoalescingStream(std::move(socket))),
        config_(gateway.config),
        queue_(gateway.config.write_queue_bytes) {
    stream_.read_message_max(config_.max_frame_bytes);
    stream_.auto_fragment(false);
    stream_.text(true);
    stream_.set_option(websocket::stream_base::decorator([](websocket::response_type& response) {
      response.set(boost::beast::http::field::server, "runbus/" RUNBUS_VERSION);
    }));
  }

  static Awaitable<void> run(std::shared_ptr<WebSocketConnection> self, HttpRequest request,
                             std::shared_ptr<RpcSession> session);

  // Connection
  void check(Clock::time_point now) override;
  void close(CloseReason reason) override;
  void abort() override {
    error_code ignored;
    layer().socket().close(ignored);
  }

  // Sink
  Items items() const override { return Items::kMessages; }
  bool persistent() const override { return true; }
  void send(std::string frame) override;
  void send_item(std::unique_ptr<Item> item) override;
  std::size_t backlog() const override { return queue_.reply_bytes(); }

 private:
  static Awaitable<void> write(std::shared_ptr<WebSocketConnection> self);
  void start_writer();
  void write_at_once(const std::string& frame);
  CloseReason reason_of(const error_code& error) const;
  CoalescingStream& layer() { return stream_.next_layer(); }

  websocket::stream<CoalescingStream, false> stream_;
  const GatewayConfig& config_;
  boost::beast::flat_buffer buffer_;
  WriteQueue queue_;
  std::shared_ptr<RpcSession> session_;
  Clock::time_point write_started_;
  Clock::time_point pinged_;
  Clock::time_point close_started_;
  bool open_ = false;  // the handshake is done
  bool writer_ = false;
  bool closed_ = false;
};

Awaitable<void> WebSocketConnection::run(std::shared_ptr<WebSocketConnection> self,
                                         HttpRequest request, std::shared_ptr<RpcSession> session) {
  self->session_ = std::move(session);
  const auto [refused] = co_await self->stream_.async_accept(request, kTuple);
  request = HttpRequest();
  if (refused) {
    spdlog::debug("websocket: handshake: {}", refused.message());
    self->close(CloseReason::kProtocolError);
    self->abort();
    co_return;
  }
  self->open_ = true;
  self->pinged_ = Clock::now();
  const wire::TurnExecutor turn(self->layer().get_executor());
  while (!self->closed_) {
    const auto [error, bytes] = co_await self->stream_.async_read(
        self->buffer_, boost::asio::as_tuple(boost::asio::bind_executor(
                           turn, boost::asio::use_awaitable_t<Executor>())));
    if (error) {
      self->close(self->reason_of(error));
      break;
    }
    if (self->closed_) {
      break;
    }
    if (self->stream_.got_text()) {
      const auto data = self->buffer_.cdata();
      const std::string_view text(static_cast<const char*>(data.data()), data.size());
      self->session_->on_message(text);
    } else {
      self->session_->refuse(
          make_error(ErrorCode::kInvalidRequest, "binary frames are not accepted"));
    }
    self->buffer_.consume(self->buffer_.size());
    if (self->buffer_.capacity() > kKeepCapacity) {
      self->buffer_ = boost::beast::flat_buffer();
    }
  }
}

CloseReason WebSocketConnection::reason_of(const error_code& error) const {
  if (error == websocket::error::closed || error == boost::asio::error::eof) {
    return CloseReason::kClientClosed;
  }
  if (error == websocket::error::message_too_big) {
    return CloseReason::kMessageTooBig;
  }
  return error.category() == make_error_code(websocket::error::closed).category()
             ? CloseReason::kProtocolError
             : CloseReason::kConnectionLost;
}

void WebSocketConnection::send(std::string frame) {
  if (closed_) {
    return;
  }
  if (!writer_ && layer().takes(frame.size())) {
    write_at_once(frame);
  } else if (queue_.push(std::move(frame))) {
    start_writer();
  } else {
    close(CloseReason::kWriteQueueFull);
  }
}

void WebSocketConnection::write_at_once(const std::string& frame) {
  write_started_ = layer().writing() ? write_started_ : Clock::now();
  error_code error;
  stream_.write(boost::asio::buffer(frame), error);
  if (error) {
    close(reason_of(error));
  }
}

void WebSocketConnection::send_item(std::unique_ptr<Item> item) {
  if (!closed_) {
    queue_.push(std::move(item));
    start_writer();
  }
}

void WebSocketConnection::start_writer() {
  if (!writer_) {
    writer_ = true;
    spawn_logged(layer().get_executor(), "websocket writer", write(shared_from_this()));
  }
}

// Lives while something waits: an idle connection has no frame of it.
Awaitable<void> WebSocketConnection::write(std::shared_ptr<WebSocketConnection> self) {
  std::string frame;
  while (!self->closed_ && !self->queue_.empty()) {
    const std::unique_ptr<Item> item = self->queue_.pop(frame);
    if (!frame.empty() && !self->closed_) {
      self->write_started_ = Clock::now();
      const auto buffer = boost::asio::buffer(frame);
      const auto [error, bytes] = co_await self->stream_.async_write(buffer, kTuple);
      if (error) {
        self->close(self->reason_of(error));
        break;
      }
    }
    if (item) {
      item->delivered();
    }
  }
  self->writer_ = false;
}

void WebSocketConnection::check(Clock::time_point now) {
  if (closed_) {
    if (now - close_started_ > kCloseTimeout) {
      abort();
    }
    return;
  }
  const Clock::time_point progress = std::max(write_started_, layer().last_progress());
  const bool stalled = (writer_ || layer().writing()) && now - progress > std::chrono::seconds(1);
  if (stalled) {
    const bool replies_wait = queue_.reply_bytes() > 0;
    if (now - progress > (replies_wait ? config_.write_age : config_.write_timeout)) {
      close(CloseReason::kWriteTimeout);
      abort();
    }
    return;  // a ping would not get through either
  }
  const Clock::time_point heard = layer().last_read();
  if (now - heard > config_.idle_timeout && now - progress > config_.idle_timeout) {
    close(CloseReason::kIdle);
    abort();
  } else if (open_ && now - std::max(heard, pinged_) > config_.ping_after) {
    pinged_ = now;
    stream_.async_ping({}, [self = shared_from_this()](const error_code& /*read sees it too*/) {});
  }
}

void WebSocketConnection::close(CloseReason reason) {
  if (closed_) {
    return;
  }
  closed_ = true;
  close_started_ = Clock::now();
  spdlog::debug("websocket: {}", to_string(reason));
  if (session_) {
    const auto session = std::exchange(session_, nullptr);
    session->close();
  }
  queue_.clear();
  if (!open_ || !stream_.is_open()) {
    return;
  }
  const std::string_view text = to_string(reason);
  websocket::close_reason told(close_code(reason));
  told.reason.assign(text.data(), text.size());
  stream_.async_close(
      told, [self = shared_from_this()](const error_code& /*it is over*/) { self->abort(); });
}

}  // namespace

void start_websocket(TcpSocket socket, const HttpRequest& request, Gateway& gateway,
                     Caller caller) {
  const Executor executor = socket.get_executor();
  auto connection = std::make_shared<WebSocketConnection>(std::move(socket), gateway);
  auto session = std::make_shared<RpcSession>(gateway.rpc, *connection, std::move(caller));
  spawn_logged(executor, "websocket",
               WebSocketConnection::run(std::move(connection), request, std::move(session)));
}

}  // namespace runbus::gateway
