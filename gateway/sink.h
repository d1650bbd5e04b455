#pragma once

#include <cstddef>
#include <memory>
#include <string>

namespace runbus::gateway {

// An item of a stream on its way to a client. It stays as the bus delivered it until the transport
// is ready to write it, so that what waits is bounded by the credit of its stream, whatever JSON
// makes of it.
class Item {
 public:
  virtual ~Item() = default;
  virtual std::size_t bytes() const = 0;
  // Appends the frame to `out`; appends nothing when the item turned out to be malformed.
  virtual void render(std::string& out) = 0;
  // The transport has written the frame (or skipped an empty one).
  virtual void delivered() = 0;
};

// Where the frames of one RpcSession go: a WebSocket, an HTTP response, a stream of server-sent
// events. Frames go out in the order of the calls. A function may end the connection, and with it
// the session, before it returns.
class Sink {
 public:
  enum class Items {
    kNone,              // items are not wanted: only the final result
    kMessages,          // each is a JSON-RPC notification
    kServerSentEvents,  // each is an event named like the notification, its data are the params
  };

  virtual ~Sink() = default;
  virtual Items items() const = 0;
  // Whether it lives on after the reply, so that a subscription makes sense.
  virtual bool persistent() const = 0;
  // A response, an answered batch or a notification that belongs to no call.
  virtual void send(std::string frame) = 0;
  virtual void send_item(std::unique_ptr<Item> item) = 0;
  // Bytes of send() that wait.
  virtual std::size_t backlog() const = 0;
};

}  // namespace runbus::gateway
