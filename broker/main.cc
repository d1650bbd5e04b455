#include <google/protobuf/stubs/logging.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <csignal>
#include <exception>
#include <string>
#include <string_view>
#include <system_error>

#include "broker/server.h"
#include "proto/support/log.h"
#include "proto/support/message_process.h"
#include "proto/support/signals.h"

namespace {

using runbus::broker::Server;
using runbus::broker::ServerOptions;

void add_flags(CLI::App& app, ServerOptions& options) {
  app.add_option("--listen", options.listen,
                 "Endpoint for gateways and workers: ipc://PATH or tcp://HOST:PORT (repeatable)")
      ->required();
  app.add_option("--events-listen", options.events_listen,
                 "Endpoint for subscribers to events: ipc://PATH or tcp://HOST:PORT (repeatable)");
  app.add_option("--events-publish", options.events_publish,
                 "Endpoint for plain publishers of events: ipc://PATH (repeatable)");
  app.add_option("--curve-secret-file", options.curve_secret_file,
                 "The broker's key pair, mode 0600; needed for tcp");
  app.add_option("--authorized-keys", options.authorized_keys,
                 "Directory of NAME.pub files: who may come over tcp");
  app.add_option("--heartbeat-interval-ms", options.core.heartbeat_interval,
                 "Heartbeat when nothing else is sent")
      ->check(CLI::Range(10, 60'000))
      ->capture_default_str();
  app.add_option("--heartbeat-timeout-ms", options.core.heartbeat_timeout,
                 "A peer that is silent so long is gone")
      ->check(CLI::Range(20, 600'000))
      ->capture_default_str();
  app.add_option("--queue-calls", options.core.queue_calls, "Waiting calls of a service")
      ->capture_default_str();
  app.add_option("--queue-bytes", options.core.queue_bytes, "Bytes of a service's waiting calls")
      ->capture_default_str();
  app.add_option("--history-events", options.core.history_events, "Events remembered of a topic")
      ->capture_default_str();
  app.add_option("--history-bytes", options.core.history_bytes, "Bytes of events remembered in all")
      ->capture_default_str();
  app.add_option("--max-topics", options.core.max_topics, "Topics remembered")
      ->capture_default_str();
}

void announce_ready(int fd) {
  constexpr std::string_view kLine = "ready\n";
  if (::write(fd, kLine.data(), kLine.size()) != static_cast<ssize_t>(kLine.size())) {
    throw std::system_error(errno, std::generic_category(), "writing to --ready-fd");
  }
  ::close(fd);
}

void serve(ServerOptions options, int ready_fd) {
  const runbus::UniqueFd signals = runbus::block_termination_signals();
  ::signal(SIGPIPE, SIG_IGN);
  options.stop_fd = signals.get();
  const std::string version = options.core.version;
  Server server(std::move(options));
  for (const std::string& endpoint : server.endpoints()) {
    spdlog::info("listening on {}", endpoint);
  }
  for (const std::string& endpoint : server.events_endpoints()) {
    spdlog::info("events on {}", endpoint);
  }
  if (ready_fd >= 0) {
    announce_ready(ready_fd);
  }
  server.run();
  spdlog::info("runbus-broker {} ends", version);
}

}  // namespace

int main(int argc, char** argv) {
  runbus::tune_message_process();
  CLI::App app("Routes calls from gateways to workers and relays events.", "runbus-broker");
  ServerOptions options;
  options.core.version = RUNBUS_VERSION;
  std::string log_level = "info";
  int ready_fd = -1;
  add_flags(app, options);
  app.add_option("--log-level", log_level, "trace, debug, info, warning, error or off")
      ->capture_default_str();
  app.add_option("--ready-fd", ready_fd,
                 "A descriptor that gets the line \"ready\" when all is bound");
  app.set_version_flag("--version", RUNBUS_VERSION);
  CLI11_PARSE(app, argc, argv);
  try {
    runbus::setup_logging("runbus-broker", log_level);
    // It has a line for every message that it cannot parse; the core counts those, and logs one a
    // second.
    google::protobuf::SetLogHandler(nullptr);
    if (options.core.heartbeat_timeout <= options.core.heartbeat_interval) {
      throw std::runtime_error("--heartbeat-timeout-ms must be more than --heartbeat-interval-ms");
    }
    serve(std::move(options), ready_fd);
    return 0;
  } catch (const std::exception& error) {
    spdlog::critical("{}", error.what());
    return 1;
  }
}
