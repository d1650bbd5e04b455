#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "proto/support/error.h"
#include "proto/support/unique_fd.h"
#include "tools/runbus/bench_report.h"
#include "tools/runbus/child.h"
#include "tools/runbus/client.h"

namespace runbus::cli {

using BenchClock = std::chrono::steady_clock;

inline double seconds_since(BenchClock::time_point start) {
  return std::chrono::duration<double>(BenchClock::now() - start).count();
}

// A process that helps to measure; it is ended with this object.
class Helper {
 public:
  // Starts it and waits for its first line: of its stdout, or of its readiness pipe with
  // reports_ready.
  static Result<Helper> start(ChildSpec spec, std::chrono::seconds bound);
  Helper(Helper&& other) noexcept;
  Helper& operator=(Helper&&) = delete;
  ~Helper();

  const std::string& line() const { return line_; }
  pid_t pid() const { return pid_; }

 private:
  Helper(pid_t pid, UniqueFd output, std::string line)
      : pid_(pid), output_(std::move(output)), line_(std::move(line)) {}
  pid_t pid_;
  UniqueFd output_;
  std::string line_;
};

// What a group of benchmarks gets.
struct Rig {
  GatewayAddress gateway;
  std::string broker;      // endpoint; empty: not known (--url)
  pid_t up_pid = -1;       // of `runbus up`; -1: not known
  pid_t gateway_pid = -1;  // the same
  std::string scratch;     // directory for sockets
  bool quick = false;
  Report& report;

  // N rounds, or fewer when quick.
  int rounds(int normal, int few) const { return quick ? few : normal; }
};

// One connection and the loop that drives it.
struct Line {
  boost::asio::io_context io{1};
  std::unique_ptr<Client> client;

  // Throws std::runtime_error when it cannot connect.
  explicit Line(const GatewayAddress& gateway, Client::Events events = {});
};

struct Rate {
  double per_second = 0;
  double p50 = 0;  // seconds
  double p99 = 0;
};

// Keeps `in_flight` of something in flight until `count` are done. `begin(done)` starts one. Throws
// when one fails or the whole takes longer than two minutes.
Rate measure(boost::asio::io_context& io, int in_flight, int count,
             const std::function<void(std::function<void(const Error*)> done)>& begin);

// The same through JSON-RPC calls of `method`.
Rate measure_calls(Line& line, const std::string& method, const std::string& params, int in_flight,
                   int count);

// Seconds that `argv` takes to run and end, its output thrown away. Throws when it fails.
double run_cold(const std::vector<std::string>& argv);
// Runs per second with so many at once.
double cold_rate(const std::vector<std::string>& argv, int at_once, int count);

// Of a process with one thread; none when the kernel does not tell.
std::vector<pid_t> children_of(pid_t parent);

// The JSON of a CodeRequest.
std::string code_params(const std::string& language, const std::string& code,
                        const std::string& more = {});

// A bare WebSocket echo through Beast with frames of `bytes` bytes.
Rate measure_bare_websocket(const Rig& rig, int in_flight, int count, std::size_t bytes);

// The groups. Each adds to the report; an exception is the group's failure.
void bench_echo(Rig& rig);
void bench_execute(Rig& rig);
void bench_stream(Rig& rig);
void bench_events(Rig& rig);
void bench_connections(Rig& rig);
void bench_sessions(Rig& rig);

}  // namespace runbus::cli
