#include "services/agent/parent/serve.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstddef>
#include <cstring>

#include "services/agent/helper_protocol.h"
#include "services/agent/parent/messages.h"

// Neither a parent nor a helper touches the interpreter's memory once it serves: each page that
// they wrote would be copied, on the way of a run's end.
namespace runbus::agent {
namespace {

void receive_descriptors(int socket, int* descriptors, int count) {
  char word[16];
  const Message message = receive(socket, word, sizeof(word), count);
  std::memcpy(descriptors, message.descriptors, static_cast<std::size_t>(count) * sizeof(int));
}

// ---- helper: as helper.cc, but for one run after the other ----------------------------------

class Reports {
 public:
  explicit Reports(int pipe) : pipe_(pipe) {}

  void count(const rusage& usage) {
    cpu_microseconds_ += microseconds(usage.ru_utime) + microseconds(usage.ru_stime);
    const auto peak = static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
    peak_memory_ = peak > peak_memory_ ? peak : peak_memory_;
  }

  void add(HelperReport::Kind kind, int value) {
    HelperReport& record = records_[count_++];
    record.kind = kind;
    record.value = value;
    record.cpu_microseconds = cpu_microseconds_;
    record.peak_memory = peak_memory_;
  }

  bool empty() const { return count_ == 0; }

  // In one write, so whole or not at all.
  void send() {
    const std::size_t size = count_ * sizeof(HelperReport);
    count_ = 0;
    if (::write(pipe_, records_, size) != static_cast<ssize_t>(size)) {
      ::_exit(1);  // nobody listens
    }
  }

 private:
  static std::uint64_t microseconds(const timeval& time) {
    return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000 +
           static_cast<std::uint64_t>(time.tv_usec);
  }

  const int pipe_;
  std::uint64_t cpu_microseconds_ = 0;
  std::uint64_t peak_memory_ = 0;
  std::size_t count_ = 0;
  HelperReport records_[2];
};

void report_until_none_is_left(int pipe, pid_t spare) {
  Reports reports(pipe);
  reports.add(HelperReport::kReady, ::getpid());
  reports.add(HelperReport::kStarted, spare);
  reports.send();
  int options = 0;
  for (;;) {
    int status = 0;
    rusage usage{};
    const pid_t pid = ::wait4(-1, &status, __WALL | options, &usage);
    if (pid < 0 && errno == ECHILD) {
      reports.add(HelperReport::kGone, 0);
      reports.send();
      return;
    }
    if (pid > 0) {
      reports.count(usage);
    }
    if (pid == spare) {
      reports.add(HelperReport::kExited, status);
      // What is left is asked for without waiting, so that the end is told at once.
      options = WNOHANG;
    } else if (pid == 0) {
      if (!reports.empty()) {
        reports.send();
      }
      options = 0;
    }
  }
}

void become_helper(int control, Descriptors which) {
  ::setsid();
  ::prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  ::signal(SIGCHLD, SIG_DFL);
  sigset_t all;
  ::sigfillset(&all);
  ::sigprocmask(SIG_SETMASK, &all, nullptr);
  ::dup2(control, kControl);
  if (which == Descriptors::kAll) {
    close_range(kControl + 1, INT_MAX);
  } else {
    ::close(control);
  }
}

void become_spare(int job, int reports, pid_t helper, Descriptors which) {
  ::setsid();
  ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  if (::getppid() != helper) {
    ::_exit(0);
  }
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  if (which == Descriptors::kAll) {
    close_range(kControl, static_cast<unsigned>(job) - 1);
    close_range(static_cast<unsigned>(job) + 1, INT_MAX);
  } else {
    ::close(kControl);
    ::close(reports);
  }
}

// Returns in its spares, with the job's socket.
int help(Descriptors which) {
  const pid_t helper = ::getpid();
  for (;;) {
    int descriptors[2];
    receive_descriptors(kControl, descriptors, 2);
    const auto [job, pipe] = descriptors;
    const pid_t spare = ::fork();
    if (spare < 0) {
      ::_exit(1);
    }
    if (spare == 0) {
      become_spare(job, pipe, helper, which);
      return job;
    }
    ::close(job);
    report_until_none_is_left(pipe, spare);
    ::close(pipe);
    if (::send(kControl, "idle", 4, MSG_NOSIGNAL) < 0) {
      ::_exit(0);
    }
  }
}

}  // namespace

int serve(Descriptors which) {
  // The ends of helpers are for the kernel to see, nobody else.
  ::signal(SIGCHLD, SIG_IGN);
  if (::send(kControl, "up", 2, MSG_NOSIGNAL) < 0) {
    ::_exit(0);
  }
  for (;;) {
    int slot = -1;
    receive_descriptors(kControl, &slot, 1);
    const pid_t helper = ::fork();
    if (helper < 0) {
      ::_exit(1);
    }
    if (helper == 0) {
      become_helper(slot, which);
      return help(which);
    }
    ::close(slot);
  }
}

}  // namespace runbus::agent
