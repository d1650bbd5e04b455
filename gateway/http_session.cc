#include "gateway/http_session.h"

#include <spdlog/spdlog.h>
#include <sys/socket.h>

#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/websocket/rfc6455.hpp>
#include <memory>
#include <optional>
#include <utility>

#include "gateway/http_exchange.h"
#include "gateway/rpc_reply.h"
#include "gateway/target.h"
#include "gateway/websocket_connection.h"
#include "proto/support/log.h"

namespace runbus::gateway {
namespace {

namespace http = boost::beast::http;
using Request = http::request<http::string_body>;
using Response = http::response<http::string_body>;
using boost::system::error_code;

constexpr std::chrono::seconds kEndTimeout{2};
constexpr auto kNever = Clock::time_point::max();

std::string_view view(boost::beast::string_view text) { return {text.data(), text.size()}; }

bool contains(std::string_view text, std::string_view word) {
  return text.find(word) != std::string_view::npos;
}

std::string valid_traceparent(std::string_view text) {
  const bool valid =
      text.size() == 55 && text.find_first_not_of("0123456789abcdef-") == std::string_view::npos;
  return valid ? std::string(text) : std::string();
}

class HttpSession final : public Connection, public std::enable_shared_from_this<HttpSession> {
 public:
  HttpSession(TcpSocket socket, Gateway& gateway)
      : Connection(gateway.connections), socket_(std::move(socket)), gateway_(gateway) {}

  static Awaitable<void> run(std::shared_ptr<HttpSession> self);

  void check(Clock::time_point now) override {
    if (now >= deadline_) {
      close(writing_ ? CloseReason::kWriteTimeout : CloseReason::kHandshakeTimeout);
    }
  }
  void close(CloseReason reason) override {
    if (!closed_) {
      closed_ = true;
      spdlog::debug("http: {}", to_string(reason));
      abort();
    }
  }
  void abort() override {
    error_code ignored;
    socket_.close(ignored);
    if (exchange_) {
      exchange_->abort();
    }
  }

 private:
  static Awaitable<void> end(std::shared_ptr<HttpSession> self);
  static Awaitable<bool> read_request(std::shared_ptr<HttpSession> self);
  static Awaitable<bool> read_body(std::shared_ptr<HttpSession> self);
  static Awaitable<bool> serve(std::shared_ptr<HttpSession> self);
  static Awaitable<bool> upgrade(std::shared_ptr<HttpSession> self);
  static Awaitable<bool> rpc(std::shared_ptr<HttpSession> self);
  static Awaitable<bool> answer_rpc(std::shared_ptr<HttpSession> self,
                                    std::shared_ptr<RpcSession> session);
  static Awaitable<bool> stream_events(std::shared_ptr<HttpSession> self);
  static Awaitable<bool> page(std::shared_ptr<HttpSession> self);
  static Awaitable<bool> health(std::shared_ptr<HttpSession> self);
  static Awaitable<bool> respond(std::shared_ptr<HttpSession> self, Response response);
  static Awaitable<bool> write_text(std::shared_ptr<HttpSession> self, std::string text);

  Response make(http::status status, std::string body, std::string_view type = "application/json");
  Response refuse(http::status status, ErrorCode code, std::string detail);
  void allow_origin(http::fields& fields) const;
  Credentials credentials() const;
  void watch_peer();

  const Request& request() const { return parser_->get(); }
  std::string_view header(http::field field) const { return view(request()[field]); }

  TcpSocket socket_;
  Gateway& gateway_;
  boost::beast::flat_buffer buffer_;
  std::optional<http::request_parser<http::string_body>> parser_;
  Target target_;
  std::shared_ptr<HttpExchange> exchange_;  // of the call that is being served
  Clock::time_point deadline_ = kNever;
  bool body_read_ = false;
  bool writing_ = false;
  bool closed_ = false;
};

Awaitable<void> HttpSession::run(std::shared_ptr<HttpSession> self) {
  bool first = true;
  bool open = true;
  while (open && !self->closed_) {
    self->deadline_ = Clock::now() + (first ? self->gateway_.config.handshake_timeout
                                            : self->gateway_.config.keep_alive_timeout);
    first = false;
    open = co_await read_request(self);
    if (open) {
      open = co_await serve(self);
    }
  }
  if (self->socket_.is_open()) {
    co_await end(self);
  }
  self->closed_ = true;
}

// To close with input unread would reset the connection, and the client might never see the answer:
// what still comes is thrown away for a while.
Awaitable<void> HttpSession::end(std::shared_ptr<HttpSession> self) {
  error_code failed;
  self->socket_.shutdown(TcpSocket::shutdown_send, failed);
  self->deadline_ = Clock::now() + kEndTimeout;
  std::string scrap(4096, '\0');
  const auto buffer = boost::asio::buffer(scrap);
  for (std::size_t left = self->gateway_.config.max_frame_bytes; !failed && left > 0;) {
    const auto [error, bytes] = co_await self->socket_.async_read_some(buffer, kTuple);
    failed = error;
    left -= std::min(left, bytes);
  }
  self->socket_.close(failed);
}

Awaitable<bool> HttpSession::read_request(std::shared_ptr<HttpSession> self) {
  self->parser_.emplace();
  self->body_read_ = false;
  self->parser_->header_limit(static_cast<std::uint32_t>(self->gateway_.config.max_header_bytes));
  self->parser_->body_limit(self->gateway_.config.max_frame_bytes);
  const auto [error, bytes] =
      co_await http::async_read_header(self->socket_, self->buffer_, *self->parser_, kTuple);
  if (!error) {
    const auto target = view(self->request().target());
    self->target_ = split_target(target);
    spdlog::debug("http: {} {}", view(self->request().method_string()),
                  printable(self->target_.path));
    co_return true;
  }
  if (error == http::error::header_limit) {
    Response response = self->refuse(http::status::request_header_fields_too_large,
                                     ErrorCode::kValidation, "the header is too large");
    co_await respond(self, std::move(response));
  } else if (error == http::error::body_limit) {
    Response response = self->refuse(http::status::payload_too_large, ErrorCode::kValidation,
                                     "the body is too large");
    co_await respond(self, std::move(response));
  } else if (error.category() == make_error_code(http::error::end_of_stream).category() &&
             error != http::error::end_of_stream && error != http::error::partial_message) {
    Response response =
        self->refuse(http::status::bad_request, ErrorCode::kInvalidRequest, "not HTTP/1.1");
    co_await respond(self, std::move(response));
  }
  co_return false;
}

// Piece by piece, so that a large body may take its time as long as something comes.
Awaitable<bool> HttpSession::read_body(std::shared_ptr<HttpSession> self) {
  if (boost::beast::iequals(self->request()[http::field::expect], "100-continue")) {
    const bool sent = co_await write_text(self, "HTTP/1.1 100 Continue\r\n\r\n");
    if (!sent) {
      co_return false;
    }
  }
  while (!self->parser_->is_done()) {
    self->deadline_ = Clock::now() + self->gateway_.config.body_timeout;
    const auto [error, bytes] =
        co_await http::async_read_some(self->socket_, self->buffer_, *self->parser_, kTuple);
    if (error == http::error::body_limit) {
      Response response = self->refuse(http::status::payload_too_large, ErrorCode::kValidation,
                                       "the body is too large");
      co_await respond(self, std::move(response));
    }
    if (error) {
      co_return false;
    }
  }
  self->body_read_ = true;
  co_return true;
}

Awaitable<bool> HttpSession::serve(std::shared_ptr<HttpSession> self) {
  const std::string_view path = self->target_.path;
  const http::verb verb = self->request().method();
  if (path == "/ws") {
    co_return co_await upgrade(self);
  }
  if (path == "/rpc") {
    co_return co_await rpc(self);
  }
  if (verb != http::verb::get && verb != http::verb::head) {
    const bool known = path == "/" || path == "/health" || path == "/ready";
    Response response =
        self->refuse(known ? http::status::method_not_allowed : http::status::not_found,
                     ErrorCode::kInvalidRequest, known ? "only GET" : "no such page");
    co_return co_await respond(self, std::move(response));
  }
  if (path == "/health") {
    co_return co_await health(self);
  }
  co_return co_await page(self);
}

Awaitable<bool> HttpSession::page(std::shared_ptr<HttpSession> self) {
  Response response;
  if (self->target_.path == "/ready") {
    const bool ready = self->gateway_.health.ready();
    response = self->make(ready ? http::status::ok : http::status::service_unavailable,
                          ready ? R"({"ready":true})" : R"({"ready":false})");
  } else if (self->target_.path == "/") {
    const std::string_view accept = self->header(http::field::accept);
    const bool json = contains(accept, "application/json") && !contains(accept, "text/html");
    response = json ? self->make(http::status::ok, root_json())
                    : self->make(http::status::ok, root_page(), "text/html; charset=utf-8");
    const Credentials credentials = self->credentials();
    if (self->gateway_.auth.token_in_query(credentials)) {
      const auto token = query_parameter(credentials.query, "token");
      if (token->find_first_of(" ;,\"\\\r\n") == std::string::npos) {
        response.set(http::field::set_cookie,
                     "runbus_token=" + *token + "; Path=/; HttpOnly; SameSite=Strict");
      }
    }
  } else {
    response = self->refuse(http::status::not_found, ErrorCode::kNotFound, "no such page");
  }
  co_return co_await respond(self, std::move(response));
}

Awaitable<bool> HttpSession::health(std::shared_ptr<HttpSession> self) {
  auto answer = std::make_shared<HttpExchange>(self->socket_.get_executor(), Sink::Items::kNone,
                                               self->gateway_.config.write_queue_bytes);
  self->exchange_ = answer;
  self->deadline_ = kNever;  // Health answers within a second
  self->gateway_.health.report([answer](std::string text) { answer->send(std::move(text)); });
  co_await answer->wait();
  self->exchange_.reset();
  if (answer->aborted()) {
    co_return false;
  }
  std::string text;
  answer->queue().pop(text);
  Response response = self->make(http::status::ok, std::move(text));
  co_return co_await respond(self, std::move(response));
}

Awaitable<bool> HttpSession::upgrade(std::shared_ptr<HttpSession> self) {
  const Credentials credentials = self->credentials();
  Response response;
  if (!self->gateway_.auth.origin_allowed(credentials)) {
    response = self->refuse(http::status::forbidden, ErrorCode::kAuthorization,
                            "this Origin may not connect");
  } else if (const auto principal = self->gateway_.auth.authenticate(credentials); !principal) {
    response =
        self->refuse(http::status::unauthorized, ErrorCode::kAuthentication, "a token is required");
    response.set(http::field::www_authenticate, "Bearer");
  } else if (!boost::beast::websocket::is_upgrade(self->request())) {
    response = self->refuse(http::status::upgrade_required, ErrorCode::kInvalidRequest,
                            "this is a WebSocket");
    response.set(http::field::upgrade, "websocket");
  } else {
    Caller caller{*principal, valid_traceparent(view(self->request()["traceparent"])),
                  self->gateway_.config.linger};
    start_websocket(std::move(self->socket_), self->request(), self->gateway_, std::move(caller));
    co_return false;
  }
  co_return co_await respond(self, std::move(response));
}

Awaitable<bool> HttpSession::rpc(std::shared_ptr<HttpSession> self) {
  const Credentials credentials = self->credentials();
  const http::verb verb = self->request().method();
  std::optional<Response> refusal;
  const std::string_view type = self->header(http::field::content_type);
  if (!self->gateway_.auth.origin_allowed(credentials)) {
    refusal = self->refuse(http::status::forbidden, ErrorCode::kAuthorization,
                           "this Origin may not call");
  } else if (verb == http::verb::options) {
    refusal = self->make(http::status::no_content, {});
    refusal->set(http::field::access_control_allow_methods, "POST, OPTIONS");
    refusal->set(http::field::access_control_allow_headers,
                 "Authorization, Content-Type, Accept, traceparent");
    refusal->set(http::field::access_control_max_age, "600");
  } else if (verb != http::verb::post) {
    refusal =
        self->refuse(http::status::method_not_allowed, ErrorCode::kInvalidRequest, "only POST");
    refusal->set(http::field::allow, "POST, OPTIONS");
  } else if (!self->gateway_.auth.authenticate(credentials)) {
    refusal =
        self->refuse(http::status::unauthorized, ErrorCode::kAuthentication, "a token is required");
    refusal->set(http::field::www_authenticate, "Bearer");
  } else if (!type.empty() && !type.starts_with("application/json")) {
    refusal = self->refuse(http::status::unsupported_media_type, ErrorCode::kInvalidRequest,
                           "the body must be application/json");
  }
  if (refusal) {
    self->allow_origin(*refusal);
    co_return co_await respond(self, std::move(*refusal));
  }
  const bool read = co_await read_body(self);
  if (!read) {
    co_return false;
  }
  const bool events = contains(self->header(http::field::accept), "text/event-stream");
  self->exchange_ = std::make_shared<HttpExchange>(
      self->socket_.get_executor(), events ? Sink::Items::kServerSentEvents : Sink::Items::kNone,
      self->gateway_.config.write_queue_bytes);
  Caller caller{*self->gateway_.auth.authenticate(credentials),
                valid_traceparent(view(self->request()["traceparent"])), 0};
  auto session =
      std::make_shared<RpcSession>(self->gateway_.rpc, *self->exchange_, std::move(caller));
  bool open = false;
  try {
    open = co_await answer_rpc(self, session);
  } catch (...) {
    session->close();
    throw;
  }
  if (open) {
    session->detach();
  } else {
    session->close();
  }
  self->exchange_.reset();
  co_return open;
}

Awaitable<bool> HttpSession::answer_rpc(std::shared_ptr<HttpSession> self,
                                        std::shared_ptr<RpcSession> session) {
  self->deadline_ = kNever;
  const bool answered = session->on_message(self->request().body());
  if (!answered) {
    Response response = self->make(http::status::no_content, {});
    self->allow_origin(response);
    co_return co_await respond(self, std::move(response));
  }
  self->watch_peer();
  if (self->exchange_->items() == Sink::Items::kServerSentEvents) {
    co_return co_await stream_events(self);
  }
  std::string text;
  while (!self->exchange_->answered() || !self->exchange_->queue().empty()) {
    co_await self->exchange_->wait();
    if (self->exchange_->aborted()) {
      co_return false;
    }
    while (!self->exchange_->queue().empty()) {
      self->exchange_->queue().pop(text);
    }
  }
  Response response = self->make(http::status::ok, std::move(text));
  self->allow_origin(response);
  co_return co_await respond(self, std::move(response));
}

Awaitable<bool> HttpSession::stream_events(std::shared_ptr<HttpSession> self) {
  const bool chunked = self->request().version() >= 11;
  Response head = self->make(http::status::ok, {}, "text/event-stream");
  self->allow_origin(head);
  const bool keep_alive = chunked && self->request().keep_alive();
  head.keep_alive(keep_alive);
  head.content_length(boost::none);
  head.chunked(chunked);
  http::response_serializer<http::string_body> serializer(head);
  self->writing_ = true;
  self->deadline_ = Clock::now() + self->gateway_.config.write_timeout;
  const auto [error, bytes] = co_await http::async_write_header(self->socket_, serializer, kTuple);
  if (error) {
    co_return false;
  }
  std::string text;
  std::string chunk;
  while (!self->exchange_->answered() || !self->exchange_->queue().empty()) {
    self->deadline_ = kNever;
    co_await self->exchange_->wait();
    if (self->exchange_->aborted()) {
      co_return false;
    }
    const std::unique_ptr<Item> item = self->exchange_->queue().pop(text);
    if (!text.empty()) {
      chunk.clear();
      if (chunked) {
        chunk = fmt::format("{:x}\r\n", text.size());
      }
      chunk.append(text).append(chunked ? "\r\n" : "");
      const bool sent = co_await write_text(self, chunk);
      if (!sent) {
        co_return false;
      }
    }
    if (item) {
      item->delivered();
    }
  }
  const bool ended = co_await write_text(self, chunked ? "0\r\n\r\n" : "");
  co_return ended&& keep_alive;
}

Awaitable<bool> HttpSession::write_text(std::shared_ptr<HttpSession> self, std::string text) {
  self->writing_ = true;
  self->deadline_ = Clock::now() + self->gateway_.config.write_timeout;
  const auto buffer = boost::asio::buffer(text);
  const auto [error, bytes] = co_await boost::asio::async_write(self->socket_, buffer, kTuple);
  self->writing_ = false;
  co_return !error;
}

Awaitable<bool> HttpSession::respond(std::shared_ptr<HttpSession> self, Response response) {
  // A body that was not read would be taken for the next request.
  const bool whole =
      self->body_read_ || (self->parser_->is_header_done() && self->parser_->is_done());
  response.keep_alive(whole && self->request().keep_alive());
  if (response.result() != http::status::no_content) {
    response.prepare_payload();
  }
  if (self->parser_->is_header_done() && self->request().method() == http::verb::head) {
    response.body().clear();  // the length stays
  }
  self->writing_ = true;
  self->deadline_ = Clock::now() + self->gateway_.config.write_timeout;
  const auto [error, bytes] = co_await http::async_write(self->socket_, response, kTuple);
  self->writing_ = false;
  co_return !error && response.keep_alive();
}

Response HttpSession::make(http::status status, std::string body, std::string_view type) {
  Response response{status, 11};
  response.set(http::field::server, "runbus/" RUNBUS_VERSION);
  response.set(http::field::cache_control, "no-store");
  response.set("X-Content-Type-Options", "nosniff");
  response.set("X-Frame-Options", "DENY");
  response.set("Referrer-Policy", "no-referrer");
  if (status != http::status::no_content) {
    response.set(http::field::content_type, boost::beast::string_view(type.data(), type.size()));
  }
  response.body() = std::move(body);
  return response;
}

Response HttpSession::refuse(http::status status, ErrorCode code, std::string detail) {
  return make(status, error_reply("null", make_error(code, std::move(detail))));
}

void HttpSession::allow_origin(http::fields& fields) const {
  const std::string_view origin = header(http::field::origin);
  fields.set(http::field::vary, "Origin");
  if (!origin.empty() && gateway_.auth.origin_allowed(credentials())) {
    fields.set(http::field::access_control_allow_origin, request()[http::field::origin]);
  }
}

Credentials HttpSession::credentials() const {
  return {header(http::field::authorization), header(http::field::cookie), target_.query,
          header(http::field::origin), header(http::field::host)};
}

// Notices a client that goes away while its call runs. Bytes of a further request end the watch.
void HttpSession::watch_peer() {
  socket_.async_wait(TcpSocket::wait_read, [weak = weak_from_this(),
                                            exchange = exchange_](const error_code& error) {
    const auto self = weak.lock();
    if (!self || error || self->exchange_ != exchange) {
      return;
    }
    char byte = 0;
    const ssize_t got = ::recv(self->socket_.native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
      self->close(CloseReason::kClientClosed);
    }
  });
}

}  // namespace

void start_http(TcpSocket socket, Gateway& gateway) {
  const Executor executor = socket.get_executor();
  auto session = std::make_shared<HttpSession>(std::move(socket), gateway);
  spawn_logged(executor, "http", HttpSession::run(std::move(session)));
}

}  // namespace runbus::gateway
