#include "tools/runbus/supervisor.h"

#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <sstream>

#include "proto/support/log.h"
#include "tools/runbus/files.h"

namespace runbus::cli {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kFirstBackoff{100};
constexpr milliseconds kLongestBackoff{5000};
// A child that ran for so long is started again at once when it dies.
constexpr milliseconds kGoodRun{3000};
// A restarted child that is not ready by then is killed and tried again.
constexpr milliseconds kRestartBound{30'000};
constexpr std::size_t kMaxReadyLine = 512;

std::string in_seconds(milliseconds time) {
  std::ostringstream text;
  text << static_cast<double>(time.count()) / 1000.0 << " s";
  return text.str();
}

std::vector<pid_t> children_of_this_process() {
  const std::string self = std::to_string(::getpid());
  const Result<std::string> list =
      read_file("/proc/" + self + "/task/" + self + "/children", 1U << 20U);
  std::vector<pid_t> pids;
  if (list) {
    std::istringstream words(*list);
    for (pid_t pid = 0; words >> pid;) {
      pids.push_back(pid);
    }
  }
  return pids;
}

}  // namespace

std::string describe_exit(int status) {
  if (WIFSIGNALED(status)) {
    return "signal " + std::to_string(WTERMSIG(status)) + " (" + ::strsignal(WTERMSIG(status)) +
           ")";
  }
  return "status " + std::to_string(WEXITSTATUS(status));
}

Supervisor::Supervisor(std::function<void(const std::string&)> say) : say_(std::move(say)) {
  sigset_t mask;
  ::sigemptyset(&mask);
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGCHLD}) {
    ::sigaddset(&mask, number);
  }
  ::sigprocmask(SIG_BLOCK, &mask, &old_mask_);
  signals_.reset(::signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_) {
    throw std::runtime_error(failure_of_system("signalfd", errno).detail);
  }
  ::signal(SIGPIPE, SIG_IGN);
  // What a killed worker leaves behind becomes ours to reap, and to kill at the end.
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
}

Supervisor::~Supervisor() {
  finish();
  ::prctl(PR_SET_CHILD_SUBREAPER, 0);
  ::sigprocmask(SIG_SETMASK, &old_mask_, nullptr);
}

Result<std::string> Supervisor::start(ChildSpec spec, Milliseconds bound) {
  Kept& child = kept_.emplace_back();
  child.spec = std::move(spec);
  const auto give_up = [&](const std::string& why) {
    const std::string name = child.spec.name;
    child.starting = child.wanted = false;
    stop(name, Milliseconds(1000));
    return failure(name + " " + why);
  };
  if (const Result<void> launched = launch(child); !launched) {
    kept_.pop_back();
    return launched.error();
  }
  const bool decided =
      wait([&] { return child.ready || child.pid < 0 || stop_requested(); }, Clock::now() + bound);
  if (stop_requested()) {
    return give_up("was stopped while it started");
  }
  if (child.pid < 0) {
    return give_up("ended with " + child.ended + " before it was ready");
  }
  if (!decided) {
    return give_up("was not ready within " + in_seconds(bound));
  }
  child.starting = false;
  return child.ready_line;
}

void Supervisor::change_arguments(const std::string& name, std::vector<std::string> argv) {
  for (Kept& child : kept_) {
    if (child.spec.name == name) {
      child.spec.argv = std::move(argv);
      return;
    }
  }
}

Result<int> Supervisor::run(const ChildSpec& spec, Milliseconds bound, bool stoppable) {
  const Result<Child> child = spawn(spec);
  if (!child) {
    return child.error();
  }
  once_ = Once{child->pid, std::nullopt};
  const auto ended = [&] { return once_.status.has_value(); };
  wait([&] { return ended() || (stoppable && stop_requested()); }, Clock::now() + bound);
  if (!ended()) {
    ::kill(-once_.pid, SIGKILL);
    ::kill(once_.pid, SIGKILL);
    wait(ended, Clock::now() + kLongestBackoff);
    return failure(spec.name + (stoppable && stop_requested()
                                    ? " was stopped"
                                    : " took longer than " + in_seconds(bound)));
  }
  const int status = *once_.status;
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

void Supervisor::supervise() {
  while (!stop_requested()) {
    wait([&] { return stop_requested(); }, Clock::now() + std::chrono::hours(1));
  }
}

void Supervisor::stop(const std::string& prefix, Milliseconds grace) {
  const auto concerns = [&](const Kept& child) { return child.spec.name.starts_with(prefix); };
  std::vector<pid_t> groups;
  for (Kept& child : kept_) {
    if (concerns(child)) {
      child.wanted = false;
      if (child.pid > 0) {
        groups.push_back(child.pid);
        ::kill(child.pid, SIGTERM);
      }
    }
  }
  const auto gone = [&] {
    return std::none_of(kept_.begin(), kept_.end(),
                        [&](const Kept& child) { return concerns(child) && child.pid > 0; });
  };
  const int signals_before = stop_signals_;
  wait([&] { return gone() || stop_signals_ > std::max(signals_before, 1); }, Clock::now() + grace);
  for (const Kept& child : kept_) {
    if (concerns(child) && child.pid > 0) {
      say_(child.spec.name + " did not stop in time: killed");
    }
  }
  for (const pid_t group : groups) {
    ::kill(-group, SIGKILL);  // also what the child started and left
  }
  wait(gone, Clock::now() + kLongestBackoff);
  kept_.remove_if(concerns);
}

std::size_t Supervisor::finish() {
  for (Kept& child : kept_) {
    child.wanted = false;
  }
  std::size_t killed = 0;
  std::vector<pid_t> seen;
  const auto none_left = [&] {
    const std::vector<pid_t> left = children_of_this_process();
    for (const pid_t pid : left) {
      if (std::find(seen.begin(), seen.end(), pid) == seen.end()) {
        seen.push_back(pid);
        ++killed;
      }
      ::kill(pid, SIGKILL);
    }
    return left.empty();
  };
  // The children of what was killed become ours: look again after every death.
  wait(none_left, Clock::now() + kLongestBackoff);
  kept_.clear();
  return killed;
}

bool Supervisor::wait(const std::function<bool()>& done, Clock::time_point deadline) {
  while (!done()) {
    if (Clock::now() >= deadline) {
      return false;
    }
    step(deadline);
  }
  return true;
}

void Supervisor::step(Clock::time_point deadline) {
  std::vector<pollfd> polled{{signals_.get(), POLLIN, 0}};
  std::vector<Kept*> waiting;
  for (Kept& child : kept_) {
    if (child.ready_fd) {
      polled.push_back({child.ready_fd.get(), POLLIN, 0});
      waiting.push_back(&child);
    }
  }
  const auto left = std::chrono::ceil<milliseconds>(next_due(deadline) - Clock::now());
  const int timeout = static_cast<int>(std::clamp<long>(left.count(), 0, 3'600'000));
  if (::poll(polled.data(), polled.size(), timeout) < 0 && errno != EINTR) {
    throw std::runtime_error(failure_of_system("poll", errno).detail);
  }
  for (std::size_t i = 0; i < waiting.size(); ++i) {
    if (polled[i + 1].revents != 0) {
      read_ready(*waiting[i]);
    }
  }
  if (polled[0].revents != 0) {
    read_signals();
    reap();
  }
  do_due_work();
}

Supervisor::Clock::time_point Supervisor::next_due(Clock::time_point deadline) const {
  for (const Kept& child : kept_) {
    if (child.wanted && !child.starting) {
      if (child.pid < 0) {
        deadline = std::min(deadline, child.restart_at);
      } else if (!child.ready) {
        deadline = std::min(deadline, child.started + kRestartBound);
      }
    }
  }
  return deadline;
}

void Supervisor::read_signals() {
  signalfd_siginfo info{};
  while (::read(signals_.get(), &info, sizeof info) == sizeof info) {
    if (info.ssi_signo != SIGCHLD) {
      ++stop_signals_;
    }
  }
}

void Supervisor::reap() {
  int status = 0;
  for (pid_t pid = ::waitpid(-1, &status, WNOHANG); pid > 0;
       pid = ::waitpid(-1, &status, WNOHANG)) {
    if (pid == once_.pid) {
      once_.status = status;
      continue;
    }
    for (Kept& child : kept_) {
      if (child.pid == pid) {
        on_exit(child, status);
        break;
      }
    }
  }
}

void Supervisor::on_exit(Kept& child, int status) {
  if (child.ready_fd) {
    read_ready(child);  // the line may be there already
  }
  child.pid = -1;
  child.ready = false;
  child.ready_fd.reset();
  child.ended = describe_exit(status);
  if (!child.wanted || child.starting) {
    return;
  }
  const bool good = Clock::now() - child.started >= kGoodRun || child.backoff == Milliseconds(0);
  child.backoff = good ? kFirstBackoff : std::min(child.backoff * 2, kLongestBackoff);
  child.restart_at = Clock::now() + child.backoff;
  say_(child.spec.name + " ended with " + child.ended + ": starting it again in " +
       in_seconds(child.backoff));
}

void Supervisor::read_ready(Kept& child) {
  std::array<char, kMaxReadyLine> buffer{};
  const ssize_t count = ::read(child.ready_fd.get(), buffer.data(), buffer.size());
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) {
    return;
  }
  if (count <= 0) {
    child.ready_fd.reset();  // closed without a line: its end, or the deadline, tells
    return;
  }
  child.ready_line.append(buffer.data(), static_cast<std::size_t>(count));
  const std::size_t end = child.ready_line.find('\n');
  if (end != std::string::npos) {
    child.ready_line.resize(end);
    child.ready = true;
    child.ready_fd.reset();
    if (!child.starting) {
      say_(child.spec.name + " is running again");
    }
  } else if (child.ready_line.size() > kMaxReadyLine) {
    say_(child.spec.name +
         " said something strange instead of being ready: " + printable(child.ready_line, 80));
    child.ready_fd.reset();
  }
}

void Supervisor::do_due_work() {
  const Clock::time_point now = Clock::now();
  for (Kept& child : kept_) {
    if (!child.wanted || child.starting) {
      continue;
    }
    if (child.pid < 0 && now >= child.restart_at) {
      if (const Result<void> launched = launch(child); !launched) {
        child.backoff = std::min(child.backoff * 2, kLongestBackoff);
        child.restart_at = now + child.backoff;
        say_(launched.error().detail + ": trying again in " + in_seconds(child.backoff));
      }
    } else if (child.pid > 0 && !child.ready && now >= child.started + kRestartBound) {
      say_(child.spec.name + " was not ready within " + in_seconds(kRestartBound) + ": killed");
      child.started = now;  // its death comes soon, as a signal
      ::kill(child.pid, SIGKILL);
    }
  }
}

Result<void> Supervisor::launch(Kept& child) {
  Result<Child> made = spawn(child.spec);
  if (!made) {
    return made.error();
  }
  child.pid = made->pid;
  child.ready_fd = std::move(made->ready);
  child.ready_line.clear();
  child.ready = !child.spec.reports_ready;
  child.started = Clock::now();
  return {};
}

}  // namespace runbus::cli
