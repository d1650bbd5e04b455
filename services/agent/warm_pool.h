#pragma once

#include <memory>
#include <string>
#include <vector>

#include "runbus/v1/agent.pb.h"
#include "services/agent/event_loop.h"
#include "services/agent/helper.h"
#include "services/agent/reaper.h"
#include "services/agent/spawner.h"

// Interpreters that are started ahead of the runs that need them, so that a run costs a message
// instead of a start. A run takes a helper with its spare as it would take a cold start: the same
// reports, the same rules for what it leaves behind. Each spare serves one run. Nothing depends on
// a spare being there: without one the run starts cold, at once unless one is being made.
//
// Known interpreters: "python" and "node" (warm_interpreter.h, warm_kind.h). Others are ignored
// (cold starts).
namespace runbus::agent {

// The spares of one interpreter.
class WarmSource {
 public:
  virtual ~WarmSource() = default;
  virtual const v1::Warm& warm() const = 0;
  // As WarmStarter::try_spawn.
  virtual bool try_spawn(const ProgramPlan& plan, StartedRun& run) = 0;
  // As WarmStarter::wait_for_spare.
  virtual bool wait_for_spare(SpareWait& wait, std::function<void()> go) = 0;
};

class WarmPool : public WarmStarter {
 public:
  // `workspace`: its path, which is the home of programs.
  WarmPool(EventLoop& loop, Reaper& reaper, std::string workspace);
  ~WarmPool() override;

  // Replaces what is kept ready. What is configured already, and as before, stays.
  void configure(const google::protobuf::RepeatedPtrField<v1::Warm>& wanted);

  bool try_spawn(const std::string& name, const ProgramPlan& plan, StartedRun& run) override;
  bool wait_for_spare(const std::string& name, SpareWait& wait, std::function<void()> go) override;

 private:
  WarmSource* find(const std::string& name) const;
  static bool possible();
  std::unique_ptr<WarmSource> make(const v1::Warm& warm);

  EventLoop& loop_;
  Reaper& reaper_;
  const std::string workspace_;
  std::vector<std::unique_ptr<WarmSource>> sources_;
};

}  // namespace runbus::agent
