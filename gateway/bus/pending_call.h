#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <zmq.hpp>

#include "gateway/bus/bus_port.h"
#include "proto/support/error.h"
#include "runbus/v1/bus.pb.h"

namespace runbus::gateway {

// What a call needs to be made, and to be made again.
struct CallRequest {
  std::string method;
  std::string session_id;
  std::string principal;
  std::string traceparent;
  std::string body;
  bool resumable = false;
  bool idempotent = false;
  std::uint64_t window = 0;  // bytes of items on their way at once; 0: the rpc has no items
  std::chrono::milliseconds timeout{3'600'000};
  BusPort* only = nullptr;  // to this broker, or not at all
};

// Who made the call. Exactly one of on_result and on_error is called, last, unless the call is
// abandoned. The functions may call the PendingCall.
class CallObserver {
 public:
  virtual ~CallObserver() = default;
  // May move from `body`. PendingCall::consumed() makes room for more.
  virtual void on_item(zmq::message_t& body) = 0;
  virtual void on_result(std::string_view body) = 0;
  virtual void on_error(const Error& error) = 0;
};

// How patient calls are.
struct CallPatience {
  std::chrono::milliseconds no_broker{3'000};     // a new call while none is connected
  std::chrono::milliseconds reconnect{60'000};    // a call that was sent, while none is connected
  std::chrono::milliseconds recovery{10'000};     // for a worker to take over from a lost one
  std::chrono::milliseconds recovery_retry{200};  // between attempts meanwhile
  std::chrono::milliseconds hole{5'000};          // for what was missed to be sent again
  std::chrono::milliseconds cancel{30'000};       // for a cancelled call to end
  std::chrono::milliseconds backstop{5'000};      // past the deadline, which the worker minds
  int max_losses = 5;                             // in a row, without an item between them
};

class PendingCall;

// What a PendingCall uses of BusClient.
class CallHost {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  virtual ~CallHost() = default;
  virtual BusPort* connected_port() = 0;
  virtual const std::string& origin() const = 0;
  virtual const CallPatience& patience() const = 0;
  // on_time() is due at `when`; replaces what was asked for before.
  virtual void schedule(PendingCall& call, TimePoint when) = 0;
  // The call has ended.
  virtual void forget(PendingCall& call) = 0;
  // A CANCEL to be sent once a broker is connected.
  virtual void send_later(v1::Header cancel) = 0;
};

// One call on the bus, from CALL to its one end, over the loss of brokers, links and workers
// (DESIGN.md "Delivery"). Items reach the observer once each and in order: what was seen already is
// dropped by its sequence, what is missing is asked for again. Grants credit as the observer
// consumes.
class PendingCall : public std::enable_shared_from_this<PendingCall> {
 public:
  using TimePoint = CallHost::TimePoint;

  PendingCall(CallHost& host, CallRequest request, std::shared_ptr<CallObserver> observer);

  const std::string& id() const { return id_; }
  bool ended() const { return state_ == State::kEnded; }

  // Asks the worker to end the call; it ends with kCancelled or with what it had already.
  void cancel();
  // The caller is gone: tells the worker so and ends without a word to the observer.
  void abandon();
  // A further request message of a client-streaming rpc.
  Result<void> input(std::string_view body);
  // The observer is done with `bytes` of items.
  void consumed(std::uint64_t bytes);

  // For BusClient.
  void start();
  void on_message(const BusPort& from, const v1::Header& header, zmq::message_t& body);
  void on_link_up(BusPort& port);
  void on_link_lost(BusPort& port);
  void on_time(TimePoint now);

 private:
  enum class State { kWaiting, kSent, kAccepted, kEnded };

  void send_call();
  void send_control(v1::Kind kind, std::string_view method);
  void accepted(const v1::Header& header);
  void item(const v1::Header& header, zmq::message_t& body);
  void failed(const v1::Header& header, std::string_view body);
  // Whether a message with this sequence is the next one; asks again for what is missing.
  bool in_order(std::uint64_t sequence, std::size_t bytes);
  void recover(Error error);
  void ask_for_the_missing();
  bool may_lose_again(const Error& error);
  bool has_hole() const { return hole_until_ != TimePoint::max(); }
  void grant();
  void move_to(BusPort* port);
  void schedule();
  std::shared_ptr<CallObserver> end();
  void end_with(const Error& error);

  CallHost& host_;
  CallRequest request_;
  std::shared_ptr<CallObserver> observer_;
  const std::string id_;
  State state_ = State::kWaiting;
  BusPort* port_ = nullptr;
  bool sent_once_ = false;
  bool cancelled_ = false;
  bool begun_ = false;         // a worker had it: from now on it is resumed
  bool replayed_ = false;      // the worker is not the first, and began at the beginning
  std::optional<Error> loss_;  // set from the loss of the worker until another one has begun
  int losses_ = 0;
  std::string worker_id_;
  std::uint64_t sequence_ = 0;
  std::uint64_t offset_ = 0;

  // Bytes since the present worker began.
  std::uint64_t received_ = 0;
  std::uint64_t granted_ = 0;
  std::uint64_t told_ = 0;          // the grant that the worker knows of
  std::uint64_t unconsumed_ = 0;    // given to the observer, not yet consumed
  std::uint64_t acknowledged_ = 0;  // the last sequence a CREDIT carried

  std::uint64_t deadline_ms_ = 0;
  TimePoint backstop_;
  TimePoint wait_until_ = TimePoint::max();
  TimePoint retry_at_ = TimePoint::max();
  TimePoint recover_until_ = TimePoint::max();
  TimePoint hole_until_ = TimePoint::max();  // set while a part of the answer is missing
  TimePoint cancel_until_ = TimePoint::max();
};

}  // namespace runbus::gateway
