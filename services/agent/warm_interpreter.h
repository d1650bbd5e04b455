#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <list>
#include <string>

#include "proto/support/unique_fd.h"
#include "services/agent/event_loop.h"
#include "services/agent/failure.h"
#include "services/agent/helper.h"
#include "services/agent/reaper.h"
#include "services/agent/spawner.h"

// One parent of spares and its spares (warm_pool.h).
namespace runbus::agent {

class WarmInterpreter final : public Reaper::Run {
 public:
  // Enough that runs one right after the other each find one.
  static constexpr std::size_t kSpares = 3;
  // A job is sent in one go, into an empty socket buffer.
  static constexpr std::size_t kMaxJob = 64 * 1024;

  WarmInterpreter(EventLoop& loop, Reaper& reaper, const v1::Warm& warm);
  ~WarmInterpreter() override;

  const v1::Warm& warm() const { return warm_; }

  // Hands the job to a spare; false when none is ready.
  bool try_spawn(const ProgramPlan& plan, StartedRun& run);

 private:
  // Known to the reaper from READY on; ends with its helper.
  struct Spare final : Reaper::Run {
    explicit Spare(WarmInterpreter& owner) : interpreter(owner) {}
    void on_program_reaped(int, const rusage&) override {}
    void on_swept() override { interpreter.forget(*this); }

    WarmInterpreter& interpreter;
    pid_t helper = 0;
    pid_t program = 0;
    UniqueFd job;
    UniqueFd reports;
    Watch watch;
  };

  void start();
  void on_parent_gone();
  void restart_later();
  void on_program_reaped(int, const rusage&) override {}
  void on_swept() override;
  void request_spares();
  bool request_spare();
  void on_report(Spare& spare);
  void drop(Spare& spare);
  void forget(Spare& spare);

  EventLoop& loop_;
  Reaper& reaper_;
  const v1::Warm warm_;
  pid_t parent_ = 0;
  UniqueFd control_;
  Watch control_watch_;
  Timer restart_timer_;
  std::chrono::milliseconds restart_delay_;
  std::list<Spare> spares_;
};

}  // namespace runbus::agent
