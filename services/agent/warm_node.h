#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <string>

#include "proto/support/unique_fd.h"
#include "services/agent/event_loop.h"
#include "services/agent/reaper.h"
#include "services/agent/spawner.h"
#include "services/agent/warm_pool.h"

// A spare Node.js process: started as any program is, below a helper of its own, with the pipes
// that its run will have (Node.js cannot be handed descriptors). It has come as far as the main
// script (node_spare.js) and waits there for what a run has of its own: script, arguments,
// environment, working directory; limits are set on it from here. The process is used for one run.
//
// The first spare is started after the first run that could have used it, the next one when the run
// that took the last has ended, or after a moment. A run takes a spare that is still starting once
// one of them got ready before: it is further than a cold start would be. What only a cold start
// can be (options before the script, what Node.js reads from its environment at its start) starts
// cold.
namespace runbus::agent {

class WarmNode final : public WarmSource, private Reaper::Run {
 public:
  // A job is sent in one go, into an empty socket buffer.
  static constexpr std::size_t kMaxJob = 64 * 1024;

  WarmNode(EventLoop& loop, Reaper& reaper, const v1::Warm& warm);
  ~WarmNode() override;

  const v1::Warm& warm() const override { return warm_; }
  bool try_spawn(const ProgramPlan& plan, StartedRun& run) override;
  // A run takes a spare as it is.
  bool wait_for_spare(SpareWait&, std::function<void()>) override { return false; }

 private:
  void start();
  void start_after(std::chrono::milliseconds delay);
  void on_reports();
  void on_job_socket();
  void discard();
  void on_program_reaped(int, const rusage&) override {}
  void on_swept() override;
  bool suits(const ProgramPlan& plan) const;
  bool hand_over(const ProgramPlan& plan, bool takes_input);
  void watch_end();

  EventLoop& loop_;
  Reaper& reaper_;
  const v1::Warm warm_;
  std::string program_path_;  // of the spare that is there
  StartedRun run_;            // helper 0: no spare is there
  UniqueFd job_;
  bool lost_ = false;    // the reaper sweeps it; ends with on_swept()
  bool proven_ = false;  // one got ready before
  Watch reports_watch_;
  Watch job_watch_;
  Timer patience_;
  Timer start_timer_;
  std::chrono::milliseconds delay_;
  UniqueFd taken_;  // pidfd of the program that the last run took
  Watch taken_watch_;
};

}  // namespace runbus::agent
