#pragma once

#include <memory>
#include <string>
#include <vector>

#include "broker/options.h"

// The broker with its sockets: a ROUTER and an XPUB for this host (ipc), the same with CURVE for
// others (tcp), an XSUB for plain publishers (ipc), and the ZAP handler. One thread runs it all;
// beside it there is libzmq's I/O thread alone. No peer is waited for: what one cannot take is kept
// for it within bounds, then it is sent away.
namespace runbus::broker {

struct ServerOptions {
  CoreOptions core;
  std::vector<std::string> listen;          // ipc:// or tcp://
  std::vector<std::string> events_listen;   // ipc:// or tcp://
  std::vector<std::string> events_publish;  // ipc://
  std::string curve_secret_file;            // needed for tcp, as is
  std::string authorized_keys;              // the directory of NAME.pub files
  int stop_fd = -1;                         // run() also ends when this is readable
  std::size_t outbox_bytes = 64U << 20U;    // of one peer
  std::size_t outbox_messages = 100'000;
};

class Server {
 public:
  // Binds everything. Throws std::runtime_error that says what is wrong.
  explicit Server(ServerOptions options);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // As they came to be: a port 0 is a real one here.
  const std::vector<std::string>& endpoints() const;
  const std::vector<std::string>& events_endpoints() const;

  // Until stop(); says goodbye to all peers then.
  void run();
  // From any thread, or a signal handler.
  void stop() noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace runbus::broker
