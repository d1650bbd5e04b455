#include "services/session/sandbox_pool.h"

#include <map>
#include <set>

#include "proto/support/id.h"
#include "proto/support/log.h"

namespace runbus::session {
namespace {

constexpr std::size_t kIdBytes = 16;

}  // namespace

Result<bool> SandboxPool::take(SandboxRecord& wanted, const std::string& kind) const {
  for (const auto& [id, kind_of_it] : store_.ready_kinds()) {
    const std::string dir = store_.pool_dir(id);
    // One that has ended is for whoever tends the pool.
    if (kind_of_it != kind || !engine_.alive(dir) || !store_.take_ready(id, kind, wanted.key)) {
      continue;
    }
    wanted.dir = dir;
    if (auto saved = store_.save(wanted); !saved) {
      return saved.error();
    }
    SandboxMarks(dir).touch();
    return true;
  }
  return false;
}

std::vector<SandboxRecord> SandboxPool::tend(const std::string& kind, std::size_t size,
                                             bool tidy) const {
  std::vector<SandboxRecord> ready;
  const std::set<std::string> linked = store_.linked_ids();
  for (const std::string& id : store_.pool_ids()) {
    if (linked.contains(id)) {
      continue;
    }
    const auto lock = store_.try_lock(id);
    // Whoever has the lock makes it, takes it or removes it.
    if (!lock) {
      continue;
    }
    if (auto record = tend_locked(id, kind, tidy, ready.size() < size)) {
      ready.push_back(std::move(*record));
    }
    lock->forget();
  }
  return ready;
}

std::optional<SandboxRecord> SandboxPool::tend_locked(const std::string& id,
                                                      const std::string& kind, bool tidy,
                                                      bool wanted) const {
  // In this order: one that was taken in between is linked.
  const std::map<std::string, std::string> kinds = store_.ready_kinds();
  const auto ready = kinds.find(id);
  if (ready == kinds.end() && store_.linked_ids().contains(id)) {
    return std::nullopt;
  }
  auto record = store_.load_pooled(id);
  if (record && record->engine != engine_.name()) {
    return std::nullopt;
  }
  const bool alive = record && ready != kinds.end() && engine_.alive(record->dir);
  const bool fits = alive && ready->second == kind;
  if (alive && (!tidy || (fits && wanted))) {
    return fits ? std::move(record) : std::nullopt;
  }
  // Else a session has just taken it.
  if (ready == kinds.end() || store_.unmark_ready(id, ready->second)) {
    remove(id);
  }
  return std::nullopt;
}

Result<SandboxRecord> SandboxPool::make(
    SandboxRecord like, const std::string& kind,
    const std::function<Result<void>(const SandboxRecord&)>& start) const {
  const std::string id = random_hex(kIdBytes);
  const auto lock = store_.lock(id);
  if (!lock) {
    return lock.error();
  }
  like.session_id.clear();
  like.key = id;
  like.dir = store_.pool_dir(id);
  Result<void> done = start(like);
  if (done) {
    done = store_.mark_ready(id, kind);
  }
  if (!done) {
    remove(id);
  }
  lock->forget();
  return done ? Result<SandboxRecord>(std::move(like)) : done.error();
}

void SandboxPool::remove(const std::string& id) const {
  Result<void> removed = engine_.destroy(store_.pool_dir(id));
  if (removed) {
    removed = store_.remove_pooled(id);
  }
  if (!removed) {
    spdlog::warn("removing a sandbox of the pool: {}", to_string(removed.error()));
  }
}

}  // namespace runbus::session
