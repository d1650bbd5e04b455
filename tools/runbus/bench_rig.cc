#include "tools/runbus/bench_rig.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/asio/steady_timer.hpp>
#include <cerrno>
#include <csignal>
#include <sstream>
#include <stdexcept>

#include "proto/wire/transcoder.h"
#include "tools/runbus/commands.h"
#include "tools/runbus/files.h"

namespace runbus::cli {
namespace {

using std::chrono::seconds;

constexpr seconds kConnectBound{20};
constexpr seconds kMeasureBound{120};
constexpr std::size_t kMaxLine = 65536;

// Waits up to `bound` for the process to end by itself.
bool wait_for_end(pid_t pid, seconds bound) {
  const auto deadline = BenchClock::now() + bound;
  const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  while (::waitpid(pid, nullptr, WNOHANG) == 0) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - BenchClock::now());
    if (left.count() <= 0) {
      return false;
    }
    pollfd polled{process.get(), POLLIN, 0};
    ::poll(&polled, 1, static_cast<int>(left.count()));
  }
  return true;
}

Result<std::string> read_line(int fd, seconds bound) {
  const auto deadline = BenchClock::now() + bound;
  std::string line;
  while (line.size() < kMaxLine) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - BenchClock::now());
    pollfd polled{fd, POLLIN, 0};
    if (left.count() <= 0 || ::poll(&polled, 1, static_cast<int>(left.count())) == 0) {
      return failure("was not ready in time");
    }
    char byte = 0;
    const ssize_t count = ::read(fd, &byte, 1);
    if (count == 0) {
      return failure("ended before it was ready");
    }
    if (count == 1 && byte == '\n') {
      return line;
    }
    if (count == 1) {
      line.push_back(byte);
    }
  }
  return failure("said too much");
}

// With the environment that a run has and nothing of ours: what is set here (certificates to load,
// say) would be measured along.
pid_t spawn_quietly(const std::vector<std::string>& argv) {
  std::array<std::string, 3> environment = {"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/tmp",
                                            "LANG=C.UTF-8"};
  std::array<char*, 4> variables{};
  std::transform(environment.begin(), environment.end(), variables.begin(),
                 [](std::string& variable) { return variable.data(); });
  std::vector<char*> pointers;
  for (const std::string& argument : argv) {
    pointers.push_back(const_cast<char*>(argument.c_str()));
  }
  pointers.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
  pid_t pid = -1;
  const int error =
      ::posix_spawn(&pid, pointers[0], &actions, nullptr, pointers.data(), variables.data());
  ::posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    throw std::runtime_error(failure_of_system("cannot start " + argv.front(), error).detail);
  }
  return pid;
}

void check_ended_well(const std::vector<std::string>& argv, int status) {
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    throw std::runtime_error(argv.front() + " failed");
  }
}

}  // namespace

Result<Helper> Helper::start(ChildSpec spec, seconds bound) {
  std::array<int, 2> ends{-1, -1};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
    return failure_of_system("pipe", errno);
  }
  UniqueFd output(ends[0]);
  UniqueFd input(ends[1]);
  if (!spec.reports_ready) {
    spec.stdout_fd = input.get();
  }
  Result<Child> child = spawn(spec);
  if (!child) {
    return child.error();
  }
  input.reset();
  if (spec.reports_ready) {
    output = std::move(child->ready);
  }
  Result<std::string> line = read_line(output.get(), bound);
  Helper helper(child->pid, std::move(output), line ? *line : std::string());
  if (!line) {
    return failure(spec.name + " " + line.error().detail);
  }
  return helper;
}

Helper::Helper(Helper&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      output_(std::move(other.output_)),
      line_(std::move(other.line_)) {}

Helper::~Helper() {
  if (pid_ < 0) {
    return;
  }
  ::kill(pid_, SIGTERM);
  if (!wait_for_end(pid_, seconds(30))) {
    ::kill(-pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
}

Line::Line(const GatewayAddress& gateway, Client::Events events)
    : client(std::make_unique<Client>(io, std::move(events))) {
  if (const Result<void> connected = client->connect(gateway, kConnectBound); !connected) {
    throw std::runtime_error(describe(connected.error()));
  }
}

Rate measure(boost::asio::io_context& io, int in_flight, int count,
             const std::function<void(std::function<void(const Error*)> done)>& begin) {
  struct State {
    int begun = 0;
    int ended = 0;
    std::vector<double> samples;
    std::string error;
    std::function<void()> one;
  };
  const auto state = std::make_shared<State>();
  state->samples.reserve(static_cast<std::size_t>(count));
  const std::weak_ptr<State> weak = state;
  state->one = [weak, count, &begin, &io] {
    const std::shared_ptr<State> now = weak.lock();
    if (!now || now->begun == count || !now->error.empty()) {
      return;
    }
    ++now->begun;
    begin([weak, count, &io, start = BenchClock::now()](const Error* error) {
      if (const std::shared_ptr<State> then = weak.lock()) {
        then->samples.push_back(seconds_since(start));
        ++then->ended;
        if (error != nullptr) {
          then->error = describe(*error);
        }
        if (error != nullptr || then->ended == count) {
          io.stop();
        }
        then->one();
      }
    });
  };
  const auto start = BenchClock::now();
  boost::asio::steady_timer bound(io, kMeasureBound);
  bound.async_wait([&io](const boost::system::error_code& error) {
    if (!error) {
      io.stop();
    }
  });
  for (int i = 0; i < in_flight; ++i) {
    state->one();
  }
  // Not turn by turn with a look at the clock in between, as run_until() does: it would be
  // measured.
  io.restart();
  io.run();
  const bool done = state->ended == count;
  const double took = seconds_since(start);
  if (!state->error.empty() || !done) {
    throw std::runtime_error(state->error.empty() ? "took longer than two minutes" : state->error);
  }
  Rate rate;
  rate.per_second = count / took;
  rate.p50 = percentile(state->samples, 0.5);
  rate.p99 = percentile(state->samples, 0.99);
  return rate;
}

Rate measure_calls(Line& line, const std::string& method, const std::string& params, int in_flight,
                   int count) {
  return measure(line.io, in_flight, count, [&](std::function<void(const Error*)> done) {
    line.client->call(method, params,
                      [done = std::move(done)](const Result<const rapidjson::Value*>& reply) {
                        if (reply) {
                          done(nullptr);
                        } else {
                          const Error error = reply.error();
                          done(&error);
                        }
                      });
  });
}

double run_cold(const std::vector<std::string>& argv) {
  const auto start = BenchClock::now();
  const pid_t pid = spawn_quietly(argv);
  int status = 0;
  ::waitpid(pid, &status, 0);
  const double took = seconds_since(start);
  check_ended_well(argv, status);
  return took;
}

double cold_rate(const std::vector<std::string>& argv, int at_once, int count) {
  const auto start = BenchClock::now();
  std::vector<pid_t> running;
  for (int begun = 0; begun < count || !running.empty();) {
    if (begun < count && running.size() < static_cast<std::size_t>(at_once)) {
      running.push_back(spawn_quietly(argv));
      ++begun;
      continue;
    }
    int status = 0;
    const pid_t pid = ::waitpid(-1, &status, 0);
    if (std::erase(running, pid) > 0) {
      check_ended_well(argv, status);
    }
  }
  return count / seconds_since(start);
}

std::vector<pid_t> children_of(pid_t parent) {
  const std::string id = std::to_string(parent);
  const Result<std::string> children =
      read_file("/proc/" + id + "/task/" + id + "/children", 65536);
  std::istringstream words(children ? *children : std::string());
  std::vector<pid_t> pids;
  for (pid_t pid = 0; words >> pid;) {
    pids.push_back(pid);
  }
  return pids;
}

std::string code_params(const std::string& language, const std::string& code,
                        const std::string& more) {
  std::string json = "{\"language\":";
  wire::append_json_string(language, json);
  json += ",\"code\":";
  wire::append_json_string(code, json);
  return json + more + "}";
}

}  // namespace runbus::cli
