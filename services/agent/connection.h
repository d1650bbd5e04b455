#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "proto/support/unique_fd.h"
#include "proto/wire/agent_frame.h"
#include "services/agent/event_loop.h"
#include "services/agent/failure.h"

// One worker's connection: frames in, a bounded queue of frames out, and its attachments, served in
// turn. A connection that does not read is not read from either, and its attachments count as
// without credit: its queue holds at most kQueueLimit and the answers to what was read at once.
namespace runbus::agent {

class Attachment;

class Connection {
 public:
  static constexpr std::size_t kQueueLimit = 1024 * 1024;

  class Owner {
   public:
    virtual ~Owner() = default;
    virtual void on_request(Connection& connection, const v1::AgentRequest& request,
                            std::string_view payload) = 0;
    // Called once; the owner destroys the connection later, not within this call.
    virtual void on_closed(Connection& connection) = 0;
  };

  // `output` is empty when `input` is a socket, for both ways. Both non-blocking.
  Connection(EventLoop& loop, Owner& owner, std::uint64_t id, UniqueFd input, UniqueFd output);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // False when the descriptors cannot be waited for.
  [[nodiscard]] bool start();

  std::uint64_t id() const { return id_; }
  bool closed() const { return closed_; }
  // Whether more output has to wait.
  bool congested() const { return closed_ || out_.size() - out_sent_ > kQueueLimit; }

  // Queues one frame, or sends it at once. Never blocks. Ignored when closed.
  void send(const v1::AgentReply& reply, std::string_view payload = {});
  // The answers to a request; none when it asked for none.
  void answer(std::uint64_t request_id, v1::AgentReply reply);
  void answer_done(std::uint64_t request_id);
  void answer_failed(std::uint64_t request_id, const Failure& failure);

  // Replaces an attachment to the same execution.
  void attach(const std::string& execution_id, std::unique_ptr<Attachment> attachment);
  Attachment* attachment(const std::string& execution_id);
  void detach(const std::string& execution_id);
  // Sends what attachments may have, a bounded slice; the rest in later turns.
  void pump();

  void close();

 private:
  void on_events(std::uint32_t events);
  void read();
  void process_frames();
  void flush();
  void update_events();
  int output_fd() const { return output_ ? output_.get() : input_.get(); }

  EventLoop& loop_;
  Owner& owner_;
  const std::uint64_t id_;
  UniqueFd input_;
  UniqueFd output_;
  Watch input_watch_;
  Watch output_watch_;  // of a separate output
  wire::FrameParser parser_;
  std::string out_;
  std::size_t out_sent_ = 0;
  std::map<std::string, std::unique_ptr<Attachment>> attachments_;
  std::string served_last_;
  bool pump_again_ = false;
  bool closed_ = false;
};

}  // namespace runbus::agent
