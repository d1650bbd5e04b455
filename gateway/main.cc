// runbus-gateway: reads flags, wires the rooms, runs until SIGTERM or SIGINT.
#include <google/protobuf/stubs/logging.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/lexical_cast.hpp>
#include <csignal>
#include <iostream>
#include <stdexcept>
#include <string>
#include <zmq.hpp>

#include "gateway/bus/brokers.h"
#include "gateway/gateway.h"
#include "gateway/server.h"
#include "proto/support/id.h"
#include "proto/support/log.h"
#include "proto/support/message_process.h"
#include "proto/support/termination_signals.h"
#include "proto/wire/curve_keys.h"

namespace runbus::gateway {
namespace {

struct Flags {
  GatewayConfig config;
  BrokerOptions brokers;
  std::string listen = "127.0.0.1:8080";
  std::string token_file;
  std::string curve_server_key;
  std::string curve_secret_file;
  std::string log_level = "info";
  double write_timeout = 600;
  double call_timeout = 3600;
  int ready_fd = -1;
  bool insecure_no_token = false;
};

void add_flags(CLI::App& app, Flags& flags) {
  app.set_version_flag("--version", "runbus-gateway " RUNBUS_VERSION);
  app.add_option("--listen", flags.listen,
                 "HOST:PORT to serve HTTP and WebSocket on; port 0 takes any")
      ->capture_default_str();
  app.add_option("--broker", flags.brokers.endpoints,
                 "Endpoint of a broker; the first that is connected is used")
      ->required();
  app.add_option("--events", flags.brokers.events_endpoint,
                 "Where events come from, if not where the broker says");
  app.add_option("--node", flags.brokers.node, "Name of this host on the bus");
  app.add_option("--token-file", flags.token_file,
                 "File whose first line is the token (else RUNBUS_TOKEN)");
  app.add_flag("--insecure-no-token", flags.insecure_no_token,
               "Let everyone in; on a loopback address only");
  app.add_option("--allow-origin", flags.config.allowed_origins,
                 "Origin of web pages that may connect, besides our own");
  app.add_option("--curve-server-key", flags.curve_server_key,
                 "Public key of the brokers, for tcp");
  app.add_option("--curve-secret-file", flags.curve_secret_file,
                 "Key pair of this gateway, for tcp");
  app.add_option("--max-connections", flags.config.max_connections)->capture_default_str();
  app.add_option("--max-frame-bytes", flags.config.max_frame_bytes, "Largest message or HTTP body")
      ->capture_default_str()
      ->check(CLI::Range(std::size_t{1024}, std::size_t{1} << 30U));
  app.add_option("--max-calls", flags.config.max_calls, "Calls in flight per connection")
      ->capture_default_str()
      ->check(CLI::Range(1, 256));
  app.add_option("--write-queue-bytes", flags.config.write_queue_bytes,
                 "Replies that may wait for one connection")
      ->capture_default_str();
  app.add_option("--stream-window", flags.config.stream_window,
                 "Bytes of one stream's items on their way to its client")
      ->capture_default_str()
      ->check(CLI::Range(std::uint64_t{64} << 10U, std::uint64_t{64} << 20U));
  app.add_option("--connection-window", flags.config.connection_window,
                 "The same, of all streams of a connection")
      ->capture_default_str()
      ->check(CLI::Range(std::uint64_t{64} << 10U, std::uint64_t{1} << 30U));
  app.add_option("--gateway-window", flags.config.gateway_window,
                 "The same, of all streams: so much memory slow clients may cost")
      ->capture_default_str()
      ->check(CLI::Range(std::uint64_t{64} << 10U, std::uint64_t{1} << 30U));
  app.add_option("--write-timeout", flags.write_timeout,
                 "Seconds that a client with a stream may read nothing")
      ->capture_default_str()
      ->check(CLI::Range(1.0, 1e9));
  app.add_option("--linger", flags.config.linger,
                 "Seconds that a connection's own session outlives it")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1e9));
  app.add_option("--call-timeout", flags.call_timeout, "Seconds that a call may take")
      ->capture_default_str()
      ->check(CLI::Range(1.0, 1e8));
  app.add_option("--log-level", flags.log_level, "trace, debug, info, warning, error or off")
      ->capture_default_str()
      ->check(CLI::IsMember({"trace", "debug", "info", "warning", "error", "off"}));
  app.add_option("--ready-fd", flags.ready_fd,
                 "Descriptor to write \"HOST:PORT\\n\" to when listening");
}

void read_listen(Flags& flags) {
  const std::size_t colon = flags.listen.rfind(':');
  if (colon == std::string::npos) {
    throw std::invalid_argument("--listen: expected HOST:PORT");
  }
  flags.config.host = flags.listen.substr(0, colon);
  if (flags.config.host.starts_with('[') && flags.config.host.ends_with(']')) {
    flags.config.host = flags.config.host.substr(1, flags.config.host.size() - 2);
  }
  unsigned port = 0;
  if (!boost::conversion::try_lexical_convert(flags.listen.substr(colon + 1), port) ||
      port > 65535) {
    throw std::invalid_argument("--listen: the port must be 0 to 65535");
  }
  flags.config.port = static_cast<std::uint16_t>(port);
}

std::string read_token(const Flags& flags) {
  if (!flags.insecure_no_token) {
    const Result<std::string> token = load_token(flags.token_file);
    if (!token) {
      throw std::invalid_argument(token.error().detail);
    }
    return *token;
  }
  if (!is_loopback(flags.config.host)) {
    throw std::invalid_argument("--insecure-no-token is for a loopback address only");
  }
  return {};
}

void read_keys(Flags& flags) {
  if (flags.curve_server_key.empty() && flags.curve_secret_file.empty()) {
    return;
  }
  if (!wire::is_z85_key(flags.curve_server_key)) {
    throw std::invalid_argument("--curve-server-key: expected 40 characters of Z85");
  }
  const Result<wire::KeyPair> pair = wire::read_secret_file(flags.curve_secret_file);
  if (!pair) {
    throw std::invalid_argument("--curve-secret-file: " + pair.error().detail);
  }
  flags.brokers.curve = {flags.curve_server_key, pair->public_key, pair->secret_key};
}

void finish_flags(Flags& flags) {
  read_listen(flags);
  read_keys(flags);
  using std::chrono::duration_cast;
  flags.config.write_timeout =
      duration_cast<std::chrono::seconds>(std::chrono::duration<double>(flags.write_timeout));
  flags.config.call_timeout =
      duration_cast<std::chrono::seconds>(std::chrono::duration<double>(flags.call_timeout));
  if (flags.brokers.node.empty()) {
    std::array<char, 256> name{};
    if (::gethostname(name.data(), name.size() - 1) == 0) {
      flags.brokers.node = name.data();
    }
  }
}

void announce(int fd, const std::string& address) {
  if (fd < 0) {
    return;
  }
  const std::string line = address + "\n";
  if (::write(fd, line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
    spdlog::warn("--ready-fd: cannot write");
  }
  ::close(fd);
}

int run(const Flags& flags) {
  ::signal(SIGPIPE, SIG_IGN);
  const Auth auth(read_token(flags), flags.config.allowed_origins);

  Connections connections;  // outlives the coroutines that the io_context destroys at the end
  zmq::context_t context(1);
  boost::asio::io_context io(1);
  TerminationSignals signals(io);
  BusClient bus(io, make_uuid());
  Brokers brokers(io, context, flags.brokers, bus);
  HubOptions hub_options;
  hub_options.backlog_bytes = flags.config.event_backlog_bytes;
  Hub hub(io, brokers, bus.origin(), hub_options);
  RpcServices services{flags.config, bus, hub};
  Health health(io, bus);
  Gateway gateway{flags.config, auth, connections, services, health};

  const auto server = std::make_shared<Server>(io, gateway);
  const std::string address = server->listen(flags.config.host, flags.config.port);
  brokers.start(hub);
  server->start();
  spdlog::info("listening on {}", address);
  announce(flags.ready_fd, address);

  signals.on_signal([&](int signal) {
    spdlog::info("signal {}: closing {} connections", signal, connections.size());
    server->stop([&] {
      brokers.close();
      io.stop();
    });
  });
  io.run();
  return 0;
}

}  // namespace
}  // namespace runbus::gateway

int main(int argc, char** argv) {
  runbus::tune_message_process();
  runbus::gateway::Flags flags;
  CLI::App app("The gateway of runbus: JSON-RPC 2.0 over WebSocket and HTTP in front of the bus.");
  runbus::gateway::add_flags(app, flags);
  CLI11_PARSE(app, argc, argv);
  try {
    runbus::setup_logging("runbus-gateway", flags.log_level);
    // It has a line for every message that it cannot parse; the gateway says itself what was wrong.
    google::protobuf::SetLogHandler(nullptr);
    runbus::gateway::finish_flags(flags);
    return runbus::gateway::run(flags);
  } catch (const std::exception& error) {
    std::cerr << "runbus-gateway: " << error.what() << "\n";
    return 2;
  }
}
