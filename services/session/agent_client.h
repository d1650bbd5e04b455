#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "proto/support/error.h"
#include "runbus/v1/agent.pb.h"

namespace runbus::session {

namespace agent_v1 = ::runbus::v1::agent;

// A connection to the agent of one sandbox (proto/runbus/v1/agent.proto). All calls and callbacks
// on the executor's one thread. What the agent sends is hostile: sizes are checked, ids that were
// not asked for are ignored, a broken frame ends the connection.
class AgentClient : public std::enable_shared_from_this<AgentClient> {
 public:
  using Reply = std::function<void(Result<agent_v1::AgentReply>)>;

  // What an attachment receives, in order; after on_exited or on_lost nothing more.
  class Reader {
   public:
    virtual ~Reader() = default;
    virtual void on_attached(const agent_v1::Attached& attached) = 0;
    virtual void on_output(int stream, std::uint64_t offset, std::string_view bytes) = 0;
    virtual void on_gap(std::uint64_t from, std::uint64_t to) = 0;
    virtual void on_exited(const agent_v1::Exited& exited) = 0;
    // The connection broke or the agent refused; the execution may go on.
    virtual void on_lost(const Error& error) = 0;
  };

  // Connects to the agent's socket on the host side and says hello; `ready` is called once.
  static std::shared_ptr<AgentClient> connect(boost::asio::any_io_executor executor,
                                              std::string socket_path,
                                              std::function<void(Result<void>)> ready);
  virtual ~AgentClient() = default;

  // Sends one request with its payload; `reply` is called exactly once, with Failed turned into an
  // Error (INVALID → kValidation, NOT_FOUND → kNotFound, EXISTS → kConflict, LIMIT → kQuota, SYSTEM
  // → kInternal), kConnection when the connection breaks first.
  virtual void request(agent_v1::AgentRequest request, std::string payload, Reply reply) = 0;

  // Attaches `reader` to an execution; replaces an earlier reader of this client for it.
  virtual void attach(const std::string& execution_id, std::uint64_t offset, std::uint64_t credit,
                      std::shared_ptr<Reader> reader) = 0;
  // Raises the total grant of the attachment (agent.proto Credit).
  virtual void grant(const std::string& execution_id, std::uint64_t credit) = 0;
  virtual void detach(const std::string& execution_id) = 0;

  // Requests leave at the end of the loop's turn, together; this sends them now.
  virtual void flush() = 0;

  virtual bool connected() const = 0;
  // Called once when the connection ends, after every pending reply and reader was told.
  virtual void on_closed(std::function<void()> callback) = 0;
  virtual void close() = 0;
};

}  // namespace runbus::session
