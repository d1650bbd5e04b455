#pragma once

#include <google/protobuf/descriptor.h>

#include <boost/asio/io_context.hpp>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <zmq.hpp>

#include "proto/support/fifo.h"
#include "services/worker/call.h"

// What the worker knows of one call (proto/README.md "The life of a call"): it numbers the answer's
// messages, holds items back until there is credit, keeps all of them until the caller has
// acknowledged them, and hands cancellation, credit and input to the handler. One thread: the
// worker's loop.
namespace runbus::worker {

class CallState;

// A handler's exception or misuse: the caller learns that it was internal, the log learns what it
// was.
inline Error internal_error(std::string what) {
  return make_error(ErrorCode::kInternal, {}, std::move(what));
}

// What a call needs of its worker.
class CallHost {
 public:
  virtual ~CallHost() = default;
  virtual boost::asio::io_context& io() = 0;
  // kUnavailable when that link is down, kBusy when its outbox is full; the call tries again when
  // told to.
  virtual Result<void> transmit(std::size_t link, const v1::Header& header,
                                zmq::message_t body) = 0;
  virtual const std::string& worker_id() const = 0;
  virtual std::size_t max_body_bytes() const = 0;
  // The whole answer was handed to a link. Called from within functions of the call.
  virtual void settled(CallState& call) = 0;
};

class CallState : public std::enable_shared_from_this<CallState> {
 public:
  // Bytes of items that a handler may queue beyond the credit, and of input that may wait for it.
  static constexpr std::uint64_t kMaxOverCredit = 4U << 20U;
  static constexpr std::uint64_t kMaxWaitingInput = 16U << 20U;

  // `method` and `prototype` (of the request) are null for a call that is only refused. They and
  // `host` must live until detach().
  CallState(CallHost& host, const v1::Header& call, std::size_t link,
            const google::protobuf::MethodDescriptor* method,
            const google::protobuf::Message* prototype);

  // --- For the worker.
  // Says ACCEPTED, unless to run the call twice does no harm and it may be answered at once: then
  // the next pump() says it, or the answer by itself.
  void accept();
  void grant(const v1::Header& credit);
  void cancel(Error reason);
  void input(const zmq::message_t& body);
  // The CALL came again, perhaps by another link: answers again with all that was not acknowledged.
  void resend(std::size_t link, const v1::Header& call);
  // This link is connected again: what it may not have delivered is sent again, if it is the
  // call's.
  void restored(std::size_t link);
  // Sends what may be sent.
  void pump();
  // Drops the bodies of the answer of a settled call; a resend is then answered with kWorkerLost.
  void forget_answer();
  bool forgotten() const { return forgotten_; }
  // The worker is going: nothing is sent or called any more.
  void detach();
  std::size_t link() const { return link_; }
  bool refused() const { return method_ == nullptr; }
  // Unary, and to run it again would do no harm.
  bool harmless() const;
  // Memory of the answer's messages that are kept; not 0 while there is one.
  std::size_t kept_bytes() const;
  // Calls a handler or a callback of one; an exception fails the call.
  template <class Function>
  void guarded(Function&& function) {
    try {
      function();
    } catch (const std::exception& exception) {
      fail(internal_error(std::string("exception: ") + exception.what()));
    }
  }

  // --- For the handler, by way of CallHandle: see Call.
  const v1::Header& header() const { return call_; }
  bool ended() const { return ended_; }
  void finish(const google::protobuf::Message& response);
  void fail(Error error);
  void send(const google::protobuf::Message& item, std::uint64_t offset);
  std::uint64_t credit() const;
  void on_credit(std::function<void()> callback);
  void on_cancel(std::function<void(Error)> callback);
  void on_input(std::function<void(const google::protobuf::Message&)> callback);

 private:
  struct Kept {
    v1::Kind kind = v1::ITEM;
    std::uint64_t sequence = 0;
    std::uint64_t offset = 0;
    std::uint64_t end = 0;  // bytes of items up to and with this one, as credit counts them
    zmq::message_t body;
  };

  std::optional<zmq::message_t> serialize(const google::protobuf::Message& message);
  void keep(v1::Kind kind, std::uint64_t offset, zmq::message_t body);
  void acknowledge(std::uint64_t sequence);
  // Counts bytes as the caller does, who has begun anew if it took this worker for lost.
  void count_from(std::uint64_t bytes, std::uint64_t credit);
  void drop_unsent();
  // Ends the answer with `error` in place of what was not handed to a link yet, be it the end
  // itself.
  void end_with(const Error& error);
  void end();
  void tell_of_credit();
  void check_window();
  bool transmit(v1::Kind kind, Kept* kept);
  void post_cancel();
  void post_input();
  void deliver_input();

  CallHost* host_;
  const google::protobuf::MethodDescriptor* method_;
  const google::protobuf::Message* prototype_;
  v1::Header call_;
  std::size_t link_;

  Fifo<Kept> kept_;
  std::size_t next_ = 0;            // index in kept_ of what is sent next
  std::uint64_t sequence_;          // of the last message kept
  std::uint64_t handed_;            // the highest sequence that was ever handed to a link
  std::uint64_t acknowledged_;      // the highest sequence the caller has confirmed
  std::uint64_t acknowledged_end_;  // bytes of items up to there
  std::uint64_t queued_end_;        // bytes of all items so far
  std::uint64_t credit_;
  std::uint64_t window_;  // the first grant: what the caller is ready to hold; 0: not known
  bool accept_due_ = false;
  bool ended_ = false;
  bool settled_ = false;
  bool forgotten_ = false;
  bool credit_posted_ = false;
  bool input_posted_ = false;

  std::optional<Error> cancelled_;
  bool cancel_delivered_ = false;
  std::shared_ptr<std::function<void()>> credit_callback_;
  std::function<void(Error)> cancel_callback_;
  std::shared_ptr<std::function<void(const google::protobuf::Message&)>> input_callback_;
  struct WaitingInput {
    std::unique_ptr<google::protobuf::Message> message;
    std::size_t bytes = 0;
  };
  Fifo<WaitingInput> waiting_input_;
  std::uint64_t waiting_input_bytes_ = 0;
};

// When the caller stops waiting; max() for never. Safe for every value off the wire.
std::chrono::system_clock::time_point deadline_of(const v1::Header& call);

}  // namespace runbus::worker
