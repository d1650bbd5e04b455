#include "services/session/cgroup.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <sstream>
#include <utility>

namespace runbus::session {
namespace {

constexpr std::uint64_t kCpuPeriod = 100000;  // microseconds

Result<void> write_file(const std::string& path, const std::string& value) {
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd || ::write(fd.get(), value.data(), value.size()) != static_cast<ssize_t>(value.size())) {
    return make_error(ErrorCode::kInternal, {},
                      "writing " + value + " to " + path + ": " + std::strerror(errno));
  }
  return {};
}

bool exists(const std::string& path) { return ::access(path.c_str(), F_OK) == 0; }

// A bounded breath between looks at something the kernel gives no event for.
void breathe() { ::poll(nullptr, 0, 1); }

bool passed(Deadline deadline) { return std::chrono::steady_clock::now() >= deadline; }

std::vector<pid_t> members(const std::string& folder) {
  std::vector<pid_t> pids;
  std::istringstream list(read_small_file(folder + "/cgroup.procs"));
  for (pid_t pid = 0; list >> pid;) {
    if (pid > 0) {
      pids.push_back(pid);
    }
  }
  return pids;
}

// The value after "`name` " in such lines.
std::uint64_t keyed_value(std::string text, const std::string& name) {
  std::istringstream lines(std::move(text));
  std::string key;
  std::uint64_t value = 0;
  while (lines >> key >> value) {
    if (key == name) {
      return value;
    }
  }
  return 0;
}

std::string cpu_quota(double cpus) {
  return std::to_string(std::max<std::uint64_t>(
      1000, static_cast<std::uint64_t>(cpus * static_cast<double>(kCpuPeriod))));
}

using Settings = std::vector<std::pair<std::string, std::string>>;  // file name → value

Settings settings_v1(const CgroupLimits& limits) {
  Settings settings;
  if (limits.memory > 0) {
    settings.emplace_back("memory.limit_in_bytes", std::to_string(limits.memory));
    settings.emplace_back("memory.memsw.limit_in_bytes", std::to_string(limits.memory));
  }
  if (limits.processes > 0) {
    settings.emplace_back("pids.max", std::to_string(limits.processes));
  }
  if (limits.cpus > 0) {
    settings.emplace_back("cpu.cfs_period_us", std::to_string(kCpuPeriod));
    settings.emplace_back("cpu.cfs_quota_us", cpu_quota(limits.cpus));
  }
  return settings;
}

Settings settings_v2(const CgroupLimits& limits) {
  Settings settings;
  if (limits.memory > 0) {
    settings.emplace_back("memory.max", std::to_string(limits.memory));
    settings.emplace_back("memory.swap.max", "0");
  }
  if (limits.processes > 0) {
    settings.emplace_back("pids.max", std::to_string(limits.processes));
  }
  if (limits.cpus > 0) {
    settings.emplace_back("cpu.max", cpu_quota(limits.cpus) + " " + std::to_string(kCpuPeriod));
  }
  return settings;
}

// What keeps a group from being frozen, for the log: each member's state and where it waits in the
// kernel.
Error not_frozen(const std::string& folder) {
  std::string who;
  for (const pid_t pid : members(folder)) {
    const std::string stat = read_proc(pid, "stat");
    const std::size_t name_end = stat.rfind(')');
    who += " " + std::to_string(pid) + "=" +
           (name_end + 2 < stat.size() ? stat.substr(name_end + 2, 1) : "gone") + "," +
           read_proc(pid, "wchan");
  }
  return make_error(ErrorCode::kTimeout, "the sandbox did not freeze in time", folder + ":" + who);
}

// The kernel asks each process once. One that is in vfork() just then goes on to wait for its
// child, which is frozen, in a sleep that the request does not end: the group stays FREEZING. Asked
// again, the sleeper counts as frozen where it is; so the state is written until it is reached.
Result<void> freeze_v1(const std::string& folder, Deadline deadline) {
  const std::string state = folder + "/freezer.state";
  for (;;) {
    if (Result<void> written = write_file(state, "FROZEN"); !written) {
      return written;
    }
    if (read_small_file(state).starts_with("FROZEN")) {
      return {};
    }
    if (passed(deadline)) {
      Error error = not_frozen(folder);
      (void)write_file(state, "THAWED");  // half frozen is of no use to anybody
      return error;
    }
    breathe();
  }
}

Result<void> freeze_v2(const std::string& folder, Deadline deadline) {
  if (Result<void> written = write_file(folder + "/cgroup.freeze", "1"); !written) {
    return written;
  }
  while (keyed_value(read_small_file(folder + "/cgroup.events"), "frozen") != 1) {
    if (passed(deadline)) {
      Error error = not_frozen(folder);
      (void)write_file(folder + "/cgroup.freeze", "0");
      return error;
    }
    breathe();
  }
  return {};
}

// The files that a folder has decide: with each version 1 hierarchy only its own, and those of swap
// accounting only where the kernel was built with it.
Result<void> apply(const std::string& folder, const Settings& settings) {
  for (const auto& [name, value] : settings) {
    const std::string path = folder + "/" + name;
    if (exists(path)) {
      if (Result<void> written = write_file(path, value); !written) {
        return written;
      }
    }
  }
  return {};
}

}  // namespace

Result<Cgroup> CgroupRoom::create(const std::string& key, const CgroupLimits& limits) const {
  Cgroup group;
  group.version = bases.empty() ? 0 : version;
  const Settings settings = version == 2 ? settings_v2(limits) : settings_v1(limits);
  for (const auto& [controller, base] : bases) {
    const std::string folder = base + "/" + key;
    if (std::find(group.folders.begin(), group.folders.end(), folder) != group.folders.end()) {
      continue;  // "cpu,cpuacct" and version 2 serve several controllers
    }
    Result<void> made;
    if (::mkdir(folder.c_str(), 0755) != 0 && errno != EEXIST) {
      made = make_error(ErrorCode::kInternal, {}, "mkdir " + folder + ": " + std::strerror(errno));
    } else {
      group.folders.push_back(folder);
      made = apply(folder, settings);
    }
    if (!made) {
      // The first failure is the one to report.
      (void)group.remove(std::chrono::steady_clock::now() + std::chrono::seconds(1));
      return made.error();
    }
  }
  return group;
}

Result<std::vector<UniqueFd>> Cgroup::join_files() const {
  std::vector<UniqueFd> files;
  for (const std::string& folder : folders) {
    files.emplace_back(::open((folder + "/cgroup.procs").c_str(), O_WRONLY | O_CLOEXEC));
    if (!files.back()) {
      return make_error(ErrorCode::kInternal, {},
                        "opening " + folder + "/cgroup.procs: " + std::strerror(errno));
    }
  }
  return files;
}

Result<void> Cgroup::freeze(Deadline deadline) const {
  for (const std::string& folder : folders) {
    if (version == 1 && exists(folder + "/freezer.state")) {
      return freeze_v1(folder, deadline);
    }
    if (version == 2) {
      return freeze_v2(folder, deadline);
    }
  }
  return make_error(ErrorCode::kUnavailable, "this machine has no cgroup freezer to pause with");
}

Result<void> Cgroup::thaw() const {
  for (const std::string& folder : folders) {
    if (version == 2) {
      return write_file(folder + "/cgroup.freeze", "0");
    }
    if (exists(folder + "/freezer.state")) {
      return write_file(folder + "/freezer.state", "THAWED");
    }
  }
  return make_error(ErrorCode::kUnavailable, "this machine has no cgroup freezer to pause with");
}

void Cgroup::kill() const {
  if (folders.empty()) {
    return;
  }
  if (version == 2 && write_file(folders[0] + "/cgroup.kill", "1")) {
    return;
  }
  // Frozen first, so that a fork bomb cannot outrun the signals; frozen processes die when thawed.
  // Where freezing fails the signals are still sent, and remove() sends them again.
  (void)freeze(std::chrono::steady_clock::now() + std::chrono::milliseconds(500));
  for (const std::string& folder : folders) {
    for (const pid_t pid : members(folder)) {
      ::kill(pid, SIGKILL);
    }
  }
  (void)thaw();
}

OomCounter Cgroup::oom_counter() const {
  for (const std::string& folder : folders) {
    const std::string path = folder + (version == 2 ? "/memory.events" : "/memory.oom_control");
    if (UniqueFd file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)}) {
      return OomCounter(std::move(file));
    }
  }
  return {};
}

std::uint64_t OomCounter::kills() {
  std::array<char, 1024> text{};
  const ssize_t size = file_ ? ::pread(file_.get(), text.data(), text.size(), 0) : 0;
  if (size > 0) {
    last_ = keyed_value(std::string(text.data(), static_cast<std::size_t>(size)), "oom_kill");
  }
  return last_;
}

Result<void> Cgroup::remove(Deadline deadline) const {
  for (const std::string& folder : folders) {
    while (::rmdir(folder.c_str()) != 0 && errno != ENOENT) {
      if (errno != EBUSY || passed(deadline)) {
        return make_error(ErrorCode::kTimeout, "the sandbox's cgroup could not be removed",
                          "rmdir " + folder + ": " + std::strerror(errno));
      }
      for (const pid_t pid : members(folder)) {
        ::kill(pid, SIGKILL);
      }
      breathe();
    }
  }
  return {};
}

}  // namespace runbus::session
