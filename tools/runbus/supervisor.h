#pragma once

#include <poll.h>
#include <sys/types.h>

#include <chrono>
#include <functional>
#include <list>
#include <optional>
#include <string>
#include <vector>

#include "proto/support/error.h"
#include "proto/support/unique_fd.h"
#include "tools/runbus/child.h"

namespace runbus::cli {

// Keeps children running, from one thread: one poll loop over a signalfd, the children's readiness
// pipes and the times at which something is due. Every wait has a bound, ends when a stop signal
// comes, and meanwhile goes on reaping and restarting.
//
// Guarantees: a child that was ready once and dies is started again after 0.1 s, doubling up to 5 s
// while it keeps dying soon; children die with this process, also when it is killed (child.h);
// after finish() no descendant of this process is left.
class Supervisor {
 public:
  using Clock = std::chrono::steady_clock;
  using Milliseconds = std::chrono::milliseconds;

  // Takes over SIGINT, SIGTERM, SIGHUP and SIGCHLD of this process, and becomes the reaper of its
  // descendants. `say` is given what a person may want to know.
  explicit Supervisor(std::function<void(const std::string&)> say);
  ~Supervisor();
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

  // Starts a child and waits until it is ready; gives its readiness line. From then on it is kept
  // running.
  Result<std::string> start(ChildSpec spec, Milliseconds bound);

  // What `name` is started with the next time.
  void change_arguments(const std::string& name, std::vector<std::string> argv);

  // Runs a program to its end; its exit code, 128 + signal for a signal. With `stoppable`, a stop
  // signal ends the wait; the program is killed then, and when the bound passes.
  Result<int> run(const ChildSpec& spec, Milliseconds bound, bool stoppable);

  // Returns when a stop signal has come.
  void supervise();

  // SIGTERM to every child whose name begins with `prefix`, and after `grace` (or at a second stop
  // signal) SIGKILL to its process group.
  void stop(const std::string& prefix, Milliseconds grace);

  // Kills and reaps whatever descendant is left; gives how many there were.
  std::size_t finish();

  bool stop_requested() const { return stop_signals_ > 0; }

 private:
  struct Kept {
    ChildSpec spec;
    pid_t pid = -1;
    UniqueFd ready_fd;
    std::string ready_line;
    bool ready = false;
    bool starting = true;  // the first start: a death is start()'s to report
    bool wanted = true;
    Milliseconds backoff{0};
    Clock::time_point started;
    Clock::time_point restart_at;  // when pid is -1
    std::string ended;             // how it ended last
  };
  struct Once {
    pid_t pid = -1;
    std::optional<int> status;
  };

  // Waits until `done` or the deadline, doing what is due; whether `done` is true.
  bool wait(const std::function<bool()>& done, Clock::time_point deadline);
  void step(Clock::time_point deadline);
  Clock::time_point next_due(Clock::time_point deadline) const;
  void read_signals();
  void reap();
  void on_exit(Kept& child, int status);
  void read_ready(Kept& child);
  void do_due_work();
  Result<void> launch(Kept& child);

  std::function<void(const std::string&)> say_;
  UniqueFd signals_;
  sigset_t old_mask_{};
  int stop_signals_ = 0;
  std::list<Kept> kept_;
  Once once_;
};

// "status 1" or "signal 9 (Killed)", of a wait status.
std::string describe_exit(int status);

}  // namespace runbus::cli
