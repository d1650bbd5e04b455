#include "tools/runbus/client.h"

#include <netinet/tcp.h>
#include <rapidjson/stringbuffer.h>
#include <rapidjson/writer.h>
#include <sys/socket.h>

#include <array>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/websocket/rfc6455.hpp>
#include <boost/beast/websocket/stream.hpp>
#include <deque>
#include <optional>
#include <unordered_map>
#include <utility>

#include "proto/wire/coalescing_stream.h"
#include "proto/wire/transcoder.h"
#include "proto/wire/turn_executor.h"

namespace runbus::cli {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
namespace websocket = beast::websocket;
using tcp = asio::ip::tcp;

constexpr std::size_t kMaxFrameBytes = 256U << 20U;

Error connection_error(std::string detail) {
  return make_error(ErrorCode::kConnection, std::move(detail));
}

std::string member_string(const rapidjson::Value& object, const char* name) {
  if (!object.IsObject()) {
    return {};
  }
  const auto member = object.FindMember(name);
  return member != object.MemberEnd() && member->value.IsString()
             ? std::string(member->value.GetString(), member->value.GetStringLength())
             : std::string();
}

// A peer that has vanished is noticed within half a minute, also while nothing is read.
void watch_for_silence(int fd) {
  const auto set = [fd](int level, int name, int value) {
    static_cast<void>(::setsockopt(fd, level, name, &value, sizeof value));
  };
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 15);
  set(IPPROTO_TCP, TCP_KEEPINTVL, 5);
  set(IPPROTO_TCP, TCP_KEEPCNT, 3);
}

}  // namespace

struct Client::Impl : std::enable_shared_from_this<Impl> {
  Impl(asio::io_context& context, Events handlers)
      : io(context),
        turn(context.get_executor()),
        socket(context),
        timer(context),
        events(std::move(handlers)) {}

  void connect(const GatewayAddress& address, Milliseconds bound);
  void upgrade(Milliseconds bound);
  void drop();
  void refused(const std::string& why);
  void send(std::string frame);
  void write();
  void read();
  void on_frame();
  void on_reply(const rapidjson::Value& message);
  void fail(const std::string& why);
  void connected(Result<void> outcome);

  asio::io_context& io;
  wire::TurnExecutor turn;                // of reading
  wire::CoalescingStream::Socket socket;  // until it is connected
  asio::steady_timer timer;               // for as long
  std::optional<websocket::stream<wire::CoalescingStream>> ws;
  Events events;
  GatewayAddress target;
  std::function<void(Result<void>)> on_connected;
  http::response<http::string_body> response;
  beast::flat_buffer buffer;
  std::deque<std::string> outbox;
  std::unordered_map<std::uint64_t, Replied> replies;
  std::uint64_t last_id = 0;
  bool open = false;
  bool closed = false;  // by us: no callbacks any more
  bool reading = false;
  bool writing = false;
  bool paused = false;
};

void Client::Impl::connect(const GatewayAddress& address, Milliseconds bound) {
  target = address;
  boost::system::error_code error;
  tcp::resolver resolver(io);
  const auto found = resolver.resolve(address.host, address.port, error);
  if (error) {
    const std::string text = "cannot find " + address.host + ": " + error.message();
    asio::post(io, [self = shared_from_this(), text] { self->connected(connection_error(text)); });
    return;
  }
  timer.expires_after(bound);
  timer.async_wait([self = shared_from_this()](boost::system::error_code cancelled) {
    if (!cancelled) {
      self->drop();
    }
  });
  asio::async_connect(socket, found,
                      [self = shared_from_this(), bound](boost::system::error_code failed,
                                                         const tcp::endpoint& /*which*/) {
                        if (self->timer.cancel() == 0) {
                          self->refused("no answer");
                        } else if (failed) {
                          self->refused(failed.message());
                        } else {
                          self->upgrade(bound);
                        }
                      });
}

void Client::Impl::upgrade(Milliseconds bound) {
  boost::system::error_code ignored;
  socket.set_option(tcp::no_delay(true), ignored);
  watch_for_silence(socket.native_handle());
  ws.emplace(wire::CoalescingStream(std::move(socket)));
  websocket::stream_base::timeout timeout{};
  timeout.handshake_timeout = bound;
  timeout.idle_timeout = websocket::stream_base::none();
  timeout.keep_alive_pings = false;
  ws->set_option(timeout);
  ws->read_message_max(kMaxFrameBytes);
  ws->auto_fragment(false);
  ws->set_option(
      websocket::stream_base::decorator([token = target.token](websocket::request_type& request) {
        request.set(http::field::user_agent, "runbus/" RUNBUS_VERSION);
        if (!token.empty()) {
          request.set(http::field::authorization, "Bearer " + token);
        }
      }));
  const std::string host =
      target.host.find(':') == std::string::npos ? target.host : "[" + target.host + "]";
  ws->async_handshake(response, host + ":" + target.port, "/ws",
                      [self = shared_from_this()](boost::system::error_code error) {
                        if (error) {
                          self->refused(error.message());
                          return;
                        }
                        self->open = true;
                        self->connected({});
                        self->read();
                        self->write();
                      });
}

void Client::Impl::drop() {
  boost::system::error_code ignored;
  (ws ? ws->next_layer().socket() : socket).close(ignored);
}

void Client::Impl::refused(const std::string& why) {
  const std::string where = target.host + ":" + target.port;
  const unsigned status = response.result_int();
  if (status == 401 || status == 403) {
    connected(make_error(
        ErrorCode::kAuthentication,
        "the gateway at " + where + " refuses the token (" + std::to_string(status) + ")"));
  } else if (status >= 400) {
    connected(connection_error("the gateway at " + where + " refuses the connection: " +
                               std::to_string(status) + " " + std::string(response.reason())));
  } else {
    connected(connection_error("cannot connect to " + where + ": " + why));
  }
}

void Client::Impl::connected(Result<void> outcome) {
  if (const auto done = std::exchange(on_connected, nullptr); done && !closed) {
    done(std::move(outcome));
  }
}

void Client::Impl::send(std::string frame) {
  if (open && !writing && outbox.empty() && ws->next_layer().takes(frame.size())) {
    boost::system::error_code error;
    ws->text(true);
    ws->write(asio::buffer(frame), error);
    if (!error) {
      return;
    }
    // Asynchronously it fails too, but not within the call that asked for it.
  }
  outbox.push_back(std::move(frame));
  write();
}

void Client::Impl::write() {
  if (writing || !open || outbox.empty()) {
    return;
  }
  writing = true;
  ws->text(true);
  ws->async_write(asio::buffer(outbox.front()),
                  [self = shared_from_this()](boost::system::error_code error, std::size_t) {
                    self->writing = false;
                    if (error) {
                      self->fail(error.message());
                      return;
                    }
                    self->outbox.pop_front();
                    self->write();
                  });
}

void Client::Impl::read() {
  if (reading || !open || paused) {
    return;
  }
  reading = true;
  ws->async_read(
      buffer, asio::bind_executor(turn, [self = shared_from_this()](boost::system::error_code error,
                                                                    std::size_t) {
        self->reading = false;
        if (error) {
          const websocket::close_reason& reason = self->ws->reason();
          self->fail(error == websocket::error::closed
                         ? "the gateway closed the connection (" + std::to_string(reason.code) +
                               " " + std::string(reason.reason.c_str()) + ")"
                         : error.message());
          return;
        }
        if (!self->closed) {
          self->on_frame();
        }
        self->buffer.consume(self->buffer.size());
        self->read();
      }));
}

void Client::Impl::on_frame() {
  const std::string_view text(static_cast<const char*>(buffer.data().data()), buffer.size());
  if (events.on_frame && events.on_frame(text)) {
    return;
  }
  // Most messages fit in here, and are parsed without an allocation.
  std::array<char, 4096> memory;
  rapidjson::MemoryPoolAllocator<> pool(memory.data(), memory.size());
  rapidjson::Document message(&pool);
  message.Parse<rapidjson::kParseIterativeFlag | rapidjson::kParseFullPrecisionFlag>(text.data(),
                                                                                     text.size());
  if (message.HasParseError() || !message.IsObject()) {
    fail("the gateway sent what is not a JSON object");
    return;
  }
  const auto method = message.FindMember("method");
  if (method == message.MemberEnd()) {
    on_reply(message);
    return;
  }
  const auto params = message.FindMember("params");
  if (method->value.IsString() && params != message.MemberEnd() && params->value.IsObject() &&
      events.on_notification) {
    events.on_notification({method->value.GetString(), method->value.GetStringLength()},
                           params->value);
  }
}

void Client::Impl::on_reply(const rapidjson::Value& message) {
  const auto id = message.FindMember("id");
  const auto result = message.FindMember("result");
  const auto error = message.FindMember("error");
  if (id == message.MemberEnd() || !id->value.IsUint64()) {
    fail(error != message.MemberEnd() ? to_string(error_of(error->value))
                                      : "the gateway sent a response to nothing");
    return;
  }
  const auto found = replies.find(id->value.GetUint64());
  if (found == replies.end()) {
    return;  // its caller has given up
  }
  const Replied replied = std::move(found->second);
  replies.erase(found);
  if (result != message.MemberEnd()) {
    replied(&result->value);
  } else {
    replied(error != message.MemberEnd() ? error_of(error->value)
                                         : make_error(ErrorCode::kInternal, "empty response"));
  }
}

void Client::Impl::fail(const std::string& why) {
  if (!open && on_connected) {
    refused(why);
    return;
  }
  if (!open) {
    return;
  }
  open = false;
  drop();
  const Error error = connection_error(why);
  for (auto& [id, replied] : std::exchange(replies, {})) {
    if (!closed) {
      replied(error);
    }
  }
  if (!closed && events.on_closed) {
    events.on_closed(error);
  }
}

Client::Client(asio::io_context& io, Events events)
    : impl_(std::make_shared<Impl>(io, std::move(events))) {}

Client::~Client() { close(); }

void Client::connect(const GatewayAddress& address, Milliseconds bound,
                     std::function<void(Result<void>)> done) {
  impl_->on_connected = std::move(done);
  impl_->connect(address, bound);
}

Result<void> Client::connect(const GatewayAddress& address, Milliseconds bound) {
  std::optional<Result<void>> outcome;
  connect(address, bound, [&outcome](Result<void> decided) { outcome = std::move(decided); });
  if (!run_until(impl_->io, std::chrono::steady_clock::now() + 2 * bound,
                 [&] { return outcome.has_value(); })) {
    impl_->on_connected = nullptr;
    return connection_error("cannot connect to " + address.host + ":" + address.port +
                            ": no answer");
  }
  return *outcome;
}

bool Client::is_open() const { return impl_->open; }

void Client::call(std::string_view method, std::string_view params, Replied replied) {
  const std::uint64_t id = ++impl_->last_id;
  if (!impl_->open) {
    asio::post(impl_->io, [impl = impl_, replied = std::move(replied)] {
      if (!impl->closed) {
        replied(connection_error("not connected"));
      }
    });
    return;
  }
  impl_->replies.emplace(id, std::move(replied));
  std::string frame = R"({"jsonrpc":"2.0","id":)" + std::to_string(id) + R"(,"method":)";
  wire::append_json_string(method, frame);
  frame.append(R"(,"params":)").append(params).append("}");
  impl_->send(std::move(frame));
}

Result<rapidjson::Document> Client::call(std::string_view method, std::string_view params,
                                         Milliseconds bound) {
  struct Outcome {
    bool decided = false;
    std::optional<Error> error;
    rapidjson::Document document;
  };
  const auto outcome = std::make_shared<Outcome>();
  call(method, params, [outcome](Result<const rapidjson::Value*> reply) {
    outcome->decided = true;
    if (reply) {
      outcome->document.CopyFrom(**reply, outcome->document.GetAllocator());
    } else {
      outcome->error = reply.error();
    }
  });
  if (!run_until(impl_->io, std::chrono::steady_clock::now() + bound,
                 [&] { return outcome->decided; })) {
    return make_error(ErrorCode::kTimeout, std::string(method) + ": no answer in time");
  }
  if (outcome->error) {
    return *outcome->error;
  }
  return std::move(outcome->document);
}

void Client::send(std::string frame) { impl_->send(std::move(frame)); }

void Client::pause() { impl_->paused = true; }

void Client::resume() {
  impl_->paused = false;
  impl_->read();
}

void Client::close(Milliseconds bound) {
  if (impl_->closed) {
    return;
  }
  impl_->closed = true;
  impl_->on_connected = nullptr;
  impl_->replies.clear();
  impl_->paused = false;
  if (impl_->open && bound > Milliseconds(0)) {
    impl_->read();
    const auto done = std::make_shared<bool>(false);
    impl_->ws->async_close(websocket::close_code::normal,
                           [self = impl_, done](boost::system::error_code) { *done = true; });
    run_until(impl_->io, std::chrono::steady_clock::now() + bound, [&] { return *done; });
  }
  impl_->open = false;
  impl_->drop();
}

bool run_until(asio::io_context& io, std::chrono::steady_clock::time_point deadline,
               const std::function<bool()>& done) {
  while (!done()) {
    if (std::chrono::steady_clock::now() >= deadline) {
      return false;
    }
    if (io.stopped()) {
      io.restart();
    }
    if (io.run_one_until(deadline) == 0 && io.stopped() && !done()) {
      return false;  // nothing is left that could make it true
    }
  }
  return true;
}

std::string to_json(const rapidjson::Value& value) {
  rapidjson::StringBuffer buffer;
  rapidjson::Writer<rapidjson::StringBuffer> writer(buffer);
  value.Accept(writer);
  return {buffer.GetString(), buffer.GetSize()};
}

Error error_of(const rapidjson::Value& error) {
  Error out;
  if (!error.IsObject()) {
    out.detail = "an error that is not an object";
    return out;
  }
  const auto code = error.FindMember("code");
  if (code != error.MemberEnd() && code->value.IsInt()) {
    out.code = error_code_from_number(code->value.GetInt());
  }
  const auto data = error.FindMember("data");
  if (data != error.MemberEnd()) {
    out.detail = member_string(data->value, "detail");
    out.limit = member_string(data->value, "limit");
  }
  out.internal = member_string(error, "message");
  return out;
}

}  // namespace runbus::cli
