#include "services/session/process_id.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <sstream>

namespace runbus::session {
namespace {

struct Stat {
  char state = 'X';
  std::uint64_t start_time = 0;
};

Stat read_stat(pid_t pid) {
  const std::string text = read_proc(pid, "stat");
  // The command name is in parentheses and may hold any character, also ')'.
  const auto end_of_name = text.rfind(')');
  Stat stat;
  if (end_of_name == std::string::npos || end_of_name + 2 >= text.size()) {
    return stat;
  }
  std::istringstream fields(text.substr(end_of_name + 2));
  fields >> stat.state;
  std::string skipped;
  for (int field = 4; field < 22; ++field) {
    fields >> skipped;
  }
  fields >> stat.start_time;
  return stat;
}

int milliseconds_until(Deadline deadline) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
      deadline - std::chrono::steady_clock::now());
  return left.count() > 0 ? static_cast<int>(left.count()) + 1 : 0;
}

bool has_ended(int pidfd) {
  pollfd item{pidfd, POLLIN, 0};
  return ::poll(&item, 1, 0) > 0;
}

// Reaps `pid`, which has ended, when it is our child; a process of somebody else is left to its
// parent. With WNOHANG the kernel may say for a moment that it has not ended (seen with 6.18), and
// then nobody asks again.
void reap(pid_t pid) {
  while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
}

}  // namespace

std::string read_small_file(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string text;
  char buffer[4096];
  while (fd && text.size() < (64U << 10)) {
    const ssize_t got = ::read(fd.get(), buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got <= 0) {
      break;
    }
    text.append(buffer, static_cast<std::size_t>(got));
  }
  return text;
}

std::string read_proc(pid_t pid, const char* file) {
  return read_small_file("/proc/" + std::to_string(pid) + "/" + file);
}

ProcessId ProcessId::of(pid_t pid) { return {pid, read_stat(pid).start_time}; }

bool ProcessId::alive() const {
  if (pid <= 0) {
    return false;
  }
  const Stat stat = read_stat(pid);
  if (stat.start_time != start_time || start_time == 0) {
    return false;
  }
  if (stat.state != 'Z' && stat.state != 'X') {
    return true;
  }
  // Its first thread has ended; others may go on.
  const UniqueFd fd = open();
  if (fd && !has_ended(fd.get())) {
    return true;
  }
  if (fd) {
    reap(pid);
  }
  return false;
}

UniqueFd ProcessId::open() const {
  if (pid <= 0 || start_time == 0) {
    return {};
  }
  UniqueFd fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  // Only now is the pid pinned: compare the start time after opening, not before.
  if (fd && read_stat(pid).start_time != start_time) {
    fd.reset();
  }
  return fd;
}

bool ProcessId::signal(int number) const {
  const UniqueFd fd = open();
  return fd && ::syscall(SYS_pidfd_send_signal, fd.get(), number, nullptr, 0) == 0;
}

bool ProcessId::wait(Deadline deadline) const {
  const UniqueFd fd = open();
  if (!fd) {
    return true;
  }
  for (;;) {
    pollfd item{fd.get(), POLLIN, 0};
    const int ready = ::poll(&item, 1, milliseconds_until(deadline));
    if (ready > 0) {
      reap(pid);
      return true;
    }
    if (ready == 0) {
      return false;
    }
    if (errno != EINTR) {
      return false;
    }
  }
}

std::vector<pid_t> ProcessId::children() const {
  std::vector<pid_t> found;
  if (pid <= 0 || read_stat(pid).start_time != start_time) {
    return found;
  }
  // Sandbox monitors have one thread, so the main thread's list is complete.
  std::istringstream list(read_proc(pid, ("task/" + std::to_string(pid) + "/children").c_str()));
  for (pid_t child = 0; list >> child;) {
    found.push_back(child);
  }
  return found;
}

}  // namespace runbus::session
