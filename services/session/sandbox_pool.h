#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "services/session/engine.h"
#include "services/session/sandbox_store.h"

namespace runbus::session {

// Sandboxes of a node that run their agent and are no session's yet, so that a new session need not
// wait for one to be made. One that was never given away has never run anything of anybody; one
// that was is never taken back. While it may be taken there is a link to it in `ready/`, which the
// one who takes it renames (SandboxStore); so no two get the same, and whatever dies in between, a
// sandbox without a link that nobody is making is removed. Blocking; any thread, several workers at
// once.
class SandboxPool {
 public:
  // Both outlive the pool.
  SandboxPool(Engine& engine, const SandboxStore& store) : engine_(engine), store_(store) {}

  // Makes a living sandbox of `kind` that of `wanted`, a session without one whose lock is held,
  // and says in it where it is. False: there is none. After an error there is what has to be
  // removed.
  Result<bool> take(SandboxRecord& wanted, const std::string& kind) const;

  // Removes what is no use to anybody; returns those of `kind` that are ready. `tidy`: removes also
  // other kinds and all beyond `size`.
  std::vector<SandboxRecord> tend(const std::string& kind, std::size_t size, bool tidy) const;

  // Adds one: `start` makes the sandbox of a record, which is `like` with a place of its own.
  Result<SandboxRecord> make(SandboxRecord like, const std::string& kind,
                             const std::function<Result<void>(const SandboxRecord&)>& start) const;

 private:
  // The record of one that is ready; `wanted` is whether one more is.
  std::optional<SandboxRecord> tend_locked(const std::string& id, const std::string& kind,
                                           bool tidy, bool wanted) const;
  void remove(const std::string& id) const;

  Engine& engine_;
  const SandboxStore& store_;
};

}  // namespace runbus::session
