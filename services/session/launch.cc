#include "services/session/launch.h"

#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <sstream>

namespace runbus::session {
namespace {

enum Stage : int {
  kWaiting,
  kCgroup,
  kMount,
  kNetwork,
  kLimit,
  kDescriptor,
  kIdentity,
  kDirectory,
  kExec,
};

const char* stage_name(int stage) {
  static constexpr const char* kNames[] = {
      "waiting for its parent",  "joining its cgroup",  "mounting",
      "making its network",      "setting limits",      "arranging descriptors",
      "dropping its privileges", "entering its folder", "executing",
  };
  return stage >= kWaiting && stage <= kExec ? kNames[stage] : "starting";
}

struct Failure {
  int stage = 0;
  int error = 0;
};

// All that the child needs, as plain pointers: it must not allocate.
struct Plan {
  std::vector<char*> argv;
  std::vector<char*> environment;
  std::vector<int> sources;  // duplicates above every target number
  const Launch* launch = nullptr;
  int gate = -1;
  int report = -1;
};

[[noreturn]] void fail(int report, int stage, int error) {
  const Failure failure{stage, error};
  const ssize_t written = ::write(report, &failure, sizeof failure);
  ::_exit(written == sizeof failure ? 127 : 126);
}

bool bring_loopback_up() {
  const int fd = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  ifreq request{};
  std::memcpy(request.ifr_name, "lo", 3);
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  return fd >= 0 && ::ioctl(fd, SIOCSIFFLAGS, &request) == 0 && ::close(fd) == 0;
}

void close_others(unsigned first) {
  // The report descriptor must live until exec: mark, do not close.
  if (::syscall(SYS_close_range, first, ~0U, 1U << 2 /* CLOSE_RANGE_CLOEXEC */) == 0) {
    return;
  }
  for (int fd = static_cast<int>(first); fd < 65536; ++fd) {  // Linux before 5.11
    ::fcntl(fd, F_SETFD, FD_CLOEXEC);
  }
}

void reset_signals() {
  struct sigaction action {};
  action.sa_handler = SIG_DFL;
  for (int number = 1; number < NSIG; ++number) {
    ::sigaction(number, &action, nullptr);
  }
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
}

void surroundings(const Plan& plan) {
  const Launch& launch = *plan.launch;
  for (const int procs : launch.cgroups) {
    if (::write(procs, "0", 1) != 1) {
      fail(plan.report, kCgroup, errno);
    }
  }
  if (!launch.mounts.empty() && (::unshare(CLONE_NEWNS) != 0 ||
                                 ::mount(nullptr, "/", nullptr, MS_SLAVE | MS_REC, nullptr) != 0)) {
    fail(plan.report, kMount, errno);
  }
  for (const MountStep& step : launch.mounts) {
    if (!perform(step)) {
      fail(plan.report, kMount, errno);
    }
  }
  if (launch.new_network && (::unshare(CLONE_NEWNET) != 0 || !bring_loopback_up())) {
    fail(plan.report, kNetwork, errno);
  }
  for (const auto& [resource, value] : launch.limits) {
    const rlimit limit{value, value};
    if (::setrlimit(static_cast<__rlimit_resource>(resource), &limit) != 0) {
      fail(plan.report, kLimit, errno);
    }
  }
}

[[noreturn]] void child(const Plan& plan) {
  const Launch& launch = *plan.launch;
  // A sibling forked at the same time may hold our gate open, so its end-of-file alone does not
  // tell that the caller died.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  char go = 0;
  if (::read(plan.gate, &go, 1) != 1) {
    ::_exit(125);
  }
  ::prctl(PR_SET_PDEATHSIG, 0);
  ::setsid();
  reset_signals();
  surroundings(plan);
  for (std::size_t target = 0; target < plan.sources.size(); ++target) {
    if (::dup2(plan.sources[target], static_cast<int>(target)) < 0) {
      fail(plan.report, kDescriptor, errno);
    }
  }
  close_others(static_cast<unsigned>(plan.sources.size()));
  if (launch.identity) {
    const uid_t id = *launch.identity;
    if (::syscall(SYS_setgroups, 0, nullptr) != 0 || ::syscall(SYS_setresgid, id, id, id) != 0 ||
        ::syscall(SYS_setresuid, id, id, id) != 0) {
      fail(plan.report, kIdentity, errno);
    }
  }
  if (::chdir(launch.working_directory.c_str()) != 0) {
    fail(plan.report, kDirectory, errno);
  }
  ::umask(022);
  ::execve(plan.argv[0], plan.argv.data(), plan.environment.data());
  fail(plan.report, kExec, errno);
}

std::vector<char*> pointers(const std::vector<std::string>& strings) {
  std::vector<char*> result;
  result.reserve(strings.size() + 1);
  for (const std::string& text : strings) {
    result.push_back(const_cast<char*>(text.c_str()));
  }
  result.push_back(nullptr);
  return result;
}

Error system_error(const std::string& what, int error) {
  return make_error(ErrorCode::kInternal, {}, what + ": " + std::strerror(error));
}

// Blocks every signal while alive: no handler of ours may run in the child before it reset them.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &previous_);
  }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;
  ~SignalsBlocked() { ::pthread_sigmask(SIG_SETMASK, &previous_, nullptr); }

 private:
  sigset_t previous_{};
};

// Moves a descriptor above `floor`, so that no dup2 in the child overwrites one that is still
// needed.
UniqueFd raise_descriptor(int fd, int floor) {
  return UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, floor));
}

Result<void> await_exec(int report, const std::string& program) {
  Failure failure;
  ssize_t got = 0;
  do {
    got = ::read(report, &failure, sizeof failure);
  } while (got < 0 && errno == EINTR);
  if (got == sizeof failure) {
    return system_error(program + " failed while " + stage_name(failure.stage), failure.error);
  }
  return {};
}

}  // namespace

namespace {

// mkfs.ext4 makes lost+found, which is no file of the session.
bool mount_image(const MountStep& step) {
  const char* target = step.target.c_str();
  if (::mount(step.source.c_str(), target, "ext4", MS_NOSUID | MS_NODEV, "noinit_itable") != 0) {
    return false;
  }
  const int top = ::open(target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  return top >= 0 && (::unlinkat(top, "lost+found", AT_REMOVEDIR) == 0 || errno == ENOENT) &&
         ::fchmod(top, 0700) == 0 && ::fchown(top, step.owner, step.owner) == 0 &&
         ::close(top) == 0;
}

}  // namespace

bool perform(const MountStep& step) {
  const char* target = step.target.c_str();
  switch (step.kind) {
    case MountStep::Kind::kTmpfs:
      return ::mount("tmpfs", target, "tmpfs", MS_NOSUID | MS_NODEV, "size=256k,mode=755") == 0;
    case MountStep::Kind::kDirectory:
      return ::mkdir(target, step.mode) == 0 && ::chmod(target, step.mode) == 0;
    case MountStep::Kind::kFile: {
      const int fd = ::open(target, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
      const auto size = static_cast<ssize_t>(step.source.size());
      return fd >= 0 && ::write(fd, step.source.data(), step.source.size()) == size &&
             ::close(fd) == 0;
    }
    case MountStep::Kind::kLink:
      return ::symlink(step.source.c_str(), target) == 0;
    case MountStep::Kind::kBind:
      return ::mount(step.source.c_str(), target, nullptr, MS_BIND, nullptr) == 0 &&
             ::mount(nullptr, target, nullptr, MS_BIND | MS_REMOUNT | MS_NOSUID | MS_NODEV,
                     nullptr) == 0;
    case MountStep::Kind::kImage:
      return mount_image(step);
    case MountStep::Kind::kDetach:
      return ::umount2(target, MNT_DETACH) == 0;
  }
  return false;
}

Result<ProcessId> start_program(const Launch& launch,
                                const std::function<Result<void>(ProcessId)>& before_exec) {
  const int floor = static_cast<int>(launch.descriptors.size()) + 1;
  const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  std::vector<UniqueFd> raised;
  Plan plan;
  for (const int fd : launch.descriptors) {
    raised.push_back(raise_descriptor(fd < 0 ? null.get() : fd, floor));
    if (!raised.back()) {
      return system_error("duplicating a descriptor for " + launch.argv[0], errno);
    }
    plan.sources.push_back(raised.back().get());
  }
  int gate[2];
  int report[2];
  if (::pipe2(gate, O_CLOEXEC) != 0) {
    return system_error("pipe", errno);
  }
  UniqueFd gate_read(gate[0]);
  UniqueFd gate_write(gate[1]);
  if (::pipe2(report, O_CLOEXEC) != 0) {
    return system_error("pipe", errno);
  }
  const UniqueFd report_read(report[0]);
  UniqueFd report_write(report[1]);
  const UniqueFd gate_child = raise_descriptor(gate_read.get(), floor);
  UniqueFd report_child = raise_descriptor(report_write.get(), floor);
  if (!gate_child || !report_child) {
    return system_error("duplicating a pipe", errno);
  }
  plan.argv = pointers(launch.argv);
  plan.environment = pointers(launch.environment);
  plan.launch = &launch;
  plan.gate = gate_child.get();
  plan.report = report_child.get();

  pid_t pid = -1;
  {
    const SignalsBlocked blocked;
    pid = ::_Fork();
    if (pid == 0) {
      ::close(gate_write.get());  // or the child would hold its own gate open
      child(plan);
    }
  }
  if (pid < 0) {
    return system_error("fork", errno);
  }
  report_write.reset();
  report_child.reset();
  const ProcessId process = ProcessId::of(pid);
  const Deadline soon = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  if (before_exec) {
    if (const Result<void> recorded = before_exec(process); !recorded) {
      gate_write.reset();
      process.wait(soon);
      return recorded.error();
    }
  }
  if (::write(gate_write.get(), "g", 1) != 1) {
    process.signal(SIGKILL);
  }
  if (const Result<void> executed = await_exec(report_read.get(), launch.argv[0]); !executed) {
    process.wait(soon);
    return executed.error();
  }
  return process;
}

Result<int> run_program(const Launch& launch, Deadline deadline) {
  const Result<ProcessId> started = start_program(launch);
  if (!started) {
    return started.error();
  }
  const UniqueFd fd = started->open();
  bool in_time = true;
  while (fd) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        deadline - std::chrono::steady_clock::now());
    pollfd item{fd.get(), POLLIN, 0};
    const int ready = ::poll(&item, 1, left.count() > 0 ? static_cast<int>(left.count()) + 1 : 0);
    if (ready > 0) {
      break;
    }
    if (ready == 0) {
      in_time = false;
      started->signal(SIGKILL);
      break;
    }
  }
  int status = 0;
  pid_t reaped = -1;
  do {
    reaped = ::waitpid(started->pid, &status, 0);
  } while (reaped < 0 && errno == EINTR);
  if (!in_time) {
    return make_error(ErrorCode::kTimeout, {}, launch.argv[0] + " did not end in time");
  }
  if (reaped < 0) {
    return system_error("waiting for " + launch.argv[0], errno);
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::string find_program(const std::string& name) {
  if (name.find('/') != std::string::npos) {
    return ::access(name.c_str(), X_OK) == 0 ? name : std::string();
  }
  const char* path = std::getenv("PATH");
  std::istringstream folders(std::string(path == nullptr ? "" : path) +
                             ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
  for (std::string folder; std::getline(folders, folder, ':');) {
    const std::string candidate = folder + "/" + name;
    if (!folder.empty() && folder[0] == '/' && ::access(candidate.c_str(), X_OK) == 0) {
      return candidate;
    }
  }
  return {};
}

}  // namespace runbus::session
