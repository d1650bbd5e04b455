#pragma once

#include <string>
#include <vector>

#include "services/session/engine_local.h"

namespace runbus::session {

// Sandboxes by bubblewrap(1): all namespaces, no capabilities, our system call filter, read-only
// binds. As root it becomes the session's own uid before bwrap runs (as root, bwrap would map the
// sandbox's user to the host's root); as an ordinary user bwrap's user namespace maps to that user.
// Cgroups are joined before bwrap runs, where the machine has them. The agent is PID 1; bwrap's
// outer process waits for it and ends with it. Neither dies with the worker.
class BubblewrapEngine : public LocalEngine {
 public:
  explicit BubblewrapEngine(EngineOptions options);
  std::string name() const override { return "bubblewrap"; }

 protected:
  Result<void> start(Start& start) override;
  std::string missing() override;
  std::string explain(const std::string& log) const override;

 private:
  std::string bwrap_;
};

}  // namespace runbus::session
