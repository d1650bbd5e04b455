#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <functional>
#include <map>
#include <set>

#include "proto/support/unique_fd.h"
#include "services/agent/event_loop.h"
#include "services/agent/process_table.h"

struct rusage;

// Reaps the agent's children and kills what a run leaves behind.
//
// Each run has a helper, a child of the agent and a child subreaper (helper.h), so whatever the run
// starts, double-forked and in a session of its own or not, stays below the helper. A *condemned*
// run's processes are all stopped first (so that none forks on while others die) and then killed,
// look by look at /proc, until the helper says that it has no child left. If a program kills its
// helper, its processes become children of the agent: every child that is no helper is killed.
//
// Where the kernel has no child subreapers (gVisor), orphans become children of the agent as PID 1.
// Those in the session (setsid) of a run's program are that run's, while it runs and when it has
// ended; the others are killed when a run ends and no other runs.
namespace runbus::agent {

class Reaper {
 public:
  // What a run wants to know when its helper cannot tell it.
  class Run {
   public:
    virtual ~Run() = default;
    // The program was reaped here, because its helper had died.
    virtual void on_program_reaped(int status, const rusage& usage) = 0;
    // The helper had died, and now nothing that it left is alive.
    virtual void on_swept() = 0;
  };

  // Blocks SIGCHLD, SIGTERM, SIGINT and SIGHUP for the process and takes them from `loop`.
  // `on_terminate`: somebody who may asks the agent to end. As PID 1 that is somebody outside of
  // the sandbox: programs inside cannot stop it.
  Reaper(EventLoop& loop, std::function<void()> on_terminate);

  // A helper was started. `run` must call release() or lost() and then stay until on_swept().
  void add(pid_t helper, Run& run);
  // The same for one that a helper forked (a warm interpreter's parent is one); false when it is
  // not.
  [[nodiscard]] bool adopt(pid_t helper, Run& run);
  // From now on the helper is this run's.
  void transfer(pid_t helper, Run& run);
  // Its program, as the helper reported it.
  void set_program(pid_t helper, pid_t program);
  // Lets it go on, should a program have stopped it.
  void resume(pid_t helper);
  // Kill everything below this helper, until release().
  void condemn(pid_t helper);
  // The helper said that nothing is below it, or its run does not care any more.
  void release(pid_t helper);
  // The helper's reports ended too early: kill it and all it left, then on_swept().
  void lost(pid_t helper);

  // Kills every descendant and waits for them, at most `patience`. Blocks: for the end of the
  // agent.
  void kill_everything(std::chrono::milliseconds patience);

 private:
  struct Helper {
    Run* run = nullptr;  // null: released, only to be reaped
    pid_t program = 0;
    pid_t session = 0;  // the program's, also after its end
    bool condemned = false;
    bool lost = false;
    bool reaped = false;
    int stops = 0;       // how often a program stopped it
    int idle_looks = 0;  // condemned, with nothing left to kill, and still not released
    UniqueFd handle;     // pidfd of an adopted one, which its own parent reaps
  };

  struct Targets {
    std::set<pid_t> processes;
    bool ownerless = false;  // some of them belong to no living helper
    std::set<pid_t> owners;  // the condemned helpers that the others belong to
  };

  static bool has_ended(const Helper& helper);
  static void signal_helper(pid_t pid, const Helper& helper, int signal);
  pid_t owner_of(pid_t pid) const;
  pid_t owner_of_orphan(pid_t session) const;
  bool is_stranger(const ProcessEntry& process) const;
  bool is_ours(pid_t pid) const;
  void kill_stuck_helpers(const Targets& left);
  void on_signal();
  void reap();
  void on_child_ended(pid_t pid, int status, const rusage& usage);
  void schedule();
  void look();
  Targets targets();
  void kill_targets();
  void finish_swept();
  void note_orphans_of(const Helper& helper);

  EventLoop& loop_;
  std::function<void()> on_terminate_;
  UniqueFd signals_;
  Watch watch_;
  Timer timer_;
  std::chrono::milliseconds pause_{0};
  ProcessTable table_;
  std::map<pid_t, Helper> helpers_;
  bool has_subreapers_;
  std::set<pid_t> ended_sessions_;  // of runs that ended since the last look, without subreapers
  bool strangers_ = false;          // there may be children that are no helpers
};

}  // namespace runbus::agent
