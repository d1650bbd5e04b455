#include "services/session/runsc_engine.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "services/session/engine_uid.h"
#include "services/session/rootfs.h"
#include "services/session/seccomp_policy.h"

namespace runbus::session {
namespace {

constexpr std::chrono::seconds kStartBound{20};
// In the sandbox.
constexpr const char* kSocketFolder = "/run/runbus/socket";
constexpr const char* kLogFolder = "/run/runbus/log";
constexpr const char* kProcessGroup = "/run/runbus/cgroup";
constexpr const char* kSeccompFile = "/run/runbus/seccomp";
constexpr const char* kSocketName = "agent.sock";
constexpr const char* kReadySuffix = ".ready";  // services/agent/README.md, --listen-path

Error errno_error(const std::string& what) {
  return make_error(ErrorCode::kInternal, {}, what + ": " + std::strerror(errno));
}

std::string socket_folder(const std::string& state_dir) { return state_dir + "/socket"; }

// The folder in which the agent makes its socket, empty and its own.
Result<void> make_socket_folder(const std::string& path, std::uint32_t owner) {
  for (const char* suffix : {"", kReadySuffix}) {
    ::unlink((path + "/" + kSocketName + suffix).c_str());
  }
  if ((::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) ||
      ::chown(path.c_str(), owner, owner) != 0) {
    return errno_error("making " + path);
  }
  return {};
}

// Tells when the agent listens: its last step makes a file in the folder.
class Readiness {
 public:
  explicit Readiness(std::string folder)
      : ready_(std::move(folder) + "/" + kSocketName + kReadySuffix),
        events_(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK)) {
    const std::string parent = ready_.substr(0, ready_.rfind('/'));
    if (events_ && ::inotify_add_watch(events_.get(), parent.c_str(), IN_CREATE) < 0) {
      events_.reset();
    }
  }

  Result<void> await(const ProcessId& sandbox, Deadline deadline) const {
    const UniqueFd process = sandbox.open();
    if (!events_) {
      return errno_error("watching for the agent's socket");
    }
    while (::access(ready_.c_str(), F_OK) != 0) {
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
          deadline - std::chrono::steady_clock::now());
      std::array<pollfd, 2> items{{{events_.get(), POLLIN, 0}, {process.get(), POLLIN, 0}}};
      if (!process || ::poll(items.data(), items.size(),
                             static_cast<int>(std::max<std::int64_t>(left.count(), 0))) == 0) {
        return process ? make_error(ErrorCode::kTimeout, "the sandbox did not start in time")
                       : make_error(ErrorCode::kInternal, {}, "the sandbox ended at once");
      }
      if (items[1].revents != 0) {
        return make_error(ErrorCode::kInternal, {}, "the sandbox ended before the agent listened");
      }
      std::array<char, 4096> discarded;
      while (::read(events_.get(), discarded.data(), discarded.size()) > 0) {
      }
    }
    return {};
  }

 private:
  std::string ready_;
  UniqueFd events_;
};

// From the folder that the sandbox writes into to where workers look, out of its reach; what is
// taken is a socket and no link to one.
Result<void> take_socket(const std::string& folder, const std::string& to) {
  struct stat status {};
  if (::rename((folder + "/" + kSocketName).c_str(), to.c_str()) != 0 ||
      ::lstat(to.c_str(), &status) != 0) {
    return errno_error("taking the agent's socket");
  }
  if (!S_ISSOCK(status.st_mode)) {
    ::unlink(to.c_str());
    return make_error(ErrorCode::kInternal, {}, "the agent's socket is none");
  }
  return {};
}

}  // namespace

std::string RunscEngine::missing() {
  if (std::string reason = OciEngine::missing(); !reason.empty()) {
    return reason;
  }
  if (!as_root()) {
    return "runsc makes sandboxes with limits as root alone: start runbus as root, or use crun.";
  }
  return {};
}

Probe RunscEngine::probe() {
  Probe probe = OciEngine::probe();
  if (probe.works) {
    probe.enforced["pids"] = "cgroup";  // gVisor's own
    probe.why.erase("pids");
  }
  return probe;
}

std::uint32_t RunscEngine::log_owner(const Start& start) const {
  (void)start;
  return agent_id();
}

// gVisor's own bound comes first; it ends when it meets this one. Its ptrace platform makes a task
// for each process and thread of its own that ran it (14 a process were seen).
std::uint32_t RunscEngine::host_tasks(std::uint32_t processes) const {
  return 64 * processes + 1024;
}

std::vector<std::string> RunscEngine::agent_command(const SandboxSpec& spec) const {
  return {kAgentPath,        "--listen-path", std::string(kSocketFolder) + "/" + kSocketName,
          "--log-dir",       kLogFolder,      "--workspace",
          "/workspace",      "--processes",   std::to_string(spec.limits.processes),
          "--process-group", kProcessGroup};
}

std::string RunscEngine::check_probe_output(const std::string& log) const {
  if (!has_line(log, "end") || !has_line(log, "writable")) {
    return explain(log);
  }
  if (!has_line(log, "pid 1") || has_line(log, "mounted") ||
      !has_line(log, "CapEff:\t0000000000000000") || !has_line(log, "CapBnd:\t0000000000000000")) {
    return "a trial sandbox started, but without its full protection (process namespace, no "
           "privileges)";
  }
  const std::string host = read_small_file("/proc/version");
  if (host.empty() || log.find(host.substr(0, host.find('\n'))) != std::string::npos) {
    return "a trial sandbox sees the host's kernel";
  }
  return {};
}

// Else it is the trial's shell.
bool RunscEngine::is_agent(const Start& start) { return start.command[0] == kAgentPath; }

// What the agent has besides: its users, its folders (the logs' one by way of `logs`), and
// privileges, which it gives up before it listens.
Result<void> RunscEngine::add_agent(const Start& start, const std::string& logs, Bundle& bundle,
                                    Launch& launch) const {
  const SandboxSpec& spec = start.spec;
  bundle.user = 0;
  bundle.capabilities = {"CAP_SETUID", "CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"};
  Result<std::string> filter = seccomp_program();
  if (!filter) {
    return filter.error();
  }
  bundle.view.files.emplace_back(kSeccompFile, std::move(*filter));
  const std::string users = std::to_string(agent_id()) + ":" + std::to_string(start.uid);
  bundle.command.insert(bundle.command.end(), {"--users", users, "--seccomp", kSeccompFile});
  bundle.writable = {{socket_folder(spec.state_dir), kSocketFolder}};
  if (spec.log_dir_fd < 0) {
    return {};
  }
  // By its name: a descriptor from another mount namespace cannot be bound.
  std::error_code failure;
  const auto name =
      std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(spec.log_dir_fd), failure);
  if (failure) {
    return make_error(ErrorCode::kInternal, {}, "the log folder: " + failure.message());
  }
  launch.mounts.push_back({MountStep::Kind::kDirectory, {}, logs});
  launch.mounts.push_back({MountStep::Kind::kBind, name.string(), logs});
  bundle.writable.emplace_back(logs, kLogFolder);
  return {};
}

Result<void> RunscEngine::make_bundle(const Start& start, Launch& launch) const {
  using Kind = MountStep::Kind;
  const SandboxSpec& spec = start.spec;
  Result<Rootfs> view = describe_rootfs(options().rootfs, spec.network, start.uid);
  if (!view) {
    return view.error();
  }
  const std::string stage = std::string(kRuntimeDir) + "/stage";
  if (::mkdir(stage.c_str(), 0755) != 0 && errno != EEXIST) {
    return errno_error("mkdir " + stage);
  }
  Bundle bundle;
  bundle.own_kernel = true;
  bundle.command = start.command;
  bundle.rootfs = stage + "/rootfs";
  bundle.generated = stage + "/files";
  bundle.workspace = stage + "/workspace";
  bundle.agent = spec.agent;
  bundle.limits = spec.limits;
  bundle.resource_limits = resource_limits(spec.limits);
  bundle.view = std::move(*view);
  bundle.new_network = !spec.network;
  bundle.user = bundle.group = start.uid;
  launch.mounts = {{Kind::kTmpfs, {}, stage},
                   {Kind::kDirectory, {}, bundle.workspace},
                   start.mount_workspace(bundle.workspace)};
  if (is_agent(start)) {
    if (Result<void> added = add_agent(start, stage + "/log", bundle, launch); !added) {
      return added;
    }
  }
  const std::vector<MountStep> points =
      mount_points(bundle.view, bundle.rootfs, bundle.generated,
                   {kSocketFolder, kLogFolder, kProcessGroup, "/sys"});
  launch.mounts.insert(launch.mounts.end(), points.begin(), points.end());
  return write_bundle(bundle, spec.state_dir + "/bundle");
}

Result<void> RunscEngine::start(Start& start) {
  const SandboxSpec& spec = start.spec;
  const bool agent = is_agent(start);
  const std::string folder = socket_folder(spec.state_dir);
  if (agent) {
    if (spec.listen_path.empty()) {
      return make_error(ErrorCode::kInternal, {}, "runsc needs SandboxSpec::listen_path");
    }
    if (Result<void> made = make_socket_folder(folder, agent_id()); !made) {
      return made;
    }
  }
  Launch launch;
  if (Result<void> made = make_bundle(start, launch); !made) {
    return made;
  }
  start.state.runtime = program();
  start.state.runtime_root = spec.state_dir + "/runsc";
  const std::string pid_file = spec.state_dir + "/sandbox.pid";
  ::unlink(pid_file.c_str());
  launch.argv = {program(),
                 "--root",
                 start.state.runtime_root,
                 "--ignore-cgroups",
                 "--host-uds=all",
                 spec.network ? "--network=host" : "--network=none",
                 "run",
                 "--detach",
                 "--pid-file",
                 pid_file,
                 "--bundle",
                 spec.state_dir + "/bundle",
                 id_of(start.state)};
  launch.environment = sandbox_environment();
  launch.descriptors = {-1, start.log.get(), start.log.get()};
  launch.cgroups = start.join_descriptors();
  const Readiness readiness(folder);
  const Deadline deadline = std::chrono::steady_clock::now() + kStartBound;
  if (Result<void> ran = run_runtime(start, launch, pid_file, deadline); !ran || !agent) {
    return ran;
  }
  if (Result<void> ready = readiness.await(start.state.first, deadline); !ready) {
    return ready;
  }
  return take_socket(folder, spec.listen_path);
}

}  // namespace runbus::session
