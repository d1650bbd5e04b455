#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <list>
#include <memory>

#include "proto/support/unique_fd.h"
#include "services/agent/event_loop.h"
#include "services/agent/failure.h"
#include "services/agent/helper.h"
#include "services/agent/reaper.h"
#include "services/agent/spawner.h"
#include "services/agent/warm_kind.h"
#include "services/agent/warm_pool.h"

// Spares of an interpreter: a parent, which forks helpers (parent/serve.h), and their slots.
//
// A parent is the interpreter as it is before its script, with what most runs need made ahead. A
// slot is a helper that serves one run after the other, each with a spare that it forks. It makes
// its next spare once the run that took the last one has ended, so that making spares does not take
// the processor from the runs that they are for; while that run goes on, another slot is made after
// a moment.
//
// No run ever waits for a spare. A parent that does not come up, or a spare that is not ready in
// time or whose pipe ends, costs the parent, which comes back, later and later when it keeps
// failing; runs start cold meanwhile.
namespace runbus::agent {

class WarmInterpreter final : public WarmSource, private Reaper::Run {
 public:
  // One for a run, and while runs come one for the run after it, for the time in which the first
  // slot makes its next.
  static constexpr std::size_t kSpares = 2;
  static constexpr std::size_t kIdleSpares = 1;
  // With those for runs that wait.
  static constexpr std::size_t kMostSlots = 4;

  WarmInterpreter(EventLoop& loop, Reaper& reaper, const v1::Warm& warm,
                  std::unique_ptr<WarmKind> kind);
  ~WarmInterpreter() override;

  const v1::Warm& warm() const override { return warm_; }
  bool try_spawn(const ProgramPlan& plan, StartedRun& run) override;
  bool wait_for_spare(SpareWait& wait, std::function<void()> go) override;

 private:
  enum class State {
    kMaking,  // a spare is asked for; patience_ runs
    kReady,   // known to the reaper as ours
    kBusy,    // a run has the helper and its spare
    kIdle,    // its run has ended; a spare is asked for soon
    kLost,    // the reaper sweeps it; ends with on_swept()
  };

  struct Slot final : Reaper::Run {
    explicit Slot(WarmInterpreter& owner) : interpreter(owner), timer(owner.loop_) {}
    void on_program_reaped(int, const rusage&) override {}
    void on_swept() override { interpreter.forget(*this); }

    WarmInterpreter& interpreter;
    State state = State::kMaking;
    bool orphan = false;  // its parent is gone: no further spare of it would be adopted
    pid_t helper = 0;     // while ready or lost
    pid_t program = 0;
    Clock::time_point taken_at;  // while busy
    UniqueFd control;
    UniqueFd job;
    UniqueFd reports;
    Watch control_watch;
    Watch watch;
    Timer timer;  // of kMaking: patience; of kIdle: when to ask
  };

  void start();
  void on_control();
  void fail();
  void restart_later();
  void on_program_reaped(int, const rusage&) override {}
  void on_swept() override;
  std::size_t available() const;
  std::size_t wanted() const;
  void refill();
  bool add_slot();
  bool request_spare(Slot& slot);
  void make_next(Slot& slot);
  void make_one_at_rest();
  std::size_t count(State state) const;
  bool has(State state) const { return count(state) > 0; }
  void let_go();
  void wake_all();
  void on_slot_control(Slot& slot);
  void on_report(Slot& slot);
  void drop(Slot& slot);
  void forget(Slot& slot);

  EventLoop& loop_;
  Reaper& reaper_;
  const v1::Warm warm_;
  const std::unique_ptr<WarmKind> kind_;
  pid_t parent_ = 0;
  bool up_ = false;
  UniqueFd control_;
  Watch control_watch_;
  Timer restart_timer_;
  Timer patience_;
  Timer refill_timer_;
  Timer idle_timer_;  // armed while runs come
  std::chrono::milliseconds restart_delay_;
  std::list<Slot> slots_;
  SpareWait::Queue waiting_;
};

}  // namespace runbus::agent
