#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "proto/support/error.h"
#include "proto/support/unique_fd.h"
#include "services/session/engine.h"
#include "services/session/sandbox_marks.h"

// What a node's state directory says about its sandboxes. Several workers of the node share it:
//   sandboxes/<key>/   meta.json, agent.sock, log/, workspace/, marks, and what the engine keeps
//   pool/<id>/         the same of a sandbox that was made before any session wanted it
//   (sandbox_pool.h);
//                      once one has it, sandboxes/<key> is a link to it: its user id, its cgroup
//                      and its runtime know it by this path, so it never moves
//   ready/<kind>-<id>  a link to a sandbox of the pool that is no session's yet; that to be a
//                      session's, it is renamed to sandboxes/<key>
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
  // Those that are some session's.
  std::set<std::string> linked_ids() const;
  // Those that are ready for a session, each with its kind, a name without a dash.
  std::map<std::string, std::string> ready_kinds() const;
  Result<void> mark_ready(const std::string& id, const std::string& kind) const;
  // Makes one that is ready no session's, or that of the session. True for one caller alone,
  // whichever it asks for; at each moment it is ready or linked, unless it is neither for good.
  bool unmark_ready(const std::string& id, const std::string& kind) const;
  bool take_ready(const std::string& id, const std::string& kind, const std::string& key) const;

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

  SandboxMarks marks(const std::string& key) const { return SandboxMarks(dir(key)); }

 private:
  std::optional<SandboxLock> lock_with(const std::string& key, int operation) const;
  std::string ready_path(const std::string& id, const std::string& kind) const {
    return root_ + "/ready/" + kind + "-" + id;
  }
  std::string entry(const std::string& key) const { return root_ + "/sandboxes/" + key; }

  std::string root_;
};

}  // namespace runbus::session
