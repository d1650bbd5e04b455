#include "services/agent/reaper.h"

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <system_error>
#include <vector>

namespace runbus::agent {
namespace {

// Looks in one go before others get their turn; each ends as soon as everything found is stopped.
constexpr int kLooksPerTurn = 4;
constexpr std::chrono::milliseconds kLongestPause{50};
// About five seconds of them.
constexpr int kPatientLooks = 100;
constexpr int kForgivenStops = 8;

sigset_t taken_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGCHLD, SIGTERM, SIGINT, SIGHUP}) {
    sigaddset(&set, signal);
  }
  return set;
}

}  // namespace

Reaper::Reaper(EventLoop& loop, std::function<void()> on_terminate)
    : loop_(loop), on_terminate_(std::move(on_terminate)), timer_(loop) {
  int subreaper = 0;
  has_subreapers_ = ::prctl(PR_GET_CHILD_SUBREAPER, &subreaper, 0, 0, 0) == 0;
  const sigset_t set = taken_signals();
  if (::sigprocmask(SIG_BLOCK, &set, nullptr) != 0) {
    throw std::system_error(errno, std::generic_category(), "sigprocmask");
  }
  signals_.reset(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_ ||
      !watch_.open(loop_, signals_.get(), EPOLLIN, [this](std::uint32_t) { on_signal(); })) {
    throw std::system_error(errno, std::generic_category(), "signalfd");
  }
}

void Reaper::on_signal() {
  signalfd_siginfo info{};
  while (::read(signals_.get(), &info, sizeof(info)) == static_cast<ssize_t>(sizeof(info))) {
    if (info.ssi_signo == SIGCHLD) {
      continue;
    }
    // A blocked signal reaches even PID 1. The kernel itself writes sender 0 for one from outside
    // of our PID namespace, and only these two codes are its own words.
    const bool from_kernel = info.ssi_code == SI_USER || info.ssi_code == SI_KERNEL;
    if (::getpid() != 1 || (from_kernel && info.ssi_pid == 0)) {
      on_terminate_();
    }
  }
  reap();
}

void Reaper::reap() {
  for (;;) {
    int status = 0;
    rusage usage{};
    const pid_t pid = ::wait4(-1, &status, WNOHANG | WUNTRACED | __WALL, &usage);
    if (pid <= 0) {
      break;
    }
    if (WIFSTOPPED(status)) {
      // A helper never stops by itself: a program did it, to keep its end from being reported, or
      // an earlier run's to a spare.
      const auto helper = helpers_.find(pid);
      if (helper != helpers_.end()) {
        ::kill(pid, ++helper->second.stops > kForgivenStops ? SIGKILL : SIGCONT);
      }
      continue;
    }
    on_child_ended(pid, status, usage);
  }
  if (std::any_of(helpers_.begin(), helpers_.end(),
                  [](const auto& item) { return item.second.lost; })) {
    timer_.cancel();
    pause_ = std::chrono::milliseconds(0);
  }
  schedule();
}

void Reaper::on_child_ended(pid_t pid, int status, const rusage& usage) {
  const auto helper = helpers_.find(pid);
  if (helper != helpers_.end()) {
    // A helper that ends well has seen the end of all it had. The usual case costs no look at
    // /proc.
    strangers_ = strangers_ || !WIFEXITED(status) || WEXITSTATUS(status) != 0;
    if (helper->second.run == nullptr) {
      helpers_.erase(helper);
    } else {
      helper->second.reaped = true;
    }
    return;
  }
  // Orphans come here only from a helper that was killed; there may be more of them.
  strangers_ = true;
  for (auto& [helper_pid, entry] : helpers_) {
    if (entry.run != nullptr && entry.program == pid) {
      entry.program = 0;
      entry.run->on_program_reaped(status, usage);
      return;
    }
  }
}

void Reaper::add(pid_t helper, Run& run) {
  Helper entry;
  entry.run = &run;
  helpers_[helper] = std::move(entry);
}

bool Reaper::adopt(pid_t helper, Run& run) {
  UniqueFd handle(static_cast<int>(::syscall(SYS_pidfd_open, helper, 0)));
  const auto entry = ProcessTable::look_up(helper);
  if (!handle || !entry || !helpers_.contains(entry->parent) || helpers_.contains(helper)) {
    return false;
  }
  add(helper, run);
  helpers_.at(helper).handle = std::move(handle);
  return true;
}

void Reaper::transfer(pid_t helper, Run& run) { helpers_.at(helper).run = &run; }

void Reaper::set_program(pid_t helper, pid_t program) {
  Helper& entry = helpers_.at(helper);
  entry.program = entry.session = program;
}

void Reaper::condemn(pid_t helper) {
  const auto found = helpers_.find(helper);
  if (found != helpers_.end() && found->second.run != nullptr && !found->second.condemned) {
    found->second.condemned = true;
    pause_ = std::chrono::milliseconds(0);
    schedule();
  }
}

void Reaper::release(pid_t helper) {
  const auto found = helpers_.find(helper);
  if (found == helpers_.end()) {
    return;
  }
  note_orphans_of(found->second);
  if (found->second.reaped || found->second.handle) {
    helpers_.erase(found);
    return;
  }
  found->second.run = nullptr;
  found->second.condemned = false;
}

// Without subreapers a helper cannot know what it left, when its run ends.
void Reaper::note_orphans_of(const Helper& helper) {
  if (!has_subreapers_) {
    ended_sessions_.insert(helper.session);
    strangers_ = true;
    pause_ = std::chrono::milliseconds(0);
    schedule();
  }
}

void Reaper::lost(pid_t helper) {
  Helper& entry = helpers_.at(helper);
  entry.lost = true;
  signal_helper(helper, entry, SIGKILL);
  strangers_ = true;
  pause_ = std::chrono::milliseconds(0);
  schedule();
}

bool Reaper::has_ended(const Helper& helper) {
  if (!helper.handle) {
    return helper.reaped;
  }
  pollfd ended{helper.handle.get(), POLLIN, 0};
  return ::poll(&ended, 1, 0) == 1;
}

void Reaper::signal_helper(pid_t pid, const Helper& helper, int signal) {
  if (helper.handle) {
    // Its number may be another process's by now.
    ::syscall(SYS_pidfd_send_signal, helper.handle.get(), signal, nullptr, 0);
  } else if (!helper.reaped) {
    ::kill(pid, signal);
  }
}

void Reaper::resume(pid_t helper) { signal_helper(helper, helpers_.at(helper), SIGCONT); }

void Reaper::schedule() {
  const bool work =
      strangers_ || std::any_of(helpers_.begin(), helpers_.end(), [](const auto& item) {
        return item.second.condemned || item.second.lost;
      });
  if (work && !timer_.armed()) {
    timer_.after(pause_, [this] { look(); });
  }
}

// The helper that `pid` is or is below; 0 when it is below us and no helper; -1 when it is not
// below us.
pid_t Reaper::owner_of(pid_t pid) const {
  for (std::size_t steps = 0; pid > 0 && steps <= table_.size(); ++steps) {
    if (helpers_.contains(pid)) {
      return pid;
    }
    pid = table_.parent_of(pid);
    if (pid == ::getpid()) {
      return 0;
    }
  }
  return -1;
}

// The helper whose program's session an orphan is in; 0: none.
pid_t Reaper::owner_of_orphan(pid_t session) const {
  for (const auto& [pid, helper] : helpers_) {
    if (!has_subreapers_ && helper.run != nullptr && helper.session == session) {
      return pid;
    }
  }
  return 0;
}

// Of a process below us and no helper: whether no run that goes on can have it.
bool Reaper::is_stranger(const ProcessEntry& process) const {
  return has_subreapers_ || ended_sessions_.contains(process.session) ||
         std::all_of(helpers_.begin(), helpers_.end(),
                     [](const auto& item) { return item.second.run == nullptr; });
}

bool Reaper::is_ours(pid_t pid) const {
  for (std::size_t steps = 0; pid > 0 && steps <= table_.size(); ++steps) {
    pid = table_.parent_of(pid);
    if (pid == ::getpid()) {
      return true;
    }
  }
  return false;
}

Reaper::Targets Reaper::targets() {
  table_.read();
  Targets found;
  for (const ProcessEntry& process : table_.all()) {
    pid_t owner = process.gone() ? -1 : owner_of(process.pid);
    if (owner < 0) {
      continue;
    }
    if (owner == 0) {
      owner = owner_of_orphan(process.session);
    }
    const auto helper = helpers_.find(owner);
    if (helper == helpers_.end()) {
      if (strangers_ && is_stranger(process)) {
        found.processes.insert(process.pid);
        found.ownerless = true;
      }
    } else if (helper->second.lost) {
      found.processes.insert(process.pid);
      found.ownerless = true;
    } else if (helper->second.condemned && process.pid != owner) {
      found.processes.insert(process.pid);
      found.owners.insert(owner);
    }
  }
  return found;
}

// A helper that has nothing left to wait for and does not say so was stopped by a program.
void Reaper::kill_stuck_helpers(const Targets& left) {
  for (auto& [pid, helper] : helpers_) {
    if (!helper.condemned || helper.lost || left.owners.contains(pid)) {
      helper.idle_looks = 0;
    } else if (++helper.idle_looks == kPatientLooks) {
      signal_helper(pid, helper, SIGKILL);
    }
  }
}

void Reaper::kill_targets() {
  std::set<pid_t> known;
  for (int looks = 0; looks < kLooksPerTurn; ++looks) {
    const std::set<pid_t> found = targets().processes;
    if (std::includes(known.begin(), known.end(), found.begin(), found.end())) {
      break;
    }
    for (const pid_t pid : found) {
      ::kill(pid, SIGSTOP);
    }
    known.insert(found.begin(), found.end());
  }
  for (const pid_t pid : known) {
    ::kill(pid, SIGKILL);
  }
}

void Reaper::look() {
  kill_targets();
  // Back off: a process that cannot die yet (in the kernel) must not cost all our time.
  pause_ = std::min(kLongestPause, 2 * pause_ + std::chrono::milliseconds(1));
  reap();
  const Targets left = targets();
  kill_stuck_helpers(left);
  if (!left.ownerless) {
    strangers_ = false;
    ended_sessions_.clear();
    finish_swept();
  }
  schedule();
}

void Reaper::finish_swept() {
  std::vector<Run*> swept;
  for (auto entry = helpers_.begin(); entry != helpers_.end();) {
    if (entry->second.lost && has_ended(entry->second)) {
      note_orphans_of(entry->second);
      swept.push_back(entry->second.run);
      entry = helpers_.erase(entry);
    } else {
      ++entry;
    }
  }
  for (Run* run : swept) {
    run->on_swept();
  }
}

void Reaper::kill_everything(std::chrono::milliseconds patience) {
  if (::getpid() == 1) {
    // One walk of the kernel over all of our PID namespace, which no fork can outrun.
    ::kill(-1, SIGKILL);
  }
  const auto until = Clock::now() + patience;
  sigset_t child;
  sigemptyset(&child);
  sigaddset(&child, SIGCHLD);
  while (Clock::now() < until) {
    table_.read();
    for (const ProcessEntry& process : table_.all()) {
      if (!process.gone() && is_ours(process.pid)) {
        ::kill(process.pid, process.frozen() ? SIGKILL : SIGSTOP);
      }
    }
    pid_t pid = 0;
    do {
      pid = ::wait4(-1, nullptr, WNOHANG | __WALL, nullptr);
    } while (pid > 0);
    if (pid < 0 && errno == ECHILD) {
      return;
    }
    const timespec moment{0, 2'000'000};
    ::sigtimedwait(&child, nullptr, &moment);
  }
}

}  // namespace runbus::agent
