#include "services/session/bubblewrap_engine.h"

#include <fcntl.h>
#include <poll.h>
#include <rapidjson/document.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "services/session/doctor.h"
#include "services/session/engine_uid.h"
#include "services/session/rootfs.h"
#include "services/session/seccomp_policy.h"

namespace runbus::session {
namespace {

constexpr std::chrono::seconds kStartBound{10};

Error errno_error(const std::string& what) {
  return make_error(ErrorCode::kInternal, {}, what + ": " + std::strerror(errno));
}

Result<UniqueFd> file_with(const std::string& content) {
  UniqueFd file(::memfd_create("content", MFD_CLOEXEC));
  if (!file ||
      ::write(file.get(), content.data(), content.size()) != static_cast<ssize_t>(content.size()) ||
      ::lseek(file.get(), 0, SEEK_SET) != 0) {
    return errno_error("an anonymous file");
  }
  return file;
}

// bwrap's command line under construction, with the descriptors it names.
class Arguments {
 public:
  explicit Arguments(std::vector<int> descriptors) : descriptors_(std::move(descriptors)) {}

  Arguments& add(std::initializer_list<std::string> words) {
    words_.insert(words_.end(), words);
    return *this;
  }
  // The number that `fd` will have in bwrap.
  std::string pass(int fd) {
    descriptors_.push_back(fd);
    return std::to_string(descriptors_.size() - 1);
  }
  Result<void> add_file(const std::string& path, const std::string& content) {
    Result<UniqueFd> file = file_with(content);
    if (!file) {
      return file.error();
    }
    add({"--ro-bind-data", pass(file->get()), path});
    files_.push_back(std::move(*file));
    return {};
  }
  const std::vector<std::string>& words() const { return words_; }
  const std::vector<int>& descriptors() const { return descriptors_; }

 private:
  std::vector<std::string> words_;
  std::vector<int> descriptors_;
  std::vector<UniqueFd> files_;
};

void add_namespaces(Arguments& arguments, bool network) {
  arguments.add({"--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts",
                 "--unshare-cgroup-try"});
  if (!network) {
    arguments.add({"--unshare-net"});
  }
  const std::string id = std::to_string(kSandboxUid);
  arguments.add({"--uid", id, "--gid", id, "--hostname", "runbus", "--new-session", "--as-pid-1",
                 "--cap-drop", "ALL"});
}

Result<void> add_rootfs(Arguments& arguments, const Rootfs& rootfs) {
  for (const auto& [source, path] : rootfs.binds) {
    arguments.add({"--ro-bind", source, path});
  }
  for (const auto& [path, target] : rootfs.links) {
    arguments.add({"--symlink", target, path});
  }
  for (const auto& [path, content] : rootfs.files) {
    if (Result<void> added = arguments.add_file(path, content); !added) {
      return added;
    }
  }
  return {};
}

// bwrap's /dev is a tmpfs without a size, so it is read-only but for what is mounted on it.
void add_file_systems(Arguments& arguments, const Limits& limits, bool own_var) {
  const std::string size = std::to_string(std::max<std::uint64_t>(limits.tmp, 4096));
  arguments.add({"--proc", "/proc", "--dev", "/dev"});
  arguments.add({"--perms", "1777", "--size", size, "--tmpfs", "/dev/shm"});
  arguments.add({"--mqueue", "/dev/mqueue", "--remount-ro", "/dev"});
  arguments.add({"--perms", "1777", "--size", size, "--tmpfs", "/tmp"});
  if (own_var) {
    arguments.add({"--dir", "/var", "--symlink", "/tmp", "/var/tmp"});
  }
}

// As root the workspace and the agent may lie below folders that the session's uid cannot enter:
// they are bound into a small folder that it can, in bwrap's own mount namespace.
std::vector<MountStep> staging(const std::string& folder, MountStep workspace,
                               const std::string& agent) {
  using Kind = MountStep::Kind;
  return {{Kind::kTmpfs, {}, folder},
          {Kind::kDirectory, {}, folder + "/workspace"},
          std::move(workspace),
          {Kind::kFile, {}, folder + "/agent"},
          {Kind::kBind, agent, folder + "/agent"}};
}

// bwrap writes one JSON object and then a newline.
Result<pid_t> read_child_pid(int fd, Deadline deadline) {
  std::string text;
  char buffer[1024];
  while (text.find('}') == std::string::npos && text.size() < 4096) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        deadline - std::chrono::steady_clock::now());
    pollfd item{fd, POLLIN, 0};
    const int ready = ::poll(&item, 1, static_cast<int>(std::max<std::int64_t>(left.count(), 0)));
    const ssize_t got = ready > 0 ? ::read(fd, buffer, sizeof buffer) : 0;
    if (got <= 0) {
      break;
    }
    text.append(buffer, static_cast<std::size_t>(got));
  }
  rapidjson::Document document;
  document.Parse<rapidjson::kParseStopWhenDoneFlag>(text.c_str(), text.size());
  if (document.HasParseError() || !document.IsObject() || !document.HasMember("child-pid") ||
      !document["child-pid"].IsInt()) {
    return make_error(ErrorCode::kInternal, {}, "bwrap did not start its child");
  }
  return document["child-pid"].GetInt();
}

}  // namespace

BubblewrapEngine::BubblewrapEngine(EngineOptions options)
    : LocalEngine(std::move(options)), bwrap_(find_program("bwrap")) {}

std::string BubblewrapEngine::missing() {
  return bwrap_.empty() ? missing_program("bwrap", "bubblewrap") : std::string();
}

std::string BubblewrapEngine::explain(const std::string& log) const {
  return explain_sandbox_failure("bubblewrap", inspect_machine(), log);
}

Result<void> BubblewrapEngine::start(Start& start) {
  const SandboxSpec& spec = start.spec;
  const Result<Rootfs> rootfs = describe_rootfs(options().rootfs, spec.network);
  if (!rootfs) {
    return rootfs.error();
  }
  const Result<UniqueFd> seccomp = seccomp_file();
  if (!seccomp) {
    return seccomp.error();
  }
  int info[2];
  if (::pipe2(info, O_CLOEXEC) != 0) {
    return errno_error("pipe");
  }
  const UniqueFd info_read(info[0]);
  UniqueFd info_write(info[1]);

  Launch launch;
  std::string workspace = spec.workspace;
  std::string agent = spec.agent;
  if (as_root()) {
    const std::string stage = std::string(kRuntimeDir) + "/stage";
    if (::mkdir(stage.c_str(), 0755) != 0 && errno != EEXIST) {
      return errno_error("mkdir " + stage);
    }
    launch.mounts = staging(stage, start.mount_workspace(stage + "/workspace"), spec.agent);
    launch.identity = start.uid;
    workspace = stage + "/workspace";
    agent = stage + "/agent";
  }
  Arguments arguments(start.descriptors());
  arguments.add({bwrap_});
  add_namespaces(arguments, spec.network);
  if (Result<void> added = add_rootfs(arguments, *rootfs); !added) {
    return added;
  }
  const bool image_has_var = std::any_of(rootfs->binds.begin(), rootfs->binds.end(),
                                         [](const auto& bind) { return bind.second == "/var"; });
  add_file_systems(arguments, spec.limits, !image_has_var);
  arguments.add(
      {"--bind", workspace, "/workspace", "--ro-bind", agent, kAgentPath, "--chdir", "/workspace"});
  arguments.add(
      {"--seccomp", arguments.pass(seccomp->get()), "--info-fd", arguments.pass(info_write.get())});
  arguments.add({"--remount-ro", "/", "--"});
  launch.argv = arguments.words();
  launch.limits = resource_limits(spec.limits);
  if (as_root()) {
    // Counted by uid, and the uid is this session's alone. Two are bwrap's.
    launch.limits.emplace_back(RLIMIT_NPROC, spec.limits.processes + 2);
  } else if (!room().has("pids")) {
    // Before bwrap it would count all that this user runs; in its user namespace it counts the
    // sandbox's own.
    const std::string count = std::to_string(spec.limits.processes);
    launch.argv.insert(launch.argv.end(), {"/usr/bin/prlimit", "--nproc=" + count + ":" + count});
  }
  launch.argv.insert(launch.argv.end(), start.command.begin(), start.command.end());
  launch.environment = sandbox_environment();
  launch.descriptors = arguments.descriptors();
  launch.cgroups = start.join_descriptors();

  const Result<ProcessId> monitor = start_program(launch, [&start](ProcessId process) {
    start.state.monitor = process;
    return start.record();
  });
  if (!monitor) {
    return monitor.error();
  }
  info_write.reset();
  const Deadline deadline = std::chrono::steady_clock::now() + kStartBound;
  const Result<pid_t> child = read_child_pid(info_read.get(), deadline);
  if (!child) {
    return child.error();
  }
  start.state.first = ProcessId::of(*child);
  return await_exec(start, deadline);
}

}  // namespace runbus::session
