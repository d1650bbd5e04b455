#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "services/execution/output_sink.h"
#include "services/session/log_archive.h"
#include "services/session/session_manager.h"

namespace runbus::execution {

// Reads one execution from the agent into a sink, to its end: grants what the sink has room for,
// and when the connection to the agent breaks, connects again and goes on where it was. When its
// sandbox has gone, or its agent does not know it, it is read from what the node kept. Loop thread.
class Follower final : public session::AgentClient::Reader,
                       public std::enable_shared_from_this<Follower> {
 public:
  struct Events {
    // The agent knows the execution; called once, before any output goes to the sink. False: it is
    // another one than was wanted; nothing is read of it, and nothing called any more.
    std::function<bool(const session::agent_v1::Attached&)> attached;
    // Called once, last. kNotFound: neither the agent nor the node knows the execution.
    // kWorkerLost: its sandbox ended before it, or nothing was kept.
    std::function<void(Result<session::agent_v1::Exited>)> done;
  };

  Follower(session::SessionManager& manager, session::LogArchive& archive, std::string execution_id,
           std::uint64_t offset, std::shared_ptr<OutputSink> sink, Events events);

  // Reads by the session's shared connection, which has one reader per execution.
  void start_shared(session::SessionPtr session);
  // Reads by a connection of its own.
  void start_own(session::SessionPtr session);
  // Reads what the node kept of a session that has no sandbox.
  void start_kept(const std::string& session_id);

  void set_sink(std::shared_ptr<OutputSink> sink);
  // Nothing is called any more.
  void stop();

 private:
  void on_attached(const session::agent_v1::Attached& attached) override;
  void on_output(int stream, std::uint64_t offset, std::string_view bytes) override;
  void on_gap(std::uint64_t from, std::uint64_t to) override;
  void on_exited(const session::agent_v1::Exited& exited) override;
  void on_lost(const Error& error) override;

  void attach(std::shared_ptr<session::AgentClient> client);
  void reconnect();
  // Goes on with what was kept, or ends with `otherwise`.
  void look_in_archive(const Error& otherwise);
  void replay(const session::KeptLogPtr& log);
  void grant();
  void finish(Result<session::agent_v1::Exited> result);

  session::SessionManager& manager_;
  session::LogArchive& archive_;
  std::weak_ptr<void> manager_alive_;
  std::string execution_id_;
  std::string session_id_;
  std::uint64_t position_;
  std::shared_ptr<OutputSink> sink_;
  Events events_;
  session::SessionPtr session_;
  std::shared_ptr<session::AgentClient> client_;
  std::shared_ptr<session::LogReplay> replay_;
  bool own_ = false;
  bool stopped_ = false;
  bool known_ = false;
  int attempts_ = 0;
  // Of this attachment, as agent.proto counts.
  std::uint64_t received_ = 0;
  std::uint64_t granted_ = 0;
};

}  // namespace runbus::execution
