// LocalEngine::probe(): a real sandbox in which a shell tells what it sees, and what follows from
// it.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "proto/support/id.h"
#include "services/session/engine_local.h"
#include "services/session/rootfs.h"

namespace runbus::session {
namespace {

namespace fs = std::filesystem;

// Everything the check below looks for, by a shell alone; "mounted" must not appear.
constexpr const char* kScript =
    "while read -r line; do echo \"$line\"; done < /proc/self/status; "
    "while read -r line; do echo \"route $line\"; done < /proc/net/fib_trie; "
    "echo pid $$; mount -t tmpfs none /tmp 2>/dev/null && echo mounted; "
    ": > /workspace/probe && echo writable; echo end";

constexpr std::uint64_t kTrialImage = 4U << 20U;

// A folder for one probe, removed with all that is in it.
class ScratchFolder {
 public:
  ScratchFolder() {
    std::string pattern = fs::temp_directory_path() / "runbus-probe-XXXXXX";
    path_ = ::mkdtemp(pattern.data()) == nullptr ? std::string() : pattern;
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  ~ScratchFolder() {
    std::error_code ignored;
    if (!path_.empty()) {
      fs::remove_all(path_, ignored);
    }
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace

bool LocalEngine::has_line(const std::string& log, const std::string& line) {
  return ("\n" + log).find("\n" + line + "\n") != std::string::npos;
}

std::string LocalEngine::check_probe_output(const std::string& log) const {
  if (!has_line(log, "end") || !has_line(log, "writable")) {
    return explain(log);
  }
  if (!is_boundary()) {
    return {};
  }
  if (!has_line(log, "pid 1") || has_line(log, "mounted") || !has_line(log, "Seccomp:\t2") ||
      !has_line(log, "NoNewPrivs:\t1") || !has_line(log, "CapEff:\t0000000000000000") ||
      !has_line(log, "CapBnd:\t0000000000000000")) {
    return "a trial sandbox started, but without its full protection (process namespace, system "
           "call filter, "
           "no privileges)";
  }
  if (log.find("127.0.0.1") == std::string::npos) {
    return "the loopback interface of a trial sandbox is down, which debuggers need";
  }
  return {};
}

const std::string& LocalEngine::image_problem() {
  std::call_once(image_tried_, [this] { image_problem_ = try_image(); });
  return image_problem_;
}

std::string LocalEngine::try_image() const {
  const std::string& wanted = options_.workspace_quota;
  if (wanted != "auto" && wanted != "loop") {
    return "--workspace-quota " + wanted;
  }
  if (!is_boundary()) {
    return "the process engine has no file systems of its own";
  }
  if (!as_root_) {
    return "only root can give a workspace a file system of its own";
  }
  const ScratchFolder scratch;
  const Result<WorkspaceImage> image = make_workspace_image(scratch.path() + "/image", kTrialImage);
  if (!image) {
    return to_string(image.error());
  }
  Launch launch;
  launch.argv = {"/bin/true"};
  launch.descriptors = {-1, -1, -1};
  launch.mounts = {{MountStep::Kind::kImage, image->device, scratch.path()}};
  const Result<int> code =
      run_program(launch, std::chrono::steady_clock::now() + std::chrono::seconds(5));
  return code ? std::string() : to_string(code.error());
}

Probe LocalEngine::probe() {
  Probe probe;
  if (options_.workspace_quota == "loop" && !image_problem().empty()) {
    probe.why["works"] = "--workspace-quota loop: " + image_problem();
    return probe;
  }
  if (std::string reason = missing(); !reason.empty()) {
    probe.why["works"] = std::move(reason);
    return probe;
  }
  const ScratchFolder scratch;
  const std::string workspace = scratch.path() + "/workspace";
  if (scratch.path().empty() || ::mkdir(workspace.c_str(), 0700) != 0) {
    probe.why["works"] =
        std::string("no temporary folder for a trial sandbox: ") + std::strerror(errno);
    return probe;
  }
  const UniqueFd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  SandboxSpec spec;
  spec.session_id = "probe";
  spec.key = "probe-" + random_hex(8);
  spec.state_dir = scratch.path();
  spec.workspace = workspace;
  spec.agent = "/bin/sh";
  spec.listen_fd = null.get();
  const std::string script = is_boundary() ? kScript : "echo writable; echo end";
  const Result<Sandbox> made = create_with(spec, {"/bin/sh", "-c", script});
  std::string failure;
  if (made) {
    const Result<EngineState> state = EngineState::load(spec.state_dir);
    if (state && !state->first.wait(std::chrono::steady_clock::now() + std::chrono::seconds(8))) {
      failure = "a trial sandbox did not end within 8 seconds";
    }
  }
  const Result<void> removed = destroy(spec.state_dir);
  const std::string log = read_small_file(spec.state_dir + "/sandbox.log");
  if (failure.empty()) {
    // The shell may end before create() has seen it run: what it wrote decides.
    failure = check_probe_output(made ? log : log + "\n" + made.error().internal);
  }
  if (failure.empty() && !removed) {
    failure = "a trial sandbox could not be removed: " + to_string(removed.error());
  }
  probe.works = failure.empty();
  if (!probe.works) {
    probe.why["works"] = failure;
    return probe;
  }
  fill_enforced(probe);
  return probe;
}

void LocalEngine::fill_enforced(Probe& probe) {
  for (const char* resource : {"memory", "pids", "cpu"}) {
    const bool bound = room_.has(resource);
    probe.enforced[resource] = bound ? "cgroup" : "none";
    if (const auto why = room_.why.find(resource); !bound && why != room_.why.end()) {
      probe.why[resource] = why->second;
    }
  }
  if (probe.enforced["pids"] == "none" && is_boundary()) {
    probe.enforced["pids"] = "rlimit";
  }
  probe.enforced["pause"] = room_.has("freezer") ? "cgroup" : "none";
  if (const auto why = room_.why.find("freezer"); why != room_.why.end()) {
    probe.why["pause"] = why->second;
  }
  const std::string& problem = image_problem();
  if (problem.empty()) {
    probe.enforced["disk"] = "hard";
  } else if (options_.workspace_quota == "none") {
    probe.enforced["disk"] = "none";
    probe.why["disk"] =
        "--workspace-quota none: each file is bounded (RLIMIT_FSIZE), the sum of them is not";
  } else {
    probe.enforced["disk"] = "soft";
    probe.why["disk"] =
        "workspaces are measured, so one may be over its quota for a second (" + problem + ")";
  }
  probe.enforced["network"] = is_boundary() ? "namespace" : "none";
  if (!is_boundary()) {
    probe.why["network"] = "the process engine has no boundary";
  }
}

}  // namespace runbus::session
