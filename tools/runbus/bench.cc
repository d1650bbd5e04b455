#include "tools/runbus/bench.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <sstream>
#include <stdexcept>
#include <thread>
#include <utility>

#include "tools/runbus/bench_report.h"
#include "tools/runbus/bench_rig.h"
#include "tools/runbus/commands.h"
#include "tools/runbus/files.h"

namespace runbus::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::seconds kUpBound{180};
constexpr std::chrono::seconds kQuietBound{10};
constexpr std::chrono::milliseconds kQuietSample{100};

using Group = std::pair<const char*, void (*)(Rig&)>;
constexpr std::array<Group, 6> kGroups{{{"echo", bench_echo},
                                        {"execute", bench_execute},
                                        {"stream", bench_stream},
                                        {"events", bench_events},
                                        {"connections", bench_connections},
                                        {"sessions", bench_sessions}}};

// A directory under /tmp that goes with this object.
class Scratch {
 public:
  Scratch() {
    std::string pattern = "/tmp/runbus-bench-XXXXXX";
    if (::mkdtemp(pattern.data()) == nullptr) {
      throw std::runtime_error("cannot make a directory in /tmp");
    }
    path_ = pattern;
  }
  ~Scratch() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// The child of `parent` whose program is `name`, or -1.
pid_t find_child(pid_t parent, const std::string& name) {
  for (const pid_t pid : children_of(parent)) {
    const Result<std::string> command =
        read_file("/proc/" + std::to_string(pid) + "/cmdline", 65536);
    if (command && fs::path(command->substr(0, command->find('\0'))).filename() == name) {
      return pid;
    }
  }
  return -1;
}

// The measured system, started here: fills the rig.
Helper start_system(const BenchOptions& options, const std::string& state_dir, Rig& rig) {
  ChildSpec spec{.name = "runbus up",
                 .argv = {"/proc/self/exe", "up", "--json", "--listen", "127.0.0.1:0",
                          "--state-dir", state_dir},
                 .death_signal = SIGTERM};
  if (options.insecure) {
    spec.argv.emplace_back("--insecure");
  }
  if (!options.engine.empty()) {
    spec.argv.insert(spec.argv.end(), {"--engine", options.engine});
  }
  Result<Helper> up = Helper::start(std::move(spec), kUpBound);
  if (!up) {
    throw std::runtime_error(up.error().detail);
  }
  rapidjson::Document ready;
  ready.Parse(up->line().c_str());
  if (!ready.IsObject() || !ready.HasMember("url") || !ready.HasMember("broker") ||
      !ready["url"].IsString() || !ready["broker"].IsString()) {
    throw std::runtime_error("runbus up said " + up->line());
  }
  const Result<GatewayAddress> address = parse_gateway_url(ready["url"].GetString());
  if (!address) {
    throw std::runtime_error(address.error().detail);
  }
  rig.gateway = *address;
  rig.broker = ready["broker"].GetString();
  rig.up_pid = up->pid();
  rig.gateway_pid = find_child(up->pid(), "runbus-gateway");
  return std::move(*up);
}

// Time of the processors since the machine's start, in ticks: all, and that with nothing to do.
std::pair<double, double> processor_time() {
  const Result<std::string> stat = read_file("/proc/stat", 1U << 20U);
  std::istringstream line(stat ? stat->substr(0, stat->find('\n')) : std::string());
  std::string name;
  line >> name;
  double all = 0;
  double idle = 0;
  double ticks = 0;
  for (int field = 0; line >> ticks; ++field) {
    all += ticks;
    idle += field == 3 || field == 4 ? ticks : 0;  // idle, waiting for disks
  }
  return {all, idle};
}

// What was started for the measured system, its pool of sandboxes for one, is no part of the
// figures. Gives up on a machine that has other things to do.
void wait_for_quiet() {
  const auto deadline = BenchClock::now() + kQuietBound;
  auto before = processor_time();
  for (int quiet = 0; quiet < 3 && BenchClock::now() < deadline;) {
    std::this_thread::sleep_for(kQuietSample);
    const auto now = processor_time();
    const bool idle = now.second - before.second >= 0.9 * (now.first - before.first);
    quiet = idle ? quiet + 1 : 0;
    before = now;
  }
}

void run_groups(const BenchOptions& options, Rig& rig) {
  for (const auto& [name, group] : kGroups) {
    const std::vector<std::string>& only = options.only;
    if (!only.empty() && std::find(only.begin(), only.end(), name) == only.end()) {
      continue;
    }
    wait_for_quiet();
    std::fprintf(stderr, "runbus: measuring %s\n", name);
    try {
      group(rig);
    } catch (const std::exception& error) {
      rig.report.fail(name, error.what());
    }
  }
}

}  // namespace

int bench(const BenchOptions& options) {
  for (const std::string& name : options.only) {
    if (std::none_of(kGroups.begin(), kGroups.end(),
                     [&](const Group& group) { return name == group.first; })) {
      return complain(
          failure("no group '" + name + "': echo, execute, stream, events, connections, sessions"),
          2);
    }
  }
  const Scratch scratch;
  Report report;
  Rig rig{.gateway = {},
          .broker = {},
          .up_pid = -1,
          .gateway_pid = -1,
          .scratch = scratch.path(),
          .quick = options.quick,
          .report = report};
  if (!options.gateway.url.empty() || !options.gateway.state_dir.empty()) {
    const Result<GatewayAddress> address = find_gateway(options.gateway);
    if (!address) {
      return complain(address.error());
    }
    rig.gateway = *address;
    run_groups(options, rig);
  } else {
    const Helper up = start_system(options, scratch.path() + "/state", rig);
    run_groups(options, rig);
  }
  std::fputs((options.json ? report.json() : report.table()).c_str(), stdout);
  return report.failed() ? 1 : 0;
}

}  // namespace runbus::cli
