#include "services/session/oci_engine.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "services/session/doctor.h"
#include "services/session/engine_uid.h"
#include "services/session/oci_engine_bundle.h"
#include "services/session/rootfs.h"
#include "services/session/seccomp_policy.h"

namespace runbus::session {
namespace {

constexpr std::chrono::seconds kStartBound{10};

Error errno_error(const std::string& what) {
  return make_error(ErrorCode::kInternal, {}, what + ": " + std::strerror(errno));
}

std::string first_runtime() {
  for (const char* name : {"crun", "runc"}) {
    if (std::string path = find_program(name); !path.empty()) {
      return path;
    }
  }
  return {};
}

}  // namespace

std::string OciEngine::id_of(const EngineState& state) { return "runbus-" + state.key; }

OciEngine::OciEngine(EngineOptions chosen) : LocalEngine(std::move(chosen)) {
  program_ = options().runtime.empty() ? first_runtime() : find_program(options().runtime);
  crun_ = program_.ends_with("/crun");
  if (crun_) {
    sealed_ = std::make_unique<SealedProgram>(program_);
  }
}

std::string OciEngine::missing() {
  if (!program_.empty()) {
    return {};
  }
  const std::string wanted = options().runtime.empty() ? "crun" : options().runtime;
  return missing_program(wanted, wanted);
}

std::string OciEngine::explain(const std::string& log) const {
  return explain_sandbox_failure("oci", inspect_machine(), log);
}

std::vector<std::string> OciEngine::runtime_command(const std::string& program,
                                                    const std::string& root) const {
  std::vector<std::string> command{program, "--root", root};
  if (program.ends_with("/crun")) {
    command.emplace_back("--cgroup-manager=disabled");
  }
  return command;
}

// Writes the bundle below state_dir and adds to `launch` the mounts it stands on; returns the
// bundle's folder.
Result<std::string> OciEngine::make_bundle(const Start& start, Launch& launch) const {
  const SandboxSpec& spec = start.spec;
  const std::string folder = spec.state_dir + "/bundle";
  Result<Rootfs> view = describe_rootfs(options().rootfs, spec.network);
  if (!view) {
    return view.error();
  }
  Bundle bundle;
  bundle.command = start.command;
  bundle.as_root = as_root();
  bundle.user = bundle.group = as_root() ? kSandboxUid : 0;
  bundle.limits = spec.limits;
  bundle.resource_limits = resource_limits(spec.limits);
  bundle.agent = spec.agent;
  bundle.view = std::move(*view);
  if (crun_) {
    Result<std::string> program = seccomp_program();
    if (!program) {
      return program.error();
    }
    bundle.seccomp_program = std::move(*program);
  }
  using Kind = MountStep::Kind;
  if (as_root()) {
    // On a tmpfs in the runtime's own mount namespace: nothing to remove, and reachable for the
    // sandbox's root.
    const std::string stage = std::string(kRuntimeDir) + "/stage";
    if (::mkdir(stage.c_str(), 0755) != 0 && errno != EEXIST) {
      return errno_error("mkdir " + stage);
    }
    bundle.rootfs = stage + "/rootfs";
    bundle.generated = stage + "/files";
    bundle.workspace = stage + "/workspace";
    bundle.host_uid = start.uid;
    bundle.host_root = options().first_uid;
    bundle.resource_limits.emplace_back(RLIMIT_NPROC, spec.limits.processes + 2);
    if (!room().hybrid_mount.empty()) {
      launch.mounts.push_back({Kind::kDetach, {}, room().hybrid_mount});
    }
    launch.mounts.push_back({Kind::kTmpfs, {}, stage});
    launch.mounts.push_back({Kind::kDirectory, {}, bundle.workspace});
    launch.mounts.push_back(start.mount_workspace(bundle.workspace));
    const std::vector<MountStep> points =
        mount_points(bundle.view, bundle.rootfs, bundle.generated);
    launch.mounts.insert(launch.mounts.end(), points.begin(), points.end());
    launch.new_network = !spec.network;
  } else {
    if (::mkdir(folder.c_str(), 0755) != 0 && errno != EEXIST) {
      return errno_error("mkdir " + folder);
    }
    bundle.rootfs = folder + "/rootfs";
    bundle.generated = folder + "/files";
    bundle.workspace = spec.workspace;
    if (!room().has("pids")) {
      bundle.resource_limits.emplace_back(RLIMIT_NPROC, spec.limits.processes);
    }
    bundle.host_uid = ::geteuid();
    bundle.new_network = !spec.network;
    for (const MountStep& step : mount_points(bundle.view, bundle.rootfs, bundle.generated)) {
      if (!perform(step) && errno != EEXIST) {
        return errno_error("making " + step.target);
      }
    }
  }
  if (!crun_) {
    bundle.cgroup = start.state.cgroup.version == 0 ? std::string() : "/runbus/" + spec.key;
  }
  const Result<void> written = write_bundle(bundle, folder);
  return written ? Result<std::string>(folder) : Result<std::string>(written.error());
}

Result<void> OciEngine::start(Start& start) {
  const SandboxSpec& spec = start.spec;
  Launch launch;
  const Result<std::string> bundle = make_bundle(start, launch);
  if (!bundle) {
    return bundle.error();
  }
  start.state.runtime = program_;
  start.state.runtime_root =
      as_root() ? std::string(kRuntimeDir) + "/oci" : spec.state_dir + "/oci";
  const std::string pid_file = spec.state_dir + "/sandbox.pid";
  ::unlink(pid_file.c_str());
  launch.argv = runtime_command(program_, start.state.runtime_root);
  launch.argv.insert(launch.argv.end(), {"run", "--detach", "--preserve-fds", "2", "--pid-file",
                                         pid_file, "--bundle", *bundle, id_of(start.state)});
  launch.environment = sandbox_environment();
  launch.descriptors = start.descriptors();
  launch.cgroups = start.join_descriptors();
  const UniqueFd sealed = sealed_ ? sealed_->open() : UniqueFd();
  if (sealed) {
    launch.argv[0] = "/proc/self/fd/" + std::to_string(launch.descriptors.size());
    launch.descriptors.push_back(sealed.get());
  }

  const Deadline deadline = std::chrono::steady_clock::now() + kStartBound;
  if (Result<void> ran = run_runtime(start, launch, pid_file, deadline); !ran) {
    return ran;
  }
  return await_exec(start, deadline);  // crun returns a moment before it
}

Result<void> OciEngine::run_runtime(Start& start, Launch& launch, const std::string& pid_file,
                                    Deadline deadline) const {
  // crun gives the sandbox's stdin to the sandbox's user: were it /dev/null, the host's would
  // change hands.
  int input[2];
  if (::pipe2(input, O_CLOEXEC) != 0) {
    return errno_error("pipe");
  }
  const UniqueFd input_read(input[0]);
  ::close(input[1]);
  launch.descriptors[0] = input_read.get();
  const Result<ProcessId> runtime = start_program(launch, [&start](ProcessId process) {
    start.state.monitor = process;
    return start.record();
  });
  if (!runtime) {
    return runtime.error();
  }
  if (!runtime->wait(deadline)) {
    return make_error(ErrorCode::kTimeout, "the sandbox did not start in time");
  }
  start.state.monitor = {};
  pid_t pid = -1;
  if (!(std::ifstream(pid_file) >> pid)) {
    return make_error(ErrorCode::kInternal, {}, program_ + " did not start the sandbox");
  }
  start.state.first = ProcessId::of(pid);
  return {};
}

// The kernel kills what it takes for a program and is a part of gVisor, which ends without it.
// Here, since whoever tidies up has no setting of the runtime.
std::string OciEngine::ended_by(const std::string& state_dir) {
  const Result<EngineState> state = EngineState::load(state_dir);
  const bool killed =
      state && state->runtime.ends_with("/runsc") && state->cgroup.oom_counter().kills() > 0;
  return killed ? "memory" : "";
}

void OciEngine::clean_up(const EngineState& state) {
  if (state.runtime.empty()) {
    return;
  }
  if (state.runtime.ends_with("/crun") || state.runtime.ends_with("/runsc")) {
    // All that "delete" has left to do: the cgroups are ours and the processes have ended.
    std::error_code failure;
    const bool shared = state.runtime.ends_with("/crun");  // with other sandboxes
    std::filesystem::remove_all(state.runtime_root + (shared ? "/" + id_of(state) : ""), failure);
    if (!failure) {
      return;
    }
  }
  Launch launch;
  launch.argv = runtime_command(state.runtime, state.runtime_root);
  launch.argv.insert(launch.argv.end(), {"delete", "--force", id_of(state)});
  launch.environment = sandbox_environment();
  launch.descriptors = {-1, -1, -1};
  if (as_root() && !room().hybrid_mount.empty()) {
    launch.mounts.push_back({MountStep::Kind::kDetach, {}, room().hybrid_mount});
  }
  // A runtime that never got as far as to know the sandbox fails here; the processes have ended
  // already.
  (void)run_program(launch, std::chrono::steady_clock::now() + std::chrono::seconds(5));
}

}  // namespace runbus::session
