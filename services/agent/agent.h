#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "proto/support/unique_fd.h"
#include "services/agent/connection.h"
#include "services/agent/event_loop.h"
#include "services/agent/execution.h"
#include "services/agent/failure.h"
#include "services/agent/reaper.h"
#include "services/agent/spawner.h"
#include "services/agent/warm_pool.h"
#include "services/agent/workspace.h"

// Answers requests and owns the executions, which belong to nobody's connection: they run on and
// are kept when it goes. Bounds: kMaxConnections, kMaxExecutions running and kept together,
// Options::log_space bytes of output of all of them, of which the oldest ended ones
// make room first.
namespace runbus::agent {

class Agent final : public Connection::Owner {
 public:
  static constexpr std::size_t kMaxConnections = 64;
  // When one has ended, the oldest makes room for the next at once: between runs one less is kept.
  static constexpr std::size_t kMaxExecutions = 257;

  struct Options {
    std::string workspace;
    UniqueFd listen;                         // a listening socket, or none
    UniqueFd log_directory;                  // for the executions' logs, or none
    std::uint64_t log_space = 256ULL << 20;  // bytes of disk for them together
  };

  explicit Agent(Options options);  // throws std::system_error
  ~Agent() override;

  // Serves a peer on a pair of descriptors. Without a listening socket the agent ends with it.
  void serve(UniqueFd input, UniqueFd output);

  // Until the end is asked for; then nothing it started is left. The exit code.
  int run();

 private:
  void on_request(Connection& connection, const v1::AgentRequest& request,
                  std::string_view payload) override;
  void on_closed(Connection& connection) override;

  void spawn(Connection& connection, std::uint64_t request_id, const v1::Spawn& request);
  std::optional<Failure> write_files(const v1::Spawn& request) const;
  void on_started(const std::string& id, std::uint64_t connection_id, std::uint64_t request_id,
                  std::optional<Failure> failure);
  void on_ended(const std::string& id);
  void prepare();
  void attach(Connection& connection, std::uint64_t request_id, const v1::Attach& request);
  void credit(Connection& connection, std::uint64_t request_id, const v1::Credit& request);
  void input(Connection& connection, std::uint64_t request_id, const v1::Input& request,
             std::string_view payload);
  void signal(Connection& connection, std::uint64_t request_id, const v1::Signal& request);
  void kill(Connection& connection, std::uint64_t request_id, const v1::Kill& request);
  void list(Connection& connection, std::uint64_t request_id);
  void forget(Connection& connection, std::uint64_t request_id, const v1::Forget& request);
  void configure(const v1::Configure& request);

  void accept();
  void update_listening();
  bool add_connection(UniqueFd input, UniqueFd output);
  // The execution of this id, or an answer NOT_FOUND.
  Execution* find(Connection& connection, std::uint64_t request_id, const std::string& id);
  // Forgets an execution that has ended or never began.
  void drop(std::string id);
  void forget_old();
  void make_log_room();
  void update_idle();

  EventLoop loop_;
  Reaper reaper_;
  Workspace workspace_;
  WarmPool warm_;
  Spawner spawner_;
  UniqueFd listen_;
  UniqueFd log_directory_;
  log::PreparedLog next_log_;
  Watch listen_watch_;
  Timer accept_again_;
  Timer forget_timer_;
  Timer idle_timer_;
  Timer prepare_timer_;
  std::vector<char> buffer_;
  const std::uint64_t most_log_space_;
  log::LogSpace log_space_;
  Execution::Services services_;
  std::chrono::milliseconds result_ttl_;
  std::chrono::milliseconds destroy_after_{0};
  std::uint64_t next_connection_ = 1;
  std::map<std::string, std::unique_ptr<Execution>> executions_;
  std::deque<std::string> ended_;  // those that have ended, the oldest first
  // After the executions: destroyed before them, since attachments refer to them.
  std::map<std::uint64_t, std::unique_ptr<Connection>> connections_;
};

}  // namespace runbus::agent
