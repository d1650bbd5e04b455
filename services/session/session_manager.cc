#include "services/session/session_manager.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <filesystem>
#include <utility>

#include "proto/support/id.h"
#include "proto/support/log.h"

namespace runbus::session {
namespace {

namespace asio = boost::asio;

// Engine calls wait for the kernel and for small programs, not for the processor.
constexpr std::size_t kPoolThreads = 4;
// How long a session that is closed gets to end by itself before the engine ends it.
constexpr std::chrono::seconds kShutdownTime{2};
// An agent that hangs up at once is ending, or has too many connections: it is looked for again.
constexpr int kMaxHungUp = 10;
constexpr std::chrono::milliseconds kHungUpPause{100};
// After an agent's connection broke: when its sandbox is looked at again.
constexpr std::chrono::milliseconds kFirstLook{40};
constexpr std::chrono::milliseconds kLastLook{1000};

}  // namespace

std::string Session::workspace() const {
  // Without a boundary programs see the host's own path.
  return record_.engine == "process" ? record_.dir + "/workspace" : "/workspace";
}

std::shared_ptr<AgentClient> Session::connect(std::function<void(Result<void>)> ready) const {
  return AgentClient::connect(executor_, record_.dir + "/agent.sock", std::move(ready));
}

SessionManager::SessionManager(asio::io_context& io, Engine& engine, ManagerOptions options)
    : io_(io),
      engine_(engine),
      options_(std::move(options)),
      keeper_(engine, options_.keeper),
      log_share_(options_.node_log_space),
      sweep_timer_(io),
      idle_timer_(io),
      quota_timer_(io),
      pool_(kPoolThreads) {}

SessionManager::~SessionManager() {
  alive_.reset();
  filler_.reset();
  pool_.join();
  for (auto& [id, slot] : slots_) {
    if (slot.session && slot.session->agent_) {
      slot.session->agent_->close();
    }
  }
}

Result<void> SessionManager::prepare() {
  const std::filesystem::path path(options_.keeper.state_dir);
  std::error_code failure;
  if (path.has_parent_path()) {
    std::filesystem::create_directories(path.parent_path(), failure);
  }
  if (failure) {
    return make_error(ErrorCode::kUnavailable, {}, path.string() + ": " + failure.message());
  }
  return keeper_.store().prepare();
}

void SessionManager::adopt() {
  sweep();
  if (options_.pause_after.count() > 0) {
    watch_idle();
  }
  if (options_.soft_quota) {
    watch_quotas();
  }
  if (options_.pool.size > 0) {
    // Often enough that an agent of the pool is never without a worker for destroy_after.
    const auto interval = std::min(options_.sweep_interval, options_.destroy_after / 3);
    filler_.emplace(io_, keeper_, options_.pool, interval, [this] { return configuration(); });
    filler_->look();
  }
}

void SessionManager::find_or_create(const std::string& session_id, SessionOptions options,
                                    Callback callback) {
  want(session_id, Waiter{std::move(options), std::move(callback)}, true);
}

void SessionManager::find(const std::string& session_id, Callback callback, bool use) {
  want(session_id, Waiter{std::nullopt, std::move(callback)}, use);
}

void SessionManager::want(const std::string& session_id, Waiter waiter, bool use) {
  if (!is_valid_id(session_id)) {
    asio::post(io_, [alive = std::weak_ptr(alive_), callback = std::move(waiter.callback)] {
      if (!alive.expired()) {
        callback(make_error(ErrorCode::kValidation, "session_id: not a valid id"));
      }
    });
    return;
  }
  if (SessionPtr session = get_open(session_id, use)) {
    asio::post(io_, [alive = std::weak_ptr(alive_), callback = std::move(waiter.callback),
                     session = std::move(session)] {
      if (!alive.expired()) {
        callback(session);
      }
    });
    return;
  }
  const auto [entry, fresh] = slots_.try_emplace(session_id);
  Slot& slot = entry->second;
  slot.used = std::chrono::steady_clock::now();
  slot.waiters.push_back(std::move(waiter));
  if (fresh || slot.state == Slot::State::kOpen) {
    open(session_id, 0);
  }
}

SessionPtr SessionManager::get_open(const std::string& session_id, bool use) {
  if (use) {
    releases_.erase(session_id);
  }
  const auto found = slots_.find(session_id);
  if (found == slots_.end() || found->second.state != Slot::State::kOpen) {
    return nullptr;
  }
  Slot& slot = found->second;
  slot.used = std::chrono::steady_clock::now();
  const SandboxMarks marks = slot.session->marks();
  // Before it is asked whether the session is paused: see SandboxKeeper::pause.
  marks.touch(use ? SandboxMarks::Mark::kUsed : SandboxMarks::Mark::kLooked);
  const bool answers =
      slot.session->agent_ && slot.session->agent_->connected() && !marks.is_paused();
  return answers ? slot.session : nullptr;
}

void SessionManager::open(const std::string& session_id, std::uint64_t unreachable_ms) {
  Slot& slot = slots_[session_id];
  slot.state = Slot::State::kOpening;
  std::optional<SessionOptions> create;
  for (const Waiter& waiter : slot.waiters) {
    if (waiter.create) {
      create = waiter.create;
      break;
    }
  }
  on_pool(
      [this, session_id, create = std::move(create), unreachable_ms] {
        auto opened = keeper_.open(session_id, create, unreachable_ms);
        if (opened) {
          opened->oom_counter = engine_.oom_counter(opened->record.dir);
        }
        return opened;
      },
      [this, session_id](Result<SandboxKeeper::Opened> result) {
        opened(session_id, std::move(result));
      });
}

void SessionManager::opened(const std::string& session_id, Result<SandboxKeeper::Opened> result) {
  if (!result) {
    failed(session_id, result.error());
    return;
  }
  if (result->created) {
    share_log_space(result->sandboxes);
    if (filler_) {
      filler_->taken();
    }
  }
  if (result->resumed && options_.on_resumed) {
    options_.on_resumed(session_id);
  }
  const SessionPtr& known = slots_[session_id].session;
  if (known && known->agent_->connected() &&
      known->record_.created_ms == result->record.created_ms) {
    ready(session_id, SessionPtr(known));
    return;
  }
  connect(session_id, std::move(*result));
}

void SessionManager::connect(const std::string& session_id, SandboxKeeper::Opened opened) {
  auto session = std::make_shared<Session>(io_.get_executor(), std::move(opened.record),
                                           std::move(opened.oom_counter));
  if (filler_ && opened.created) {
    if (auto connected_one = filler_->take(session->record_.dir)) {
      session->agent_ = std::move(connected_one->agent);
      session->configuration_ = std::move(connected_one->configuration);
      connected(session_id, session, true, {});
      return;
    }
  }
  session->agent_ = session->connect([this, alive = std::weak_ptr(alive_), session_id, session,
                                      created = opened.created](Result<void> result) {
    if (alive.lock()) {
      connected(session_id, session, created, result);
    }
  });
}

void SessionManager::connected(const std::string& session_id, const SessionPtr& session,
                               bool created, const Result<void>& result) {
  Slot& slot = slots_[session_id];
  if (!result) {
    // Nobody listens any more: the agent has ended, whatever its processes look like.
    if (result.error().code == ErrorCode::kUnavailable && !slot.retried) {
      slot.retried = true;
      open(session_id, session->record_.created_ms);
      return;
    }
    if (result.error().code == ErrorCode::kConnection && ++slot.hung_up <= kMaxHungUp) {
      auto timer = std::make_shared<asio::steady_timer>(io_, kHungUpPause);
      timer->async_wait([this, alive = std::weak_ptr(alive_), session_id,
                         timer](const boost::system::error_code& error) {
        if (!error && alive.lock()) {
          open(session_id, 0);
        }
      });
      return;
    }
    failed(session_id, make_error(ErrorCode::kUnavailable, "the session's agent does not answer",
                                  to_string(result.error())));
    return;
  }
  slot.retried = false;
  slot.hung_up = 0;
  session->agent_->on_closed(
      [this, alive = std::weak_ptr(alive_), session_id, session = session.get()] {
        if (alive.lock()) {
          lost(session_id, session);
        }
      });
  configure(*session);
  if (created && options_.on_opened) {
    options_.on_opened(session_id);
  }
  ready(session_id, session);
}

void SessionManager::ready(const std::string& session_id, const SessionPtr& session) {
  Slot& slot = slots_[session_id];
  slot.state = Slot::State::kOpen;
  slot.session = session;
  slot.used = std::chrono::steady_clock::now();
  session->marks().touch();
  auto waiters = std::exchange(slot.waiters, {});
  const bool close = !slot.closers.empty();
  for (Waiter& waiter : waiters) {
    waiter.callback(session);
  }
  if (close) {
    begin_close(session_id, slots_[session_id]);
  }
}

void SessionManager::failed(const std::string& session_id, const Error& error) {
  spdlog::log(error.code == ErrorCode::kNotFound ? spdlog::level::debug : spdlog::level::warn,
              "session {}: {}", printable(session_id), to_string(error));
  Slot& slot = slots_[session_id];
  auto waiters = std::exchange(slot.waiters, {});
  std::vector<Waiter> later;
  std::vector<Callback> told;
  for (Waiter& waiter : waiters) {
    // One that came while others only looked for the session still wants it made.
    if (error.code == ErrorCode::kNotFound && waiter.create) {
      later.push_back(std::move(waiter));
    } else {
      told.push_back(std::move(waiter.callback));
    }
  }
  slot.waiters = std::move(later);
  if (!slot.closers.empty()) {
    begin_close(session_id, slot);
  } else if (!slot.waiters.empty()) {
    slot.retried = false;
    slot.hung_up = 0;
    open(session_id, 0);
  } else {
    slots_.erase(session_id);
  }
  for (const Callback& callback : told) {
    callback(error);
  }
}

void SessionManager::lost(const std::string& session_id, const Session* session) {
  const auto found = slots_.find(session_id);
  if (found == slots_.end() || found->second.session.get() != session) {
    return;
  }
  Slot& slot = found->second;
  if (slot.state == Slot::State::kClosing) {
    remove(session_id);
    return;
  }
  if (slot.state != Slot::State::kOpen) {
    return;
  }
  // A dead sandbox goes at once, not with the next sweep; a living one is connected again when it
  // is wanted.
  sweep_lost(session_id, kFirstLook);
  slots_.erase(found);
}

// The connections of a process that is killed break a moment before it is dead.
void SessionManager::sweep_lost(const std::string& session_id, std::chrono::milliseconds again) {
  on_pool([this] { return keeper_.sweep(); },
          [this, session_id, again](const std::vector<std::string>& ended) {
            tell_closed(ended);
            if (again > kLastLook || slots_.contains(session_id) ||
                !keeper_.store().exists(sandbox_key(session_id))) {
              return;
            }
            auto timer = std::make_shared<asio::steady_timer>(io_, again);
            timer->async_wait([this, alive = std::weak_ptr(alive_), session_id, again,
                               timer](const boost::system::error_code& error) {
              if (!error && alive.lock()) {
                sweep_lost(session_id, 5 * again);
              }
            });
          });
}

void SessionManager::tell_closed(const std::vector<std::string>& session_ids) {
  for (const std::string& id : session_ids) {
    if (options_.on_closed) {
      options_.on_closed(id);
    }
  }
}

void SessionManager::close(const std::string& session_id,
                           std::function<void(Result<void>)> callback) {
  releases_.erase(session_id);
  const auto [entry, fresh] = slots_.try_emplace(session_id);
  Slot& slot = entry->second;
  slot.closers.push_back(std::move(callback));
  if (fresh) {
    slot.state = Slot::State::kClosing;
    remove(session_id);
  } else if (slot.state == Slot::State::kOpen) {
    begin_close(session_id, slot);
  }
}

void SessionManager::begin_close(const std::string& session_id, Slot& slot) {
  slot.state = Slot::State::kClosing;
  // A frozen agent cannot end by itself.
  if (!slot.session || !slot.session->agent_ || !slot.session->agent_->connected() ||
      slot.session->marks().is_paused()) {
    remove(session_id);
    return;
  }
  agent_v1::AgentRequest request;
  request.mutable_shutdown();
  slot.session->agent_->request(std::move(request), {}, nullptr);
  // The agent ends by breaking the connection (lost), or we break it.
  auto timer = std::make_shared<asio::steady_timer>(io_, kShutdownTime);
  timer->async_wait(
      [timer, agent = std::weak_ptr(slot.session->agent_)](const boost::system::error_code&) {
        if (const auto client = agent.lock()) {
          client->close();
        }
      });
}

void SessionManager::remove(const std::string& session_id) {
  on_pool([this, session_id] { return keeper_.close(session_id); },
          [this, session_id](const Result<bool>& result) { removed(session_id, result); });
}

void SessionManager::removed(const std::string& session_id, const Result<bool>& result) {
  if (result && *result && options_.on_closed) {
    options_.on_closed(session_id);
  }
  Slot& slot = slots_[session_id];
  slot.session = nullptr;
  slot.retried = false;
  auto closers = std::exchange(slot.closers, {});
  if (slot.waiters.empty()) {
    slots_.erase(session_id);
  } else {
    open(session_id, 0);
  }
  if (!result) {
    spdlog::error("closing session {}: {}", printable(session_id), to_string(result.error()));
  }
  for (const auto& closer : closers) {
    closer(result ? Result<void>() : Result<void>(result.error()));
  }
}

void SessionManager::release(const std::string& session_id, std::chrono::milliseconds linger) {
  const auto since =
      static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(
                                     std::chrono::system_clock::now().time_since_epoch())
                                     .count());
  auto& timer = releases_[session_id];
  timer = std::make_unique<asio::steady_timer>(io_, linger);
  timer->async_wait([this, alive = std::weak_ptr(alive_), session_id,
                     since](const boost::system::error_code& error) {
    if (error || !alive.lock()) {
      return;
    }
    releases_.erase(session_id);
    // Another worker of the node may have used it meanwhile; the sandbox's own mark tells.
    const std::string key = sandbox_key(session_id);
    on_pool([this, key] { return keeper_.store().marks(key).last_used_us(); },
            [this, session_id, since](std::uint64_t used) {
              if (used <= since) {
                close(session_id, [](const Result<void>&) {});
              }
            });
  });
}

void SessionManager::list(std::function<void(std::vector<SandboxRecord>)> callback) {
  on_pool([this] { return keeper_.list(); }, std::move(callback));
}

void SessionManager::look_up(const std::string& session_id,
                             std::function<void(Result<SandboxRecord>)> callback) {
  if (!is_valid_id(session_id)) {
    asio::post(io_, [alive = std::weak_ptr(alive_), callback = std::move(callback)] {
      if (!alive.expired()) {
        callback(make_error(ErrorCode::kValidation, "session_id: not a valid id"));
      }
    });
    return;
  }
  on_pool([this, session_id] { return keeper_.look_up(session_id); }, std::move(callback));
}

void SessionManager::sweep() {
  disconnect_idle();
  on_pool(
      [this] {
        auto ended = keeper_.sweep();
        return std::pair(std::move(ended), keeper_.count());
      },
      [this](const std::pair<std::vector<std::string>, std::size_t>& result) {
        tell_closed(result.first);
        share_log_space(result.second);
        sweep_timer_.expires_after(options_.sweep_interval);
        sweep_timer_.async_wait(
            [this, alive = std::weak_ptr(alive_)](const boost::system::error_code& error) {
              if (!error && alive.lock()) {
                sweep();
              }
            });
      });
}

void SessionManager::disconnect_idle() {
  // One that is to be paused stays connected until then.
  const auto before = std::chrono::steady_clock::now() -
                      std::max(options_.idle_disconnect, options_.pause_after * 2);
  std::vector<std::shared_ptr<AgentClient>> idle;
  for (const auto& [id, slot] : slots_) {
    // One reference is the slot's own.
    if (slot.state == Slot::State::kOpen && slot.used < before && slot.session.use_count() == 1 &&
        slot.session->agent_) {
      idle.push_back(slot.session->agent_);
    }
  }
  for (const auto& agent : idle) {
    agent->close();
  }
}

}  // namespace runbus::session
