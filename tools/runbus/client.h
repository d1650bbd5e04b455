#pragma once

#include <rapidjson/document.h>

#include <boost/asio/io_context.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "proto/support/error.h"
#include "tools/runbus/gateway_address.h"

namespace runbus::cli {

// One JSON-RPC connection to a gateway over its WebSocket, driven by an io_context that one thread
// runs. All callbacks come from that io_context, none after close() or from within the call that
// asked for it. A client is one connection: to connect again, make another.
class Client {
 public:
  using Milliseconds = std::chrono::milliseconds;
  // The result is valid during the call alone.
  using Replied = std::function<void(Result<const rapidjson::Value*>)>;

  struct Events {
    std::function<void(std::string_view method, const rapidjson::Value& params)> on_notification;
    // The connection ended and it was not close(); the calls in flight have got kConnection before.
    std::function<void(const Error&)> on_closed;
    // Sees every frame first; true: it was for the callee, and is not parsed.
    std::function<bool(std::string_view frame)> on_frame;
  };

  Client(boost::asio::io_context& io, Events events);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // Resolves, connects and upgrades. kAuthentication when the gateway refuses the token, else
  // kConnection.
  void connect(const GatewayAddress& address, Milliseconds bound,
               std::function<void(Result<void>)> done);
  // The same, running the io_context until it is decided.
  Result<void> connect(const GatewayAddress& address, Milliseconds bound);

  bool is_open() const;

  // `params` is a JSON object. The reply, or kConnection, comes exactly once, unless close() comes
  // before.
  void call(std::string_view method, std::string_view params, Replied replied);
  // The same, running the io_context until the reply; kTimeout after `bound`.
  Result<rapidjson::Document> call(std::string_view method, std::string_view params,
                                   Milliseconds bound);

  // A text frame as it is.
  void send(std::string frame);

  // Between them no frame is read: the gateway, and at last the program, has to wait.
  void pause();
  void resume();

  // Says goodbye, running the io_context for at most `bound`; 0: drops the connection.
  void close(Milliseconds bound = Milliseconds(0));

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

// Runs `io` until `done` is true or the deadline has passed; whether it is.
bool run_until(boost::asio::io_context& io, std::chrono::steady_clock::time_point deadline,
               const std::function<bool()>& done);

// `value` as JSON text.
std::string to_json(const rapidjson::Value& value);

// The error of a JSON-RPC response, as an Error.
Error error_of(const rapidjson::Value& error);

}  // namespace runbus::cli
