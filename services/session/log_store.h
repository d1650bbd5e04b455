#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "proto/support/error.h"
#include "proto/support/unique_fd.h"

// What executions printed whose sandbox has gone: STATE/logs/<key>/<execution id>/, each folder as
// its agent left it (services/log), out of the reach of any sandbox, beside the session's id in
// `.session`. A folder moves here when its
// sandbox is removed, at once and whole, and its time is that of the execution's end. The agents
// that wrote them are not trusted. Blocking; several threads and processes at once: what another
// removes meanwhile is not an error.
namespace runbus::session {

class LogStore {
 public:
  // Of one session: an agent that keeps to its own bounds has no more than that.
  static constexpr std::size_t kMaxPerSession = 256;
  static constexpr std::uint64_t kMaxSessionBytes = 1ULL << 30U;

  explicit LogStore(const std::string& state_dir) : root_(state_dir + "/logs") {}

  Result<void> prepare() const;

  // Takes over what is in the log folder of a sandbox that has been destroyed; its lock is held.
  // What is over the bounds stays there, the oldest first. `session_id` may be empty: not known.
  // `ended_by`: the limit at which the kernel killed all of the sandbox, which is then the end of
  // every execution that has none; empty: it was something else.
  void keep(const std::string& key, const std::string& session_id, const std::string& log_folder,
            const std::string& ended_by) const;

  // The sessions of which something is kept, as far as their ids are known.
  std::vector<std::string> sessions() const;
  // Quick enough for the loop.
  bool has(const std::string& key) const;
  bool has(const std::string& key, const std::string& execution_id) const;
  // The execution's folder, or none.
  UniqueFd open(const std::string& key, const std::string& execution_id) const;
  std::vector<std::string> executions(const std::string& key) const;

  // Of all sessions.
  struct Bounds {
    std::chrono::milliseconds ttl{300'000};
    std::uint64_t bytes = 1ULL << 30U;
    std::size_t count = 4096;
  };
  // Removes what is past its time, then the oldest until the rest is within the bounds.
  void sweep(const Bounds& bounds) const;

 private:
  struct Entry {
    std::string path;
    std::int64_t ended_ms = 0;
    std::uint64_t bytes = 0;
  };
  std::vector<Entry> entries() const;
  void drop_if_empty(const std::string& session) const;

  std::string root_;
};

}  // namespace runbus::session
