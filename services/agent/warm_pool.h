#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "proto/support/unique_fd.h"
#include "runbus/v1/agent.pb.h"
#include "services/agent/event_loop.h"
#include "services/agent/helper.h"
#include "services/agent/reaper.h"
#include "services/agent/spawner.h"

// Interpreters that are started ahead of the runs that need them, so that a run costs a message
// instead of a start. For each configured interpreter there is a parent (python_parent.py), which
// forks helpers, and each helper forks a spare for one run after the other. A run takes a helper
// with its spare as it would take a cold start: the same reports, the same rules for what it leaves
// behind. Nothing depends on a spare being there: without one that is ready the run starts cold at
// once. A parent that is killed, or does not bring a spare in time, comes back, later and later
// when it keeps failing.
//
// Known interpreters: "python". Others are ignored (cold starts).
namespace runbus::agent {

class WarmInterpreter;

class WarmPool : public WarmStarter {
 public:
  WarmPool(EventLoop& loop, Reaper& reaper);
  ~WarmPool() override;

  // Replaces what is kept ready. What is configured already, and as before, stays.
  void configure(const google::protobuf::RepeatedPtrField<v1::Warm>& wanted);

  bool try_spawn(const std::string& name, const ProgramPlan& plan, StartedRun& run) override;

 private:
  EventLoop& loop_;
  Reaper& reaper_;
  std::vector<std::unique_ptr<WarmInterpreter>> interpreters_;
};

}  // namespace runbus::agent
