#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "proto/support/error.h"
#include "proto/support/unique_fd.h"
#include "services/session/engine.h"

// What a node's state directory says about its sandboxes. Several workers of the node share it:
//   sandboxes/<key>/   meta.json, agent.sock, log/, workspace/, marks, and what the engine keeps
//   pool/<id>/         the same of a sandbox that was made before any session wanted it
//   (sandbox_pool.h);
//                      once one has it, sandboxes/<key> is a link to it: its user id, its cgroup
//                      and its runtime know it by this path, so it never moves
//   logs/<key>/        what its executions printed, once the sandbox has gone (LogStore)
//   locks/<key or id>  flock(2) held while a sandbox is made, looked at or removed
// Everything is 0700 and its owner's alone, save that the engine gives log/ and workspace/ to the
// sandbox's uid. All functions block for file operations: for a thread of the pool. No state of its
// own but the path.
namespace runbus::session {

// A sandbox as it was asked for; what a later worker needs to take it over.
struct SandboxRecord {
  std::string session_id;
  std::string key;
  std::string dir;
  std::string engine;
  std::uint64_t created_ms = 0;  // since 1970 UTC
  bool network = false;
  Limits limits;
  std::map<std::string, std::string> environment;  // of every run
  bool paused = false;                             // when it was looked at; not kept in meta.json
};

// The name of a session in file names: clients choose session ids, so they are hashed.
std::string sandbox_key(const std::string& session_id);

// Held until destroyed. The file goes with the sandbox, so a lock is only good when the file is
// still there.
class SandboxLock {
 public:
  SandboxLock(UniqueFd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}
  // Removes the file; those who wait for it make a new one.
  void forget() const;

 private:
  UniqueFd fd_;
  std::string path_;
};

class SandboxStore {
 public:
  explicit SandboxStore(std::string state_dir) : root_(std::move(state_dir)) {}

  // Makes the directories.
  Result<void> prepare() const;

  // Where the sandbox really is.
  std::string dir(const std::string& key) const;
  std::string log_dir(const std::string& key) const { return dir(key) + "/log"; }
  std::vector<std::string> keys() const;
  bool exists(const std::string& key) const;

  std::string pool_dir(const std::string& id) const { return root_ + "/pool/" + id; }
  std::vector<std::string> pool_ids() const;
  // Makes the sandbox of the pool that of the session; its record is saved.
  Result<void> link(const std::string& key, const std::string& id) const;
  // Whether the sandbox of the pool is some session's.
  bool is_linked(const std::string& id) const;

  Result<SandboxLock> lock(const std::string& key) const;
  // Nothing when another holds it.
  std::optional<SandboxLock> try_lock(const std::string& key) const;

  std::optional<SandboxRecord> load(const std::string& key) const;
  // Of a sandbox of the pool; its session_id is empty while it is of none.
  std::optional<SandboxRecord> load_pooled(const std::string& id) const;
  Result<void> save(const SandboxRecord& record) const;

  Result<void> make_directories(const SandboxRecord& record) const;
  // Removes the directories. The lock is held and the engine has destroyed the sandbox.
  Result<void> remove(const std::string& key) const;
  Result<void> remove_pooled(const std::string& id) const;

  // Files whose time says when something last happened to a session, whichever worker it was.
  enum class Mark {
    kUsed,    // a call came for it
    kHeld,    // some worker works in it or reads from it
    kLooked,  // its agent was asked something that is no use of it, and has not answered
  };
  // Notes that it happens now, and when it happened (microseconds since 1970; 0: never). Quick
  // enough for the loop.
  void touch(const std::string& key, Mark mark = Mark::kUsed) const;
  std::uint64_t marked_us(const std::string& key, Mark mark) const;
  void clear(const std::string& key, Mark mark) const;
  std::uint64_t last_used_us(const std::string& key) const { return marked_us(key, Mark::kUsed); }

  // Whether the sandbox may be frozen: noted before it is, and until it no longer is. Quick enough
  // for the loop.
  bool is_paused(const std::string& key) const;
  Result<void> note_paused(const std::string& key) const;
  void note_resumed(const std::string& key) const;

 private:
  std::optional<SandboxLock> lock_with(const std::string& key, int operation) const;
  std::string mark_path(const std::string& key, Mark mark) const;
  std::string entry(const std::string& key) const { return root_ + "/sandboxes/" + key; }

  std::string root_;
};

}  // namespace runbus::session
