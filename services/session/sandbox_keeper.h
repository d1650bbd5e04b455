#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "services/session/engine.h"
#include "services/session/log_store.h"
#include "services/session/sandbox_pool.h"
#include "services/session/sandbox_store.h"

namespace runbus::session {

// What a new sandbox shall be. Ignored when the session has one already.
struct SessionOptions {
  bool network = false;
  Limits limits;
  std::map<std::string, std::string> environment;
};

struct KeeperOptions {
  std::string state_dir;
  std::string agent;  // path of runbus-agent
  std::uint32_t max_sessions = 256;
  // What else a sandbox is made of (runtime, image): one of the pool is given only to a session of
  // a worker that would make it the same way.
  std::string made_of;
  // A paused sandbox that was not used for this long is removed: its agent cannot end it.
  std::chrono::milliseconds destroy_after{600'000};
  std::uint64_t log_space = 256ULL << 20U;  // bytes of output of one session at most
};

// Makes, finds and removes the sandboxes of a node's state directory. Workers that share the
// directory keep out of each other's way by a lock per sandbox. All functions block, for seconds at
// worst; any thread, several at once.
class SandboxKeeper {
 public:
  // `engine` must allow calls from several threads for different sandboxes, as the local engines
  // do.
  SandboxKeeper(Engine& engine, KeeperOptions options)
      : engine_(engine),
        options_(std::move(options)),
        store_(options_.state_dir),
        logs_(options_.state_dir),
        pool_(engine, store_) {}

  const SandboxStore& store() const { return store_; }

  struct Opened {
    SandboxRecord record;
    bool created = false;
    bool resumed = false;           // it was paused
    std::uint64_t replaced_ms = 0;  // created_ms of a sandbox that was found dead and removed, or 0
    std::size_t sandboxes = 0;      // on the node, when it was created
    OomCounter oom_counter;
  };
  // The session's living sandbox, running; a dead one is removed. Without one: a new one of
  // `create`, or kNotFound. `unreachable_ms`: the sandbox of this created_ms is known to have lost
  // its agent; it is as good as dead.
  Result<Opened> open(const std::string& session_id, const std::optional<SessionOptions>& create,
                      std::uint64_t unreachable_ms);

  // Ends a session's sandbox and removes all there is of it but its executions' logs (LogStore).
  // True when there was one.
  Result<bool> close(const std::string& session_id);
  // The same unless the session was used after `unused_since_ms`.
  Result<bool> close_unused(const std::string& session_id, std::uint64_t unused_since_ms);

  // Freezes the session's sandbox unless it was used, held or looked at since `since_us`, or
  // meanwhile. Whether it is frozen now.
  Result<bool> pause(const std::string& session_id, std::uint64_t since_us);

  // The session's sandbox, if it is alive, left as it is. kNotFound.
  Result<SandboxRecord> look_up(const std::string& session_id);
  // Sandboxes that there are, dead ones that nobody has looked at included.
  std::size_t count() const { return store_.keys().size(); }
  // Sandboxes that are alive.
  std::vector<SandboxRecord> list();
  // Removes dead sandboxes, and paused ones that have not been used for destroy_after; those that
  // others are busy with are left. Returns the ids of their sessions.
  std::vector<std::string> sweep();

  // The sandboxes of the pool that a session with `options` would get, after one more was made if
  // there were fewer than `size` and no other worker makes one. `tidy`: others, of an earlier
  // worker with other flags, are removed, and those beyond `size`.
  struct Pooled {
    std::vector<SandboxRecord> ready;
    bool made = false;
  };
  Result<Pooled> fill_pool(const SessionOptions& options, std::size_t size, bool tidy);

 private:
  // `others`: sandboxes of the node.
  Result<SandboxRecord> create(const std::string& session_id, const SessionOptions& options,
                               std::size_t others);
  // Makes the sandbox that the record describes. `name`: its user id, cgroup and runtime have it.
  Result<void> start(const SandboxRecord& record, const std::string& name);
  // Whether the sweep has to remove it.
  bool is_over(const std::string& key);
  // Which sandboxes of the pool will do: a digest.
  std::string kind_of(const SessionOptions& options) const;
  Result<void> erase(const std::string& key, const SandboxLock& lock);
  Result<void> clear(const std::string& key);

  Engine& engine_;
  KeeperOptions options_;
  SandboxStore store_;
  LogStore logs_;
  SandboxPool pool_;
};

// Destroys every sandbox of a state directory, each by the engine that made it, and keeps their
// executions' logs; for `runbus up`.
// Returns how many there were; the first error is reported after all were tried.
Result<std::size_t> destroy_all_sandboxes(const std::string& state_dir);

}  // namespace runbus::session
