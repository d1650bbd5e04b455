#include "services/agent/helper.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <optional>

#include "services/agent/identity.h"

namespace runbus::agent {
namespace {

// Where the helper's own descriptors are, above standard input, output and error.
constexpr int kReports = 3;
constexpr int kDirectory = 4;
constexpr int kFirstUnused = 5;

void close_range(unsigned first, unsigned last) {
  if (::syscall(SYS_close_range, first, last, 0U) == 0) {
    return;
  }
  // Before Linux 5.9, or under a seccomp list that does not know it.
  const long open_max = std::max(::sysconf(_SC_OPEN_MAX), 1024L);
  for (long fd = first; fd <= last && fd < open_max && fd < 1L << 20; ++fd) {
    ::close(static_cast<int>(fd));
  }
}

// gVisor takes the numbers for signed ones.
void close_from(unsigned first) { close_range(first, INT_MAX); }

HelperReport make_report(HelperReport::Kind kind, int value) {
  HelperReport record;
  record.kind = kind;
  record.value = value;
  rusage usage{};
  ::getrusage(RUSAGE_CHILDREN, &usage);
  const auto microseconds = [](const timeval& time) {
    return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000 +
           static_cast<std::uint64_t>(time.tv_usec);
  };
  record.cpu_microseconds = microseconds(usage.ru_utime) + microseconds(usage.ru_stime);
  record.peak_memory = static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
  return record;
}

// Up to PIPE_BUF, so whole or not at all; the pipe holds far more records than a run has.
void send_reports(std::span<const HelperReport> records) {
  ssize_t written = 0;
  do {
    written = ::write(kReports, records.data(), records.size_bytes());
  } while (written < 0 && errno == EINTR);
  if (written != static_cast<ssize_t>(records.size_bytes())) {
    ::_exit(1);  // nobody listens: the agent takes an early end for a lost helper
  }
}

void report(HelperReport::Kind kind, int value) {
  const HelperReport record = make_report(kind, value);
  send_reports({&record, 1});
}

// Moves the descriptors to their places, whatever numbers they had; the rest is closed.
bool arrange_descriptors(const ProgramPlan& plan, int reports) {
  const int from[] = {plan.standard_input.get(), plan.standard_output.get(),
                      plan.standard_error.get(), reports, plan.directory.get()};
  int high[kFirstUnused];
  for (int i = 0; i < kFirstUnused; ++i) {
    high[i] = ::fcntl(from[i], F_DUPFD_CLOEXEC, kFirstUnused);
    if (high[i] < 0) {
      return false;
    }
  }
  for (int i = 0; i < kFirstUnused; ++i) {
    if (::dup3(high[i], i, i < kReports ? 0 : O_CLOEXEC) < 0) {
      return false;
    }
  }
  close_from(kFirstUnused);
  return true;
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

void apply_limits(const std::vector<ProcessLimit>& limits) {
  for (const ProcessLimit& limit : limits) {
    const auto resource = static_cast<__rlimit_resource_t>(limit.resource);
    rlimit now{};
    if (::getrlimit(resource, &now) != 0) {
      continue;
    }
    rlimit wanted{};
    wanted.rlim_max = std::min<rlim_t>(limit.hard, now.rlim_max);
    wanted.rlim_cur = std::min<rlim_t>(limit.soft, wanted.rlim_max);
    ::setrlimit(resource, &wanted);
  }
}

void reset_signals() {
  struct sigaction standard {};
  standard.sa_handler = SIG_DFL;
  for (int signal = 1; signal < NSIG; ++signal) {
    ::sigaction(signal, &standard, nullptr);
  }
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
}

// The first to be killed when memory runs out. Only a dumpable process owns its file in /proc, so
// this comes last: from here on there is nothing of ours in it but a copy of the session's own
// data.
void offer_to_oom_killer() {
  ::prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
  const int file = ::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (file >= 0) {
    // Refused only where somebody set it higher already.
    [[maybe_unused]] const ssize_t written = ::write(file, "1000", 4);
    ::close(file);
  }
}

// As execvp: goes on to the next directory of PATH where this one has nothing that may be run.
int try_candidates(const ProgramPlan& plan, const std::vector<char*>& arguments,
                   const std::vector<char*>& environment) {
  int error = ENOENT;
  for (const std::string& path : plan.candidates) {
    ::execve(path.c_str(), arguments.data(), environment.data());
    if (errno == ENOEXEC) {
      std::vector<char*> shell = {const_cast<char*>("sh"), const_cast<char*>(path.c_str())};
      shell.insert(shell.end(), arguments.begin() + 1, arguments.end());
      ::execve("/bin/sh", shell.data(), environment.data());
      return errno;
    }
    if (errno == EACCES) {
      error = EACCES;
    } else if (errno != ENOENT && errno != ENOTDIR) {
      return errno;
    }
  }
  return error;
}

[[noreturn]] void run_program(const ProgramPlan& plan, int exec_error) {
  const std::vector<char*> arguments = pointers(plan.arguments);
  const std::vector<char*> environment = pointers(plan.environment);
  ::setsid();
  // Also when somebody kills the helper: then the agent does not have to find it first.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  ::umask(022);
  int error = 0;
  if (::fchdir(kDirectory) != 0 || ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      ::dup3(exec_error, kReports, O_CLOEXEC) < 0) {
    error = errno;
  } else {
    exec_error = kReports;
    close_from(kDirectory);
    apply_limits(plan.limits);
    offer_to_oom_killer();
    reset_signals();
    error = try_candidates(plan, arguments, environment);
  }
  [[maybe_unused]] const ssize_t written = ::write(exec_error, &error, sizeof(error));
  ::_exit(exit_code_of_exec_error(error));
}

[[noreturn]] void say_gone_and_exit(std::optional<int> program_status) {
  std::vector<HelperReport> records;
  if (program_status) {
    records.push_back(make_report(HelperReport::kExited, *program_status));
  }
  records.push_back(make_report(HelperReport::kGone, 0));
  send_reports(records);
  ::_exit(0);
}

[[noreturn]] void reap_until_none_is_left(pid_t program) {
  int program_status = 0;
  pid_t pid = 0;
  do {
    pid = ::waitpid(-1, &program_status, __WALL);
  } while (pid != program && (pid >= 0 || errno == EINTR));
  if (pid != program) {
    ::_exit(1);
  }
  do {
    pid = ::waitpid(-1, nullptr, WNOHANG | __WALL);
  } while (pid > 0);
  if (pid < 0) {
    // The usual case, told in one record pair: the agent has nothing to look for.
    say_gone_and_exit(program_status);
  }
  report(HelperReport::kExited, program_status);
  do {
    pid = ::waitpid(-1, nullptr, __WALL);
  } while (pid >= 0 || errno == EINTR);
  say_gone_and_exit(std::nullopt);
}

}  // namespace

int exit_code_of_exec_error(int error) { return error == ENOENT || error == ENOTDIR ? 127 : 126; }

pid_t start_service(const ProgramPlan& plan, std::span<const int> descriptors) {
  const pid_t agent = ::getpid();
  const pid_t pid = ::fork();
  if (pid != 0) {
    return pid;
  }
  if (!become_program_user()) {
    ::_exit(1);
  }
  ::setsid();
  ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  const int end = STDERR_FILENO + 1 + static_cast<int>(descriptors.size());
  std::vector<int> high;
  for (const int fd : descriptors) {
    high.push_back(::fcntl(fd, F_DUPFD_CLOEXEC, end));
  }
  if (::getppid() != agent || null < 0 || std::count(high.begin(), high.end(), -1) != 0) {
    ::_exit(1);
  }
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    ::dup2(null, fd);
  }
  for (std::size_t i = 0; i < high.size(); ++i) {
    ::dup2(high[i], STDERR_FILENO + 1 + static_cast<int>(i));
  }
  close_from(static_cast<unsigned>(end));
  if (::chdir("/") == 0 && ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0) {
    offer_to_oom_killer();
    reset_signals();
    try_candidates(plan, pointers(plan.arguments), pointers(plan.environment));
  }
  ::_exit(1);
}

void run_helper(const ProgramPlan& plan, int reports, pid_t agent) {
  sigset_t all;
  sigfillset(&all);
  ::sigprocmask(SIG_SETMASK, &all, nullptr);
  const bool own_user = become_program_user();  // which forgets the signal below
  ::setsid();
  ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  int exec_error[2];
  if (!own_user || ::getppid() != agent || !arrange_descriptors(plan, reports)) {
    ::_exit(1);
  }
  // EINVAL: the kernel has none, and the agent knows (reaper.h).
  if ((::prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0 && errno != EINVAL) ||
      ::pipe2(exec_error, O_CLOEXEC) != 0) {
    report(HelperReport::kForkFailed, errno);
    ::_exit(0);
  }
  const pid_t program = ::fork();
  if (program < 0) {
    report(HelperReport::kForkFailed, errno);
    ::_exit(0);
  }
  if (program == 0) {
    ::close(exec_error[0]);
    run_program(plan, exec_error[1]);
  }
  // The program's pipes must end when the program ends, not when we do.
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO, kDirectory, exec_error[1]}) {
    ::close(fd);
  }
  int error = 0;
  ssize_t size = 0;
  do {
    size = ::read(exec_error[0], &error, sizeof(error));
  } while (size < 0 && errno == EINTR);
  ::close(exec_error[0]);
  report(HelperReport::kStarted, program);
  if (size == static_cast<ssize_t>(sizeof(error))) {
    report(HelperReport::kExecFailed, error);
  }
  reap_until_none_is_left(program);
}

}  // namespace runbus::agent
