#include "services/session/sandbox_keeper.h"

#include <fcntl.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "proto/support/log.h"
#include "services/session/digest.h"
#include "services/session/unix_path.h"

namespace runbus::session {
namespace {

std::uint64_t now_us() {
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(
                                        std::chrono::system_clock::now().time_since_epoch())
                                        .count());
}

std::uint64_t now_ms() { return now_us() / 1000; }

constexpr std::size_t kKindLength = 16;

// A look is answered within this, or its worker has died.
constexpr std::uint64_t kLookUs = 2'000'000;

}  // namespace

Result<void> SandboxKeeper::erase(const std::string& key, const SandboxLock& lock) {
  if (auto cleared = clear(key); !cleared) {
    return cleared;
  }
  lock.forget();
  return {};
}

Result<void> SandboxKeeper::clear(const std::string& key) {
  if (!store_.exists(key)) {
    return {};
  }
  const std::string limit = engine_.ended_by(store_.dir(key));
  if (auto destroyed = engine_.destroy(store_.dir(key)); !destroyed) {
    return destroyed;
  }
  const auto record = store_.load(key);
  logs_.keep(key, record ? record->session_id : "", store_.log_dir(key), limit);
  return store_.remove(key);
}

Result<SandboxKeeper::Opened> SandboxKeeper::open(const std::string& session_id,
                                                  const std::optional<SessionOptions>& create_with,
                                                  std::uint64_t unreachable_ms) {
  const std::string key = sandbox_key(session_id);
  if (!create_with && !store_.exists(key)) {
    return make_error(ErrorCode::kNotFound, "the session has no sandbox");
  }
  auto lock = store_.lock(key);
  if (!lock) {
    return lock.error();
  }
  Opened opened;
  if (store_.exists(key)) {
    const std::optional<SandboxRecord> record = store_.load(key);
    if (record && record->engine != engine_.name()) {
      return make_error(ErrorCode::kUnavailable, "the session's sandbox is of another engine",
                        "made by " + record->engine);
    }
    if (record && record->created_ms != unreachable_ms && engine_.alive(record->dir)) {
      opened.record = *record;
      // Its worker is about to talk to it: nobody may pause it before that is use.
      const SandboxMarks marks(record->dir);
      marks.touch(SandboxMarks::Mark::kHeld);
      if (marks.is_paused()) {
        if (auto resumed = engine_.resume(record->dir); !resumed) {
          return resumed.error();
        }
        marks.note_resumed();
        opened.resumed = true;
      }
      return opened;
    }
    opened.replaced_ms = record ? record->created_ms : 0;
    if (!create_with) {
      if (auto erased = erase(key, *lock); !erased) {
        return erased.error();
      }
      Error gone = make_error(ErrorCode::kNotFound, "the session's sandbox has ended");
      return gone;
    }
    if (auto cleared = clear(key); !cleared) {
      return cleared.error();
    }
  }
  const std::size_t others = count();
  auto record = create(session_id, *create_with, others);
  if (!record) {
    if (auto erased = erase(key, *lock); !erased) {
      spdlog::warn("undoing a sandbox: {}", to_string(erased.error()));
    }
    return record.error();
  }
  opened.record = std::move(*record);
  opened.created = true;
  opened.sandboxes = others + 1;
  return opened;
}

Result<SandboxRecord> SandboxKeeper::create(const std::string& session_id,
                                            const SessionOptions& options, std::size_t others) {
  if (others >= options_.max_sessions) {
    Error error = make_error(ErrorCode::kQuota, "this node has as many sessions as it may have (" +
                                                    std::to_string(options_.max_sessions) + ")");
    error.limit = "sessions";
    return error;
  }
  SandboxRecord record;
  record.session_id = session_id;
  record.key = sandbox_key(session_id);
  record.engine = engine_.name();
  record.created_ms = now_ms();
  record.network = options.network;
  record.limits = options.limits;
  record.environment = options.environment;
  const Result<bool> taken = pool_.take(record, kind_of(options));
  if (!taken) {
    return taken.error();
  }
  if (*taken) {
    return record;
  }
  record.dir = store_.dir(record.key);
  if (auto started = start(record, record.key); !started) {
    return started.error();
  }
  return record;
}

Result<void> SandboxKeeper::start(const SandboxRecord& record, const std::string& name) {
  if (auto made = store_.make_directories(record); !made) {
    return made;
  }
  if (!record.session_id.empty()) {
    SandboxMarks(record.dir).touch();
  }
  if (auto saved = store_.save(record); !saved) {
    return saved;
  }
  const std::string socket = record.dir + "/agent.sock";
  auto listener = listen_unix(socket);
  if (!listener) {
    return listener.error();
  }
  const UniqueFd log_dir(::open((record.dir + "/log").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!log_dir) {
    return make_error(ErrorCode::kUnavailable, {},
                      std::string("open log: ") + std::strerror(errno));
  }
  SandboxSpec spec;
  spec.session_id = record.session_id;
  // Of this state directory alone: another one of the host may have a session of the same id, and
  // the key names the cgroup and the container.
  spec.key = name + "-" + sha256_hex(std::filesystem::absolute(record.dir).string()).substr(0, 12);
  spec.state_dir = record.dir;
  spec.workspace = record.dir + "/workspace";
  spec.agent = options_.agent;
  spec.agent_args = {"--log-space", std::to_string(options_.log_space)};
  spec.listen_fd = listener->get();
  spec.listen_path = socket;
  spec.log_dir_fd = log_dir.get();
  spec.network = record.network;
  spec.limits = record.limits;
  auto sandbox = engine_.create(spec);
  if (!sandbox) {
    Error error = sandbox.error();
    error.code = ErrorCode::kUnavailable;
    if (error.detail.empty()) {
      error.detail = "this node cannot make a sandbox now";
    }
    return error;
  }
  return {};
}

std::string SandboxKeeper::kind_of(const SessionOptions& options) const {
  const Limits& limits = options.limits;
  std::string kind = engine_.name() + '|' + options_.made_of + '|' + options_.agent + '|' +
                     (options.network ? "network" : "") + '|' + std::to_string(limits.cpus);
  for (const std::uint64_t number : {limits.memory, std::uint64_t{limits.processes}, limits.disk,
                                     limits.tmp, options_.log_space}) {
    kind += '|' + std::to_string(number);
  }
  return sha256_hex(kind).substr(0, kKindLength);
}

Result<SandboxKeeper::Pooled> SandboxKeeper::fill_pool(const SessionOptions& options,
                                                       std::size_t size, bool tidy) {
  const std::string kind = kind_of(options);
  Pooled pooled;
  pooled.ready = pool_.tend(kind, size, tidy);
  if (pooled.ready.size() >= size) {
    return pooled;
  }
  const auto only_maker = store_.try_lock("pool");
  if (!only_maker) {
    return pooled;
  }
  SandboxRecord record;
  record.engine = engine_.name();
  record.created_ms = now_ms();
  record.network = options.network;
  record.limits = options.limits;
  auto made = pool_.make(record, kind, [this](const SandboxRecord& prepared) {
    return start(prepared, prepared.key);
  });
  only_maker->forget();
  if (!made) {
    return made.error();
  }
  pooled.ready.push_back(std::move(*made));
  pooled.made = true;
  return pooled;
}

Result<bool> SandboxKeeper::close(const std::string& session_id) {
  return close_unused(session_id, UINT64_MAX);
}

Result<bool> SandboxKeeper::close_unused(const std::string& session_id,
                                         std::uint64_t unused_since_ms) {
  const std::string key = sandbox_key(session_id);
  if (!store_.exists(key)) {
    return false;
  }
  auto lock = store_.lock(key);
  if (!lock) {
    return lock.error();
  }
  if (store_.marks(key).last_used_us() > unused_since_ms * 1000) {
    return false;
  }
  const bool existed = store_.exists(key);
  if (auto erased = erase(key, *lock); !erased) {
    return erased.error();
  }
  return existed;
}

Result<bool> SandboxKeeper::pause(const std::string& session_id, std::uint64_t since_us) {
  using Mark = SandboxMarks::Mark;
  const std::string key = sandbox_key(session_id);
  const auto lock = store_.try_lock(key);
  if (!lock) {
    return false;
  }
  const auto record = store_.load(key);
  if (!record) {
    lock->forget();
    return false;
  }
  const SandboxMarks marks(record->dir);
  const auto wanted = [&] {
    return marks.last_used_us() > since_us || marks.marked_us(Mark::kHeld) > since_us ||
           marks.marked_us(Mark::kLooked) + kLookUs > now_us();
  };
  if (wanted() || marks.is_paused() || !engine_.alive(record->dir)) {
    return false;
  }
  // Whoever comes for the session leaves its mark and then looks for ours; we leave ours and then
  // look for theirs. So one of us sees the other.
  if (auto noted = marks.note_paused(); !noted) {
    return noted.error();
  }
  const auto paused = engine_.pause(record->dir);
  if (paused && !wanted()) {
    return true;
  }
  if (auto resumed = engine_.resume(record->dir); !resumed) {
    return resumed.error();  // still noted as paused: the next call tries again
  }
  marks.note_resumed();
  return paused ? Result<bool>(false) : paused.error();
}

std::vector<SandboxRecord> SandboxKeeper::list() {
  std::vector<SandboxRecord> records;
  for (const std::string& key : store_.keys()) {
    auto record = store_.load(key);
    if (record && engine_.alive(record->dir)) {
      record->paused = SandboxMarks(record->dir).is_paused();
      records.push_back(std::move(*record));
    }
  }
  return records;
}

Result<SandboxRecord> SandboxKeeper::look_up(const std::string& session_id) {
  const std::string key = sandbox_key(session_id);
  auto record = store_.load(key);
  if (!record || !engine_.alive(record->dir)) {
    return make_error(ErrorCode::kNotFound, "the session has no sandbox");
  }
  record->paused = SandboxMarks(record->dir).is_paused();
  return std::move(*record);
}

bool SandboxKeeper::is_over(const std::string& key) {
  const std::string dir = store_.dir(key);
  if (!engine_.alive(dir)) {
    return true;
  }
  const SandboxMarks marks(dir);
  const auto unused_ms = static_cast<std::uint64_t>(options_.destroy_after.count());
  return marks.is_paused() && now_us() > marks.last_used_us() + unused_ms * 1000;
}

std::vector<std::string> SandboxKeeper::sweep() {
  std::vector<std::string> ended;
  for (const std::string& key : store_.keys()) {
    if (!is_over(key)) {
      continue;
    }
    const auto lock = store_.try_lock(key);
    if (!lock || !is_over(key)) {
      continue;
    }
    const auto record = store_.load(key);
    if (record && record->engine != engine_.name()) {
      continue;
    }
    if (auto erased = erase(key, *lock); !erased) {
      spdlog::warn("removing a dead sandbox: {}", to_string(erased.error()));
    } else if (record) {
      ended.push_back(record->session_id);
    }
  }
  return ended;
}

Result<std::size_t> destroy_all_sandboxes(const std::string& state_dir) {
  const SandboxStore store(state_dir);
  const LogStore logs(state_dir);
  std::map<std::string, std::unique_ptr<Engine>> engines;
  std::optional<Error> first;
  std::size_t count = 0;
  const auto end = [&engines](const std::optional<SandboxRecord>& record) -> Result<void> {
    // Without a record nothing was started yet.
    if (!record) {
      return {};
    }
    std::unique_ptr<Engine>& engine = engines[record->engine];
    if (!engine) {
      EngineOptions options;
      options.engine = record->engine;
      options.insecure = true;  // to end one that was made so
      auto made = make_engine(options);
      if (!made) {
        return made.error();
      }
      engine = std::move(*made);
    }
    return engine->destroy(record->dir);
  };
  const auto destroy = [&](const std::string& key) -> Result<void> {
    auto lock = store.lock(key);
    if (!lock) {
      return lock.error();
    }
    const auto record = store.load(key);
    if (auto ended = end(record); !ended) {
      return ended;
    }
    logs.keep(key, record ? record->session_id : "", store.log_dir(key), "");
    auto removed = store.remove(key);
    if (removed) {
      lock->forget();
      ++count;
    }
    return removed;
  };
  const auto destroy_pooled = [&](const std::string& id) -> Result<void> {
    auto lock = store.lock(id);
    if (!lock) {
      return lock.error();
    }
    if (auto ended = end(store.load_pooled(id)); !ended) {
      return ended;
    }
    auto removed = store.remove_pooled(id);
    if (removed) {
      lock->forget();
    }
    return removed;
  };
  for (const std::string& key : store.keys()) {
    if (auto done = destroy(key); !done && !first) {
      first = done.error();
    }
  }
  for (const auto& [id, kind] : store.ready_kinds()) {
    store.unmark_ready(id, kind);
  }
  for (const std::string& id : store.pool_ids()) {
    if (auto done = destroy_pooled(id); !done && !first) {
      first = done.error();
    }
  }
  if (first) {
    return *first;
  }
  return count;
}

}  // namespace runbus::session
