#pragma once

#include <string>

#include "services/session/engine_local.h"

namespace runbus::session {

// No boundary at all: the agent runs as the worker's user on the worker's host, limited by a cgroup
// where the machine has one. For development, behind `insecure` alone.
class ProcessEngine : public LocalEngine {
 public:
  explicit ProcessEngine(EngineOptions options) : LocalEngine(std::move(options)) {}
  std::string name() const override { return "process"; }

 protected:
  Result<void> start(Start& start) override;
  std::string missing() override { return {}; }
  std::string explain(const std::string& log) const override;
  bool is_boundary() const override { return false; }
};

}  // namespace runbus::session
