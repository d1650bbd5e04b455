#include "services/session/engine_local.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "services/session/doctor.h"
#include "services/session/engine_uid.h"
#include "services/session/rootfs.h"

namespace runbus::session {
namespace {

// Unmounting a workspace may have to write what was not written yet.
constexpr std::chrono::seconds kDestroyBound{20};
// Every process has to be scheduled once, on a machine that may be busy.
constexpr std::chrono::seconds kFreezeBound{10};
constexpr rlim_t kOpenFiles = 16384;

Deadline in(std::chrono::milliseconds time) { return std::chrono::steady_clock::now() + time; }

Error errno_error(const std::string& what) {
  return make_error(ErrorCode::kInternal, {}, what + ": " + std::strerror(errno));
}

// The log folder as a mount of its own, detached: ".." of it leads nowhere, so not even a
// taken-over agent reaches the host's folders through it. Needs root; else the folder itself.
UniqueFd detached(int folder) {
  UniqueFd tree(static_cast<int>(
      ::syscall(SYS_open_tree, folder, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH)));
  if (tree) {
    // An O_PATH descriptor cannot be read; open the folder through it.
    return UniqueFd(::openat(tree.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  }
  return UniqueFd(::fcntl(folder, F_DUPFD_CLOEXEC, 3));
}

}  // namespace

LocalEngine::LocalEngine(EngineOptions options)
    : options_(std::move(options)), room_(CgroupRoom::detect()), as_root_(::geteuid() == 0) {}

std::vector<std::string> LocalEngine::agent_command(const SandboxSpec& spec) const {
  return {is_boundary() ? kAgentPath : spec.agent,
          "--listen-fd",
          "3",
          "--log-dir-fd",
          "4",
          "--workspace",
          is_boundary() ? "/workspace" : spec.workspace};
}

std::vector<int> LocalEngine::Start::descriptors() const {
  return {-1, log.get(), log.get(), spec.listen_fd, log_dir.get()};
}

std::vector<int> LocalEngine::Start::join_descriptors() const {
  std::vector<int> files;
  for (const UniqueFd& file : join) {
    files.push_back(file.get());
  }
  return files;
}

MountStep LocalEngine::Start::mount_workspace(const std::string& target) const {
  MountStep step{MountStep::Kind::kBind, spec.workspace, target};
  if (!image.device.empty()) {
    step.kind = MountStep::Kind::kImage;
    step.source = image.device;
    step.owner = uid;
  }
  return step;
}

std::vector<std::pair<int, rlim_t>> LocalEngine::resource_limits(const Limits& limits) const {
  rlimit files{};
  ::getrlimit(RLIMIT_NOFILE, &files);
  rlimit size{};
  ::getrlimit(RLIMIT_FSIZE, &size);
  return {{RLIMIT_CORE, 0},
          {RLIMIT_NOFILE, std::min(files.rlim_max, kOpenFiles)},
          {RLIMIT_FSIZE, std::min<rlim_t>(size.rlim_max, limits.disk)}};
}

Result<void> LocalEngine::prepare(Start& start) {
  const SandboxSpec& spec = start.spec;
  start.state.engine = name();
  start.state.key = spec.key;
  start.log.reset(::open((spec.state_dir + "/sandbox.log").c_str(),
                         O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
  start.workspace.reset(
      ::open(spec.workspace.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
  if (!start.log || !start.workspace) {
    return errno_error("opening the log or the workspace in " + spec.state_dir);
  }
  if (as_root_ && is_boundary()) {
    start.uid = spec.uid;
    if (start.uid == 0) {
      // The range's first id is the oci engine's root in the sandbox, of no session.
      const Result<std::uint32_t> claimed =
          claim_uid(options_.first_uid + 1, options_.uid_count - 1, spec.key, spec.state_dir);
      if (!claimed) {
        return claimed.error();
      }
      start.uid = start.state.claimed_uid = *claimed;
    }
    const bool image = image_problem().empty();
    if (image) {
      Result<WorkspaceImage> made =
          make_workspace_image(spec.state_dir + "/workspace.img", spec.limits.disk);
      if (!made) {
        return made.error();
      }
      start.image = std::move(*made);
    }
    for (const auto& [folder, owner] : {std::pair(image ? -1 : start.workspace.get(), start.uid),
                                        std::pair(spec.log_dir_fd, log_owner(start))}) {
      if (const Result<void> given = folder < 0 ? Result<void>() : hand_over(folder, owner);
          !given) {
        return given.error();
      }
    }
  }
  if (spec.log_dir_fd >= 0) {
    start.log_dir = detached(spec.log_dir_fd);
  }
  const Result<Cgroup> group = room_.create(
      spec.key, {spec.limits.memory, host_tasks(spec.limits.processes), spec.limits.cpus});
  if (!group) {
    return group.error();
  }
  start.state.cgroup = *group;
  Result<std::vector<UniqueFd>> join = group->join_files();
  if (!join) {
    return join.error();
  }
  start.join = std::move(*join);
  return {};
}

// Its command line changes then, whatever the program calls itself later. There is no event for
// that, but there is one for its end.
Result<void> LocalEngine::await_exec(const Start& start, Deadline deadline) {
  const UniqueFd fd = start.state.first.open();
  const std::string wanted = start.command[0] + '\0';
  while (!read_proc(start.state.first.pid, "cmdline").starts_with(wanted)) {
    pollfd item{fd.get(), POLLIN, 0};
    if (!fd || ::poll(&item, 1, 1) > 0) {
      return make_error(ErrorCode::kInternal, {},
                        "the sandbox's first process ended before the agent ran");
    }
    if (std::chrono::steady_clock::now() >= deadline) {
      return make_error(ErrorCode::kTimeout, "the sandbox did not start in time");
    }
  }
  return {};
}

Result<Sandbox> LocalEngine::create_with(const SandboxSpec& spec,
                                         std::vector<std::string> command) {
  if (alive(spec.state_dir)) {
    return make_error(ErrorCode::kConflict, "the session has a running sandbox already");
  }
  if (Result<void> cleared = destroy(spec.state_dir); !cleared) {
    return cleared.error();
  }
  Start begun{.spec = spec,
              .command = std::move(command),
              .workspace = {},
              .image = {},
              .log_dir = {},
              .log = {},
              .join = {},
              .state = {}};
  Result<void> done = prepare(begun);
  // Recorded before anything runs: whatever happens to this process, destroy() finds the rest.
  const Result<void> recorded = begun.record();
  if (done && !recorded) {
    done = recorded;
  }
  if (done) {
    done = start(begun);
  }
  if (done && begun.state.first.start_time == 0) {
    done = make_error(ErrorCode::kInternal, {}, "the sandbox's first process ended at once");
  }
  if (done) {
    done = begun.record();
  }
  if (!done) {
    Error error = done.error();
    if (const std::string said = last_lines(read_small_file(spec.state_dir + "/sandbox.log"));
        !said.empty()) {
      error.internal += "; the last words: " + said;
    }
    if (const Result<void> undone = destroy(spec.state_dir); !undone) {
      error.internal += "; undoing it: " + to_string(undone.error());
    }
    return error;
  }
  return Sandbox{spec.key, spec.state_dir, begun.state.first.pid};
}

Result<Sandbox> LocalEngine::create(const SandboxSpec& spec) {
  std::vector<std::string> command = agent_command(spec);
  command.insert(command.end(), spec.agent_args.begin(), spec.agent_args.end());
  return create_with(spec, std::move(command));
}

Result<void> LocalEngine::destroy(const std::string& state_dir) {
  const Result<EngineState> loaded = EngineState::load(state_dir);
  if (!loaded) {
    EngineState::remove(state_dir);
    return {};
  }
  const EngineState& state = *loaded;
  const Deadline deadline = in(kDestroyBound);
  // A worker that died between bwrap's start and its second record knows only the monitor.
  std::vector<ProcessId> processes{state.first, state.monitor};
  for (const pid_t pid : state.monitor.children()) {
    processes.push_back(ProcessId::of(pid));
  }
  state.cgroup.kill();
  for (const ProcessId& process : processes) {
    process.signal(SIGKILL);
  }
  for (const ProcessId& process : processes) {
    if (!process.wait(deadline)) {
      return make_error(ErrorCode::kTimeout, "the sandbox did not end in time",
                        "pid " + std::to_string(process.pid) + " of " + state.key);
    }
  }
  clean_up(state);
  if (Result<void> removed = state.cgroup.remove(deadline); !removed) {
    return removed;
  }
  release_uid(state.claimed_uid, state_dir);
  EngineState::remove(state_dir);
  return {};
}

bool LocalEngine::alive(const std::string& state_dir) {
  const Result<EngineState> state = EngineState::load(state_dir);
  return state && state->first.alive();
}

Result<void> LocalEngine::pause(const std::string& state_dir) {
  const Result<EngineState> state = EngineState::load(state_dir);
  return state ? state->cgroup.freeze(in(kFreezeBound)) : Result<void>(state.error());
}

Result<void> LocalEngine::resume(const std::string& state_dir) {
  const Result<EngineState> state = EngineState::load(state_dir);
  return state ? state->cgroup.thaw() : Result<void>(state.error());
}

OomCounter LocalEngine::oom_counter(const std::string& state_dir) {
  const Result<EngineState> state = EngineState::load(state_dir);
  return state ? state->cgroup.oom_counter() : OomCounter();
}

}  // namespace runbus::session
