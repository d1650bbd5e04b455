#include "tools/runbus/up.h"

#include <unistd.h>

#include <array>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "proto/support/id.h"
#include "proto/wire/transcoder.h"
#include "tools/runbus/files.h"
#include "tools/runbus/keys.h"
#include "tools/runbus/state_dir.h"
#include "tools/runbus/supervisor.h"

namespace runbus::cli {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr seconds kReadyBound{30};
constexpr seconds kCleanBound{60};
constexpr seconds kCheckBound{90};
constexpr seconds kStopGrace{5};
// What a worker gives its calls, so that it ends by itself before it would be killed.
constexpr seconds kDrain{4};

std::string host_name() {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0 || !is_valid_id(name.data())) {
    return "local";
  }
  return name.data();
}

// A tcp endpoint beside another, `above` ports higher; port 0 stays any free one.
std::string port_above(const std::string& endpoint, unsigned above) {
  const std::size_t colon = endpoint.rfind(':');
  unsigned port = 0;
  std::from_chars(endpoint.data() + colon + 1, endpoint.data() + endpoint.size(), port);
  return endpoint.substr(0, colon + 1) + std::to_string(port == 0 ? 0 : port + above);
}

// Where a client of this machine reaches a gateway that listens at `listen`.
std::string reachable(const std::string& listen) {
  const std::size_t colon = listen.rfind(':');
  const std::string host = listen.substr(0, colon);
  if (host == "0.0.0.0") {
    return "127.0.0.1" + listen.substr(colon);
  }
  if (host == "[::]") {
    return "[::1]" + listen.substr(colon);
  }
  return listen;
}

void pass_on(const std::vector<PassedOn>& flags, std::vector<std::string>& argv) {
  for (const PassedOn& each : flags) {
    if (!each.value.empty()) {
      argv.insert(argv.end(), {each.flag, each.value});
    }
  }
}

class Up {
 public:
  Up(const UpOptions& options, StateDir& state, const SocketDir& sockets, std::string token)
      : options_(options),
        state_(state),
        sockets_(sockets),
        token_(std::move(token)),
        supervisor_([this](const std::string& text) { say(text); }) {}

  int run() {
    const Result<void> started = start();
    bool good = started.has_value();
    if (good) {
      announce();
      if (!options_.check) {
        supervisor_.supervise();
      }
      say("stopping");
    } else if (supervisor_.stop_requested()) {
      good = true;
      say("stopped before it was ready");
    } else {
      say("cannot start: " + started.error().detail);
    }
    stop();
    return good ? 0 : 1;
  }

 private:
  // With --json stdout is for the one line of JSON.
  int report_fd() const { return options_.json ? 2 : 1; }

  void say(const std::string& text) const {
    std::FILE* out = options_.json ? stderr : stdout;
    std::fprintf(out, "runbus: %s\n", text.c_str());
    std::fflush(out);
  }

  std::string program(const std::string& name) const { return options_.bin_dir + "/" + name; }

  // The socket of broker `number` (1, 2…) for `what`.
  std::string socket(const std::string& what, unsigned number) const {
    return sockets_.endpoint(number == 1 ? what : what + "-" + std::to_string(number));
  }
  // Its endpoint for workers of other hosts; its events are one port above.
  std::string remote(unsigned number) const {
    return port_above(options_.broker_listen, 2 * (number - 1));
  }
  void add_brokers(std::vector<std::string>& argv) const;

  ChildSpec broker(unsigned number) const;
  ChildSpec gateway(const std::string& listen) const;
  ChildSpec worker(unsigned number) const;
  Result<void> start();
  Result<void> start_brokers();
  Result<void> check();
  void destroy_sessions();
  void announce() const;
  void stop();

  const UpOptions& options_;
  StateDir& state_;
  const SocketDir& sockets_;
  std::string token_;
  std::string secret_file_;
  std::string address_;  // HOST:PORT, as clients of this machine use it
  Supervisor supervisor_;
};

// In the same order for all, so that all prefer the same one.
void Up::add_brokers(std::vector<std::string>& argv) const {
  for (unsigned number = 1; number <= options_.brokers; ++number) {
    argv.insert(argv.end(), {"--broker", socket("bus", number)});
  }
}

ChildSpec Up::broker(unsigned number) const {
  std::vector<std::string> argv{
      program("runbus-broker"), "--listen",         socket("bus", number),    "--events-listen",
      socket("events", number), "--events-publish", socket("publish", number)};
  if (!options_.broker_listen.empty()) {
    argv.insert(argv.end(), {"--listen", remote(number), "--events-listen",
                             port_above(remote(number), 1), "--curve-secret-file", secret_file_,
                             "--authorized-keys", options_.authorized_keys});
  }
  argv.insert(argv.end(), {"--log-level", options_.log_level});
  return {.name = options_.brokers == 1 ? "broker" : "broker " + std::to_string(number),
          .argv = std::move(argv),
          .death_signal = SIGKILL,
          .reports_ready = true};
}

ChildSpec Up::gateway(const std::string& listen) const {
  std::vector<std::string> argv{program("runbus-gateway"),
                                "--listen",
                                listen,
                                "--token-file",
                                state_.token_file(),
                                "--log-level",
                                options_.log_level};
  add_brokers(argv);
  for (const std::string& origin : options_.allow_origin) {
    argv.insert(argv.end(), {"--allow-origin", origin});
  }
  pass_on(options_.to_gateway, argv);
  return {
      .name = "gateway", .argv = std::move(argv), .death_signal = SIGKILL, .reports_ready = true};
}

ChildSpec Up::worker(unsigned number) const {
  std::vector<std::string> argv{program("runbus-worker"),
                                "execution",
                                "--node",
                                host_name(),
                                "--state-dir",
                                state_.node_dir(),
                                "--drain-timeout",
                                std::to_string(kDrain.count()),
                                "--log-level",
                                options_.log_level};
  add_brokers(argv);
  if (!options_.engine.empty()) {
    argv.insert(argv.end(), {"--engine", options_.engine});
  }
  if (!options_.runtime.empty()) {
    argv.insert(argv.end(), {"--runtime", options_.runtime});
  }
  if (options_.insecure) {
    argv.emplace_back("--insecure");
  }
  if (options_.allow_network) {
    argv.emplace_back("--allow-network");
  }
  if (options_.require_limits) {
    argv.emplace_back("--require-limits");
  }
  pass_on(options_.to_worker, argv);
  // SIGTERM lets it end its sandboxes in order when this process is killed.
  return {.name = "worker " + std::to_string(number),
          .argv = std::move(argv),
          .death_signal = SIGTERM,
          .reports_ready = true};
}

Result<void> Up::start() {
  if (!options_.broker_listen.empty()) {
    if (options_.authorized_keys.empty()) {
      return failure(
          "--broker-listen needs --authorized-keys: the keys of the workers that may attach");
    }
    const Result<ServerKey> key = server_key(state_.path());
    if (!key) {
      return key.error();
    }
    secret_file_ = key->secret_file;
    std::string endpoints = remote(1);
    for (unsigned number = 2; number <= options_.brokers; ++number) {
      endpoints += " and " + remote(number);
    }
    say("workers of other hosts attach to " + endpoints + " with --curve-server-key " +
        key->public_key);
  }
  destroy_sessions();
  if (const Result<void> started = start_brokers(); !started) {
    return started.error();
  }
  say("starting the gateway");
  const Result<std::string> listening = supervisor_.start(gateway(options_.listen), kReadyBound);
  if (!listening) {
    return listening.error();
  }
  if (listening->rfind(':') == std::string::npos) {
    return failure("the gateway said '" + *listening + "' instead of its address");
  }
  // A gateway that has to be started again must keep the port that clients know.
  supervisor_.change_arguments("gateway", gateway(*listening).argv);
  address_ = reachable(*listening);
  for (unsigned number = 1; number <= options_.workers; ++number) {
    say("starting worker " + std::to_string(number));
    if (const Result<std::string> ready = supervisor_.start(worker(number), kReadyBound); !ready) {
      return ready.error();
    }
  }
  if (const Result<void> written = write_file(state_.url_file(), "http://" + address_ + "\n", 0600);
      !written) {
    return written.error();
  }
  return check();
}

Result<void> Up::start_brokers() {
  for (unsigned number = 1; number <= options_.brokers; ++number) {
    const ChildSpec spec = broker(number);
    say("starting the " + spec.name);
    if (const Result<std::string> ready = supervisor_.start(spec, kReadyBound); !ready) {
      return ready.error();
    }
  }
  return {};
}

Result<void> Up::check() {
  if (options_.workers == 0) {
    say("no worker of its own: not checked by running a program");
    return {};
  }
  say("checking: a program, through the gateway's WebSocket");
  const ChildSpec self_check{.name = "the check",
                             .argv = {program("runbus"), "self-check", "--url",
                                      "http://" + address_, "--token-file", state_.token_file()},
                             .stdout_fd = report_fd()};
  const Result<int> code = supervisor_.run(self_check, kCheckBound, true);
  if (!code) {
    return code.error();
  }
  if (*code != 0) {
    return failure(
        "a program could not be run through the gateway (see above, and `runbus doctor`)");
  }
  return {};
}

// Also cleans what an earlier `up` left that was killed.
void Up::destroy_sessions() {
  const ChildSpec spec{
      .name = "removing old sessions",
      .argv = {program("runbus-worker"), "--destroy-sessions", "--state-dir", state_.node_dir()}};
  const Result<int> code = supervisor_.run(spec, kCleanBound, false);
  if (!code) {
    say(code.error().detail);
  } else if (*code != 0) {
    say("removing old sessions ended with status " + std::to_string(*code));
  }
}

void Up::announce() const {
  const std::string url = "http://" + address_ + "/?token=" + token_;
  const std::string ws_url = "ws://" + address_ + "/ws?token=" + token_;
  if (!options_.json) {
    say("ready: " + url);
    say("       " + ws_url);
    say("try: runbus exec -l python -c 'print(6 * 7)'; Ctrl-C ends");
    return;
  }
  std::string line = "{";
  const auto add = [&line](const char* name, const std::string& value) {
    line.append(line.size() > 1 ? ",\"" : "\"").append(name).append("\":");
    wire::append_json_string(value, line);
  };
  add("url", url);
  add("ws_url", ws_url);
  add("token", token_);
  add("state_dir", state_.path());
  add("broker", socket("bus", 1));
  add("version", RUNBUS_VERSION);
  line += ",\"brokers\":[";
  for (unsigned number = 1; number <= options_.brokers; ++number) {
    line += number > 1 ? "," : "";
    wire::append_json_string(socket("bus", number), line);
  }
  line += "]";
  line += ",\"pid\":" + std::to_string(::getpid()) + "}\n";
  std::fputs(line.c_str(), stdout);
  std::fflush(stdout);
}

void Up::stop() {
  ::unlink(state_.url_file().c_str());
  supervisor_.stop("worker", kStopGrace);
  supervisor_.stop("gateway", kStopGrace);
  supervisor_.stop("broker", kStopGrace);
  destroy_sessions();
  if (const std::size_t killed = supervisor_.finish(); killed > 0) {
    say("killed " + std::to_string(killed) + " processes that were left");
  }
}

Result<std::string> choose_token(const UpOptions& options, const StateDir& state) {
  if (!options.token.empty() && !options.token_file.empty()) {
    return failure("--token and --token-file exclude each other");
  }
  if (options.token_file.empty()) {
    return state.token(options.token.empty() ? std::nullopt : std::optional(options.token));
  }
  const Result<std::string> text = read_file(options.token_file, 4096);
  if (!text) {
    return text.error();
  }
  return state.token(trimmed(*text));
}

int refuse(const Error& error) {
  std::fprintf(stderr, "runbus: %s\n", error.detail.c_str());
  return 1;
}

}  // namespace

int up(const UpOptions& options) {
  Result<StateDir> state = StateDir::open(options.state_dir);
  if (!state) {
    return refuse(state.error());
  }
  if (const Result<void> locked = state->lock(); !locked) {
    return refuse(locked.error());
  }
  Result<std::string> token = choose_token(options, *state);
  if (!token) {
    return refuse(token.error());
  }
  const Result<SocketDir> sockets = SocketDir::make(state->path());
  if (!sockets) {
    return refuse(sockets.error());
  }
  return Up(options, *state, *sockets, std::move(*token)).run();
}

}  // namespace runbus::cli
