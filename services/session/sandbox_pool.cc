#include "services/session/sandbox_pool.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "proto/support/id.h"
#include "proto/support/log.h"
#include "services/session/process_id.h"

namespace runbus::session {
namespace {

constexpr std::size_t kIdBytes = 16;

std::string ready_path(const std::string& dir) { return dir + "/ready"; }

Result<void> mark_ready(const std::string& dir, const std::string& kind) {
  const std::string path = ready_path(dir);
  const std::string fresh = path + ".new";
  const UniqueFd fd(::open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd || ::write(fd.get(), kind.data(), kind.size()) != static_cast<ssize_t>(kind.size()) ||
      ::rename(fresh.c_str(), path.c_str()) != 0) {
    return make_error(ErrorCode::kUnavailable, "this node cannot make a sandbox now",
                      "write " + path + ": " + std::strerror(errno));
  }
  return {};
}

}  // namespace

std::optional<std::string> SandboxPool::ready_kind(const std::string& id) const {
  std::string kind = read_small_file(ready_path(store_.pool_dir(id)));
  return kind.empty() ? std::nullopt : std::optional(std::move(kind));
}

std::optional<SandboxRecord> SandboxPool::take(SandboxRecord wanted,
                                               const std::string& kind) const {
  for (const std::string& id : store_.pool_ids()) {
    if (ready_kind(id) != kind) {
      continue;
    }
    const auto lock = store_.try_lock(id);
    if (!lock) {
      continue;
    }
    const bool taken = take_locked(id, wanted, kind);
    lock->forget();  // from now on the session's lock is its lock
    if (taken) {
      return wanted;
    }
  }
  return std::nullopt;
}

bool SandboxPool::take_locked(const std::string& id, SandboxRecord& wanted,
                              const std::string& kind) const {
  // Another may have taken it before we had the lock.
  if (ready_kind(id) != kind || !engine_.alive(store_.pool_dir(id))) {
    return false;
  }
  wanted.dir = store_.pool_dir(id);
  // In this order: at no moment can a second session find it, nor two names lead to it.
  if (::unlink(ready_path(wanted.dir).c_str()) != 0 || !store_.save(wanted) ||
      !store_.link(wanted.key, id)) {
    spdlog::warn("a sandbox of the pool could not be taken: {}", std::strerror(errno));
    return false;
  }
  store_.touch(wanted.key);
  return true;
}

std::vector<SandboxRecord> SandboxPool::tend(const std::string& kind, std::size_t size,
                                             bool tidy) const {
  std::vector<SandboxRecord> ready;
  for (const std::string& id : store_.pool_ids()) {
    if (store_.is_linked(id)) {
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
  if (store_.is_linked(id)) {
    return std::nullopt;
  }
  auto record = store_.load_pooled(id);
  if (record && record->engine != engine_.name()) {
    return std::nullopt;
  }
  const auto ready_as = ready_kind(id);
  const bool alive = record && ready_as && engine_.alive(record->dir);
  const bool fits = alive && ready_as == kind;
  if (alive && (!tidy || (fits && wanted))) {
    return fits ? std::move(record) : std::nullopt;
  }
  remove(id);
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
    done = mark_ready(like.dir, kind);
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
