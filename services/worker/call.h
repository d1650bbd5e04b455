#pragma once

#include <google/protobuf/message.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "proto/support/error.h"
#include "runbus/v1/bus.pb.h"

namespace runbus::worker {

// One call that this worker serves. The handler keeps the shared_ptr for as long as it works on the
// call and ends it exactly once with finish() or fail(); a Call whose last reference goes without
// that ends with kInternal. All functions and callbacks on the worker's loop; callbacks are never
// called from inside a function of the Call, and none after the end.
//
// The call goes on when the bus connection breaks: what the caller has not acknowledged is kept
// (bounded by the credit the caller gave) and sent again, and the caller drops what it had by its
// sequence number.
class Call : public std::enable_shared_from_this<Call> {
 public:
  virtual ~Call() = default;

  virtual const std::string& id() const = 0;
  virtual const std::string& method() const = 0;
  virtual const std::string& session_id() const = 0;
  virtual const std::string& principal() const = 0;
  // The last moment at which an answer is of use; time_point::max() for none.
  virtual std::chrono::system_clock::time_point deadline() const = 0;
  // Set when the caller saw a part of the answer from another worker (MethodInfo.resumable).
  virtual const v1::Resume* resume() const = 0;

  // Ends the call with its response (of a stream: its last message).
  virtual void finish(const google::protobuf::Message& response) = 0;
  virtual void fail(Error error) = 0;
  virtual bool ended() const = 0;

  // Sends an item of a stream. `offset` is where the stream stands after it (resumable methods).
  // Items beyond the credit are queued; a well-behaved handler looks at credit() first and waits
  // for on_credit.
  virtual void send(const google::protobuf::Message& item, std::uint64_t offset = 0) = 0;
  // Bytes of items that may be sent now.
  virtual std::uint64_t credit() const = 0;
  // Called whenever credit() has grown.
  virtual void on_credit(std::function<void()> callback) = 0;

  // Called once when the caller cancels (kCancelled), the deadline passes (kTimeout) or the caller
  // is gone (kConnection); at once if that has happened already (from the loop). The handler ends
  // the call then; without a callback the call is failed with that error.
  virtual void on_cancel(std::function<void(Error reason)> callback) = 0;
  // Further request messages of a client-streaming rpc, in order; those that came before are given
  // first.
  virtual void on_input(std::function<void(const google::protobuf::Message&)> callback) = 0;
};

using CallPtr = std::shared_ptr<Call>;

}  // namespace runbus::worker
