#pragma once

#include <sys/types.h>

#include <functional>
#include <utility>

#include "proto/support/unique_fd.h"
#include "services/agent/failure.h"
#include "services/agent/helper.h"
#include "services/agent/spare_wait.h"
#include "services/agent/workspace.h"

// Starts programs. The agent's side of a start never blocks: the fork returns at once, and how it
// went comes as a report (helper.h).
namespace runbus::agent {

// A started helper and our ends of its pipes, non-blocking. `input` is empty for a step without
// input.
struct StartedRun {
  pid_t helper = 0;
  pid_t program = 0;  // of a warm start, which needs no report of its start; else 0
  UniqueFd reports;
  UniqueFd input;
  UniqueFd output;
  UniqueFd error;
};

// Who may have a process ready for a step (warm_pool.h).
class WarmStarter {
 public:
  virtual ~WarmStarter() = default;
  // Hands the plan to a spare of this name and fills in helper, program and reports of `run`;
  // false, and nothing done, when there is none.
  virtual bool try_spawn(const std::string& name, const ProgramPlan& plan, StartedRun& run) = 0;
  // Begins `wait` if no spare of this name is ready and one is being made; else false.
  virtual bool wait_for_spare(const std::string& name, SpareWait& wait,
                              std::function<void()> go) = 0;
};

// The plan of a step, without its descriptors.
ProgramPlan plan_of(const v1::Step& step);

// The program's ends of its pipes go into `plan` (without input: /dev/null), ours into the result.
Outcome<StartedRun> make_pipes(bool takes_input, ProgramPlan& plan);

// Forks the helper that starts the program; fills in helper and reports of `run`.
std::optional<Failure> start_helper(const ProgramPlan& plan, StartedRun& run);

// What is wrong with a step, if anything: no program, zero bytes, too long.
std::optional<Failure> check_step(const v1::Step& step);

class Spawner {
 public:
  Spawner(const Workspace& workspace, WarmStarter& warm) : workspace_(workspace), warm_(warm) {}

  const Workspace& workspace() const { return workspace_; }

  // Whether the step's start is worth a wait, which has begun then: `go` is to start it.
  bool wait_for_spare(const v1::Step& step, SpareWait& wait, std::function<void()> go) const {
    return !step.warm().empty() && warm_.wait_for_spare(step.warm(), wait, std::move(go));
  }

  // `step` has passed check_step.
  Outcome<StartedRun> start(const v1::Step& step) const;

 private:
  const Workspace& workspace_;
  WarmStarter& warm_;
};

}  // namespace runbus::agent
