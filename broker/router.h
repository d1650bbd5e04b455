#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>
#include <zmq.hpp>

#include "broker/core.h"
#include "broker/state.h"
#include "proto/wire/outbox.h"

// The ROUTER sockets as one Output. A peer's key is one character for its socket and the routing id
// it has there. What a peer's pipe does not take waits in an outbox of its own, so nobody waits for
// somebody else.
namespace runbus::broker {

// A socket of the loop. ZMQ_FD only signals changes, and any use of the socket may swallow the
// signal: `attend` stays set until a receive has found nothing since the last use.
struct LoopSocket {
  zmq::socket_t socket;
  bool attend = true;
};

class Router : public Output {
 public:
  Router(std::size_t outbox_bytes, std::size_t outbox_messages)
      : outbox_bytes_(outbox_bytes), outbox_messages_(outbox_messages) {}

  // The peers of `socket` get keys that begin with `letter`.
  void add(char letter, LoopSocket& socket) { sockets_.emplace_back(letter, &socket); }
  void add_publisher(LoopSocket& socket) { publishers_.push_back(&socket); }

  void send(const std::string& key, v1::Kind kind, std::string_view call_id, zmq::message_t header,
            zmq::message_t body) override;
  void publish(std::string_view topic, std::string_view event) override;
  void move(const std::string& old_key, const std::string& new_key) override;
  void forget(const std::string& key) override { stalled_.erase(key); }

  // Tries again what waits.
  void flush();
  // Whether something waits.
  bool stalled() const { return !stalled_.empty(); }

  struct Failure {
    std::string key;
    bool overflow = false;
  };
  // Peers that could not be reached since this was last asked.
  std::vector<Failure> take_failures() { return std::exchange(failures_, {}); }

 private:
  enum class Sent { kYes, kFull, kUnreachable };

  Sent try_send(const std::string& key, zmq::message_t& header, zmq::message_t& body);

  std::size_t outbox_bytes_;
  std::size_t outbox_messages_;
  std::vector<std::pair<char, LoopSocket*>> sockets_;
  std::vector<LoopSocket*> publishers_;
  TextMap<wire::Outbox> stalled_;
  std::vector<Failure> failures_;
};

}  // namespace runbus::broker
