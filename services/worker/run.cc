#include <google/protobuf/stubs/logging.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <boost/asio/io_context.hpp>
#include <cstdlib>
#include <optional>
#include <utility>

#include "proto/support/log.h"
#include "proto/support/message_process.h"
#include "proto/support/termination_signals.h"
#include "proto/support/unique_fd.h"
#include "proto/wire/curve_keys.h"
#include "services/worker/worker.h"

namespace runbus::worker {
namespace {

struct Flags {
  std::vector<std::string> brokers;
  std::string node;
  std::string name;
  std::string curve_server_key;
  std::string curve_secret_file;
  std::uint32_t drain_timeout = 30;
  std::string log_level = "info";
  int ready_fd = -1;
};

void add_common_flags(CLI::App& app, Flags& flags) {
  app.add_option("--broker", flags.brokers,
                 "Endpoint of a broker, ipc://PATH or tcp://HOST:PORT; repeatable")
      ->required();
  app.add_option("--node", flags.node,
                 "Name of this node; workers of one node share its sessions (default: host name)");
  app.add_option("--name", flags.name, "Name of this worker, for people")->capture_default_str();
  app.add_option("--curve-server-key", flags.curve_server_key,
                 "Public key of the brokers (Z85), for tcp");
  app.add_option("--curve-secret-file", flags.curve_secret_file,
                 "File with this worker's secret key, mode 0600")
      ->check(CLI::ExistingFile);
  app.add_option("--drain-timeout", flags.drain_timeout,
                 "Seconds that calls get to end when the worker leaves")
      ->check(CLI::Range(0, 86'400))
      ->capture_default_str();
  app.add_option("--log-level", flags.log_level)
      ->check(CLI::IsMember({"trace", "debug", "info", "warning", "error", "critical", "off"}))
      ->capture_default_str();
  app.add_option("--ready-fd", flags.ready_fd,
                 "Descriptor that gets \"ready\" once the worker is attached");
}

WorkerOptions worker_options(const Flags& flags) {
  WorkerOptions options;
  options.brokers = flags.brokers;
  options.node = flags.node;
  options.name = flags.name;
  options.drain_timeout = std::chrono::seconds(flags.drain_timeout);
  if (flags.curve_server_key.empty() != flags.curve_secret_file.empty()) {
    throw std::invalid_argument("--curve-server-key and --curve-secret-file go together");
  }
  if (!flags.curve_server_key.empty() && !wire::is_z85_key(flags.curve_server_key)) {
    throw std::invalid_argument("--curve-server-key is not a key of 40 Z85 characters");
  }
  for (const std::string& broker : flags.brokers) {
    if (broker.starts_with("tcp://") && flags.curve_server_key.empty()) {
      throw std::invalid_argument("a tcp broker needs --curve-server-key and --curve-secret-file");
    }
  }
  if (!flags.curve_secret_file.empty()) {
    const wire::KeyPair own = wire::read_secret_file(flags.curve_secret_file).value();
    options.curve = {flags.curve_server_key, own.public_key, own.secret_key};
  }
  return options;
}

void say_ready(UniqueFd& ready) {
  if (!ready) {
    return;
  }
  constexpr std::string_view kLine = "ready\n";
  if (::write(ready.get(), kLine.data(), kLine.size()) < 0) {
    spdlog::warn("cannot write to --ready-fd: {}", std::generic_category().message(errno));
  }
  ready.reset();
}

// The first signal drains; the second means it.
void wait_for_signal(TerminationSignals& signals, std::function<void()> leave) {
  signals.on_signal([leave = std::move(leave), leaving = false](int number) mutable {
    if (std::exchange(leaving, true)) {
      std::_Exit(128 + number);
    }
    spdlog::info("signal {}: leaving", number);
    leave();
  });
}

int serve(const Flags& flags,
          const std::function<std::vector<std::unique_ptr<Service>>(boost::asio::io_context&,
                                                                    Worker&)>& make) {
  boost::asio::io_context io{1};
  TerminationSignals signals(io);
  UniqueFd ready(flags.ready_fd);
  Worker worker(io, worker_options(flags));
  for (auto& service : make(io, worker)) {
    worker.add(std::move(service));
  }
  bool drained = false;
  const auto leave = [&] {
    worker.drain([&] {
      drained = true;
      io.stop();
    });
  };
  worker.on_attached([&] { say_ready(ready); });
  worker.on_drain_request(leave);
  wait_for_signal(signals, leave);
  worker.start();
  io.run();
  return drained ? EXIT_SUCCESS : EXIT_FAILURE;
}

}  // namespace

int run(int argc, char** argv, const std::string& name,
        const std::function<std::vector<std::unique_ptr<Service>>(boost::asio::io_context&,
                                                                  Worker&)>& make,
        const std::function<void(CLI::App&)>& add_flags) {
  tune_message_process();
  Flags flags;
  flags.name = name;
  CLI::App app{"runbus worker: " + name};
  app.set_version_flag("--version", RUNBUS_VERSION);
  try {
    add_common_flags(app, flags);
    if (add_flags) {
      add_flags(app);
    }
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  }
  try {
    setup_logging(name, flags.log_level);
    // It has a line for every body that it cannot parse, and the caller is told of those.
    google::protobuf::SetLogHandler(nullptr);
    return serve(flags, make);
  } catch (const std::exception& error) {
    spdlog::critical("{}", error.what());
    return EXIT_FAILURE;
  }
}

}  // namespace runbus::worker
