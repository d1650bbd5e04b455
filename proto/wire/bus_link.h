#pragma once

#include <boost/asio/io_context.hpp>
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <zmq.hpp>

#include "proto/support/error.h"
#include "runbus/v1/bus.pb.h"

// A peer's connection to one broker: a DEALER socket driven by an io_context. Announces the peer,
// keeps heartbeats both ways, notices a broker that is gone or new, and bounds what waits to be
// sent.
//
// The io_context's one thread creates, uses and closes the socket. ZMQ_FD is edge-triggered for its
// owner, so ZMQ_EVENTS is read again after every send and receive; a burst is drained in slices so
// that other work of the loop gets its turn.
namespace runbus::wire {

// CURVE keys (Z85, 40 characters each) for a tcp endpoint; empty for ipc.
struct CurveKeys {
  std::string server_public;
  std::string own_public;
  std::string own_secret;
};

struct BusLinkOptions {
  std::string endpoint;  // "ipc:///run/runbus/bus.sock" or "tcp://host:port"
  CurveKeys curve;
  std::size_t max_outbox_bytes = 64U << 20U;
  std::size_t max_outbox_messages = 100'000;
};

class BusLink {
 public:
  static constexpr std::chrono::milliseconds kLongestWait{3};

  struct Events {
    // The broker has welcomed this peer; `new_broker` when its epoch is not the one of the welcome
    // before (true the first time). Called again after every reconnection.
    std::function<void(const v1::Welcome& welcome, bool new_broker)> on_connected;
    // Nothing heard for the heartbeat timeout, or the broker said goodbye. It keeps trying by
    // itself.
    std::function<void()> on_disconnected;
    // Every message that is not the link's own (READY, HEARTBEAT, GOODBYE are). May be called many
    // times in a row.
    std::function<void(v1::Header& header, zmq::message_t& body)> on_message;
  };

  // `make_ready` is asked for the introduction each time one is sent. It and `events` are called
  // from the loop, never from inside the constructor, send() or close().
  BusLink(boost::asio::io_context& io, zmq::context_t& context, BusLinkOptions options,
          std::function<v1::Ready()> make_ready, Events events);
  ~BusLink();
  BusLink(const BusLink&) = delete;
  BusLink& operator=(const BusLink&) = delete;

  bool connected() const;
  // Connected, and the socket takes a message now: not so while much waits, nor while the
  // connection is gone but may still come back. Of several brokers one that is writable is the
  // better choice.
  bool writable() const;

  // Sends or queues; control messages (all but CALL, ITEM, INPUT, EVENT) overtake queued data of
  // other calls, never of the same call. kUnavailable when not connected, kBusy when the outbox is
  // full (nothing was queued).
  Result<void> send(const v1::Header& header, zmq::message_t body);
  Result<void> send(const v1::Header& header, std::string_view body);
  // The same for what nobody waits for: it goes along with the next message, or after kLongestWait,
  // so that it wakes nobody by itself.
  Result<void> send_along(const v1::Header& header, std::string_view body);

  std::size_t outbox_bytes() const;
  // Called each time the outbox has drained below half its bound after a send failed with kBusy.
  void on_drained(std::function<void()> callback);

  // Says GOODBYE and closes; nothing is called afterwards. What is in the outbox gets up to a
  // second. Idempotent.
  void close();

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

// Receives events from a broker: a SUB socket driven by an io_context. Connects again by itself,
// also after its key was refused.
class EventSubscriber {
 public:
  EventSubscriber(boost::asio::io_context& io, zmq::context_t& context, std::string endpoint,
                  CurveKeys curve, std::function<void(const v1::Event&)> on_event);
  ~EventSubscriber();
  EventSubscriber(const EventSubscriber&) = delete;
  EventSubscriber& operator=(const EventSubscriber&) = delete;

  // By prefix of the topic; counted, so each subscribe needs its own unsubscribe.
  void subscribe(const std::string& prefix);
  void unsubscribe(const std::string& prefix);

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace runbus::wire
