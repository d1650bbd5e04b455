#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "services/session/agent_client.h"
#include "services/session/engine.h"
#include "services/session/pool_filler.h"
#include "services/session/sandbox_keeper.h"

namespace runbus::session {

// A session whose sandbox lives on this node, with this worker's connection to its agent. Whoever
// works in the session holds the shared_ptr: a session that nobody holds is disconnected after a
// while, so that its agent may end an idle sandbox. Loop thread.
class Session {
 public:
  Session(boost::asio::any_io_executor executor, SandboxRecord record, OomCounter oom_counter)
      : executor_(std::move(executor)),
        record_(std::move(record)),
        oom_counter_(std::move(oom_counter)) {}

  const std::string& id() const { return record_.session_id; }
  const SandboxRecord& record() const { return record_; }
  SandboxMarks marks() const { return SandboxMarks(record_.dir); }
  // Where programs see the workspace.
  std::string workspace() const;
  // The shared connection; may break at any time (requests are then answered with kConnection).
  AgentClient& agent() const { return *agent_; }
  // Its workspace was larger than Limits::disk when it was last measured (a soft quota).
  bool over_quota() const { return over_quota_; }
  std::shared_ptr<AgentClient> shared_agent() const { return agent_; }
  // How often the kernel has killed for memory in its sandbox.
  std::uint64_t oom_kills() { return oom_counter_.kills(); }
  // A connection of the caller's own: an execution has one attachment per connection.
  std::shared_ptr<AgentClient> connect(std::function<void(Result<void>)> ready) const;

 private:
  friend class SessionManager;
  boost::asio::any_io_executor executor_;
  SandboxRecord record_;
  OomCounter oom_counter_;
  std::shared_ptr<AgentClient> agent_;
  std::string configuration_;  // what the agent was told, serialized
  bool over_quota_ = false;
};

using SessionPtr = std::shared_ptr<Session>;

struct ManagerOptions {
  KeeperOptions keeper;
  std::chrono::milliseconds destroy_after{600'000};  // of a sandbox that nobody uses
  std::chrono::milliseconds result_ttl{300'000};     // of an ended execution's output
  std::chrono::milliseconds idle_disconnect{60'000};
  std::chrono::milliseconds sweep_interval{30'000};
  // A session in which nothing runs and which nobody uses for this long is frozen until the next
  // call; 0: never. The engine must be able to.
  std::chrono::milliseconds pause_after{0};
  // Measure workspaces, and end what runs in one that is larger than it may be.
  bool soft_quota = false;
  // Bytes of output of all living sandboxes together: each has an equal share, never more than
  // KeeperOptions::log_space. One that nobody is connected to keeps what it had, for result_ttl.
  std::uint64_t node_log_space = 4ULL << 30U;
  PoolOptions pool;
  // Interpreters that agents keep warm; asked when an agent is connected.
  std::function<std::vector<agent_v1::Warm>()> warm;
  // Told once per sandbox that this worker made or removed.
  std::function<void(const std::string& session_id)> on_opened;
  std::function<void(const std::string& session_id)> on_closed;
  // Told once per time that this worker paused or resumed one.
  std::function<void(const std::string& session_id)> on_paused;
  std::function<void(const std::string& session_id)> on_resumed;
};

// The sandboxes of this node as one worker process uses them (DESIGN.md "Sessions and sandboxes").
// Other workers share them through the state directory. All functions and callbacks on the
// io_context's one thread; callbacks are called exactly once, never from inside the function, and
// not after the manager is gone. What blocks runs on a small pool.
class SessionManager {
 public:
  using Callback = std::function<void(Result<SessionPtr>)>;

  // `engine` must outlive the manager.
  SessionManager(boost::asio::io_context& io, Engine& engine, ManagerOptions options);
  ~SessionManager();
  SessionManager(const SessionManager&) = delete;
  SessionManager& operator=(const SessionManager&) = delete;

  // Expires with the manager: for whoever may outlive it.
  std::weak_ptr<void> alive() const { return alive_; }

  // Makes the state directory. Blocking; before anything else.
  Result<void> prepare();
  // Removes what dead sandboxes left behind, now and every sweep_interval, fills the pool, and
  // pauses what is idle. Living ones are used when asked for.
  void adopt();
  // Tells every connected agent again what to keep warm, once ManagerOptions::warm has another
  // answer.
  void reconfigure();

  // The session with a connected agent; concurrent callers wait for the same creation. kValidation
  // (the id), kQuota (too many sessions), kUnavailable (no sandbox could be made).
  void find_or_create(const std::string& session_id, SessionOptions options, Callback callback);
  // The session if it has a living sandbox, else kNotFound. `use`: it counts as use, so it ends a
  // release. A paused one is resumed.
  void find(const std::string& session_id, Callback callback, bool use = true);
  // The session, if this worker is connected to it and nothing has to be done before its next use;
  // else null, and find() or find_or_create() does it.
  SessionPtr get_open(const std::string& session_id, bool use = true);
  // What a find() without use was for has been answered: until then the session is not paused.
  void looked(const Session& session);

  // Ends everything in the session; success when there was none.
  void close(const std::string& session_id, std::function<void(Result<void>)> callback);
  // Closes the session after `linger` unless some worker of the node used it since.
  void release(const std::string& session_id, std::chrono::milliseconds linger);

  // What is on disk of living sandboxes; paused ones stay paused. look_up: kNotFound, kValidation.
  void list(std::function<void(std::vector<SandboxRecord>)> callback);
  void look_up(const std::string& session_id, std::function<void(Result<SandboxRecord>)> callback);

 private:
  struct Waiter {
    std::optional<SessionOptions> create;
    Callback callback;
  };
  struct Slot {
    enum class State { kOpening, kOpen, kClosing };
    State state = State::kOpening;
    SessionPtr session;  // of kOpen; its agent may have been lost
    std::chrono::steady_clock::time_point used;
    std::vector<Waiter> waiters;
    std::vector<std::function<void(Result<void>)>> closers;
    bool retried = false;
    bool pausing = false;
    std::chrono::steady_clock::time_point pause_again;  // not before
    bool measuring = false;
    bool unmeasured = false;                              // it was used since
    std::chrono::steady_clock::time_point measure_again;  // not before
    int hung_up = 0;  // how often in a row the agent ended the connection before it said hello
  };
  using Slots = std::unordered_map<std::string, Slot>;

  // Runs `work` on the pool and `then` with what it returned on the loop.
  template <class Work, class Then>
  void on_pool(Work work, Then then) {
    boost::asio::post(
        pool_, [this, alive = std::weak_ptr(alive_), guard = boost::asio::make_work_guard(io_),
                work = std::move(work), then = std::move(then)]() mutable {
          auto result = work();
          // Whether the manager lives is asked on its own thread.
          boost::asio::post(io_, [alive = std::move(alive), then = std::move(then),
                                  result = std::move(result)]() mutable {
            if (alive.lock()) {
              then(std::move(result));
            }
          });
        });
  }

  void want(const std::string& session_id, Waiter waiter, bool use);
  void open(const std::string& session_id, std::uint64_t unreachable_ms);
  void opened(const std::string& session_id, Result<SandboxKeeper::Opened> result);
  void connect(const std::string& session_id, SandboxKeeper::Opened opened);
  void connected(const std::string& session_id, const SessionPtr& session, bool created,
                 const Result<void>& result);
  agent_v1::AgentRequest configuration() const;
  void configure(Session& session);
  void configure_all();
  void share_log_space(std::size_t sandboxes);
  void ready(const std::string& session_id, const SessionPtr& session);
  void failed(const std::string& session_id, const Error& error);
  void lost(const std::string& session_id, const Session* session);
  void sweep_lost(const std::string& session_id, std::chrono::milliseconds again);
  void tell_closed(const std::vector<std::string>& session_ids);
  void begin_close(const std::string& session_id, Slot& slot);
  void remove(const std::string& session_id);
  void removed(const std::string& session_id, const Result<bool>& result);
  void sweep();
  void disconnect_idle();
  void watch_idle();
  void look_whether_idle(const std::string& session_id, Slot& slot);
  void pause(const std::string& session_id, std::uint64_t since_us);
  void watch_quotas();
  void measure(const std::string& session_id, Slot& slot);
  void measured(const std::string& session_id, const SandboxRecord& record, bool over,
                std::chrono::steady_clock::duration took);

  boost::asio::io_context& io_;
  Engine& engine_;
  ManagerOptions options_;
  SandboxKeeper keeper_;
  Slots slots_;
  std::uint64_t log_share_;  // of each sandbox
  std::unordered_map<std::string, std::unique_ptr<boost::asio::steady_timer>> releases_;
  boost::asio::steady_timer sweep_timer_;
  boost::asio::steady_timer idle_timer_;
  boost::asio::steady_timer quota_timer_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  std::optional<PoolFiller> filler_;
  // Last: its threads use what is above, and are joined first.
  boost::asio::thread_pool pool_;
};

}  // namespace runbus::session
