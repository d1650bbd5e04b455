#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "services/session/agent_client.h"
#include "services/session/sandbox_keeper.h"

namespace runbus::session {

struct PoolOptions {
  std::size_t size = 0;    // sandboxes of the node that are kept ready; 0: none
  SessionOptions session;  // what they are made for
};

// Keeps a node's pool of sandboxes filled while this worker lives: one at a time, a moment after
// one was taken, so that making the next never competes with the first call of the session that
// took it. It stays connected to the agents in the pool and configures them as those of sessions
// are, so that their interpreters are warm already, and a session that takes one finds it
// connected. (Without a worker for destroy_after they end.) Loop thread; what blocks runs on a
// thread of its own.
class PoolFiller {
 public:
  // `keeper` outlives the filler. `configuration` is asked for whenever agents are told.
  PoolFiller(boost::asio::io_context& io, SandboxKeeper& keeper, PoolOptions options,
             std::chrono::milliseconds interval,
             std::function<agent_v1::AgentRequest()> configuration);
  ~PoolFiller();
  PoolFiller(const PoolFiller&) = delete;
  PoolFiller& operator=(const PoolFiller&) = delete;

  // Looks now: at the start, and when the configuration has changed.
  void look();
  // One may have been taken.
  void taken();

  struct Connected {
    std::shared_ptr<AgentClient> agent;
    std::string configuration;  // what it was told, serialized
  };
  // The connection to the agent of the sandbox in `dir`, if there is one; the caller's from now on.
  std::optional<Connected> take(const std::string& dir);

 private:
  void look_in(std::chrono::milliseconds delay);
  void looked(const Result<SandboxKeeper::Pooled>& result);
  void connect(const std::string& dir);
  void configure(Connected& member) const;
  void forget(const Connected* member);

  boost::asio::io_context& io_;
  SandboxKeeper& keeper_;
  PoolOptions options_;
  std::chrono::milliseconds interval_;
  std::function<agent_v1::AgentRequest()> configuration_;
  boost::asio::steady_timer timer_;
  bool looking_ = false;
  bool again_ = false;
  bool tidy_ = true;  // the first look removes what an earlier worker left
  std::map<std::string, std::shared_ptr<Connected>> members_;  // by the sandbox's directory
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  boost::asio::thread_pool thread_{1};  // last: joined before what it uses goes
};

}  // namespace runbus::session
