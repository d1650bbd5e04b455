#include "tools/runbus/child.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>

#include "tools/runbus/files.h"

namespace runbus::cli {
namespace {

constexpr int kReadyFd = 3;
constexpr int kFirstSafeFd = 10;
// Processes that move messages allocate and free them in batches: more of one size than the 7 that
// glibc keeps at hand. It takes this from the environment alone.
constexpr const char* kTunables = "GLIBC_TUNABLES";
constexpr const char* kKeepAtHand = "glibc.malloc.tcache_count=127";

struct Pipe {
  UniqueFd read;
  UniqueFd write;
};

Result<Pipe> make_pipe() {
  std::array<int, 2> ends{-1, -1};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
    return failure_of_system("pipe", errno);
  }
  return Pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

void reset_signals() {
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGCHLD, SIGPIPE, SIGQUIT}) {
    ::signal(number, SIG_DFL);
  }
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
}

// Between fork and exec. Returns the errno that stopped it.
int become(const ChildSpec& spec, char* const* argv, pid_t parent, int ready) {
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, spec.death_signal);
  if (::getppid() != parent) {
    ::_exit(127);  // it ended before the line above
  }
  reset_signals();
  const int null = ::open("/dev/null", O_RDWR);
  if (null < 0 || ::dup2(null, 0) < 0 || (spec.stdout_fd != 1 && ::dup2(spec.stdout_fd, 1) < 0)) {
    return errno;
  }
  // `ready` was moved above kFirstSafeFd, so nothing that is still needed is overwritten.
  if (spec.reports_ready && ::dup2(ready, kReadyFd) < 0) {
    return errno;
  }
  const auto first = static_cast<unsigned>(spec.reports_ready ? kReadyFd + 1 : kReadyFd);
  if (::close_range(first, ~0U, CLOSE_RANGE_CLOEXEC) != 0) {
    return errno;
  }
  ::setenv(kTunables, kKeepAtHand, 0);  // what the operator says counts
  ::execv(argv[0], argv);
  return errno;
}

}  // namespace

Result<Child> spawn(const ChildSpec& spec) {
  std::vector<std::string> arguments = spec.argv;
  if (spec.reports_ready) {
    arguments.insert(arguments.end(), {"--ready-fd", std::to_string(kReadyFd)});
  }
  std::vector<char*> argv;
  for (std::string& argument : arguments) {
    argv.push_back(argument.data());
  }
  argv.push_back(nullptr);

  Result<Pipe> errors = make_pipe();
  Result<Pipe> ready = make_pipe();
  if (!errors || !ready) {
    return errors ? ready.error() : errors.error();
  }
  UniqueFd error_end(::fcntl(errors->write.get(), F_DUPFD_CLOEXEC, kFirstSafeFd));
  const UniqueFd ready_end(::fcntl(ready->write.get(), F_DUPFD_CLOEXEC, kFirstSafeFd));
  if (!error_end || !ready_end) {
    return failure_of_system("cannot start " + spec.argv.front(), errno);
  }
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) {
    return failure_of_system("cannot start " + spec.argv.front(), errno);
  }
  if (pid == 0) {
    const int reason = become(spec, argv.data(), parent, ready_end.get());
    static_cast<void>(!::write(error_end.get(), &reason, sizeof reason));
    ::_exit(127);
  }
  ::setpgid(pid, pid);  // also here: whoever of the two comes first
  errors->write.reset();
  error_end.reset();

  int reason = 0;
  ssize_t count = 0;
  do {
    count = ::read(errors->read.get(), &reason, sizeof reason);
  } while (count < 0 && errno == EINTR);
  if (count == sizeof reason) {
    ::waitpid(pid, nullptr, 0);
    return failure_of_system("cannot start " + spec.argv.front(), reason);
  }
  Child child{pid, UniqueFd()};
  if (spec.reports_ready) {
    ::fcntl(ready->read.get(), F_SETFL, O_NONBLOCK);
    child.ready = std::move(ready->read);
  }
  return child;
}

}  // namespace runbus::cli
