#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>
#include <zmq.hpp>

#include "broker/core.h"
#include "broker/state.h"
#include "proto/wire/outbox.h"

// The ROUTER sockets as one Output. A peer's key is one character for its socket and the routing id
// it has there. Messages for a peer gather until flush(), and go in batches to who takes batches;
// what its pipe does not take waits in an outbox of its own, so nobody waits for somebody else.
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
  void set_batch(const std::string& key, std::uint32_t messages) override;
  void move(const std::string& old_key, const std::string& new_key) override;
  void forget(const std::string& key) override;

  // Sends what was gathered, and tries again what waits.
  void flush();
  // Whether something waits.
  bool waiting() const { return !waiting_.empty(); }

  struct Failure {
    std::string key;
    bool overflow = false;
  };
  // Peers that could not be reached since this was last asked.
  std::vector<Failure> take_failures() { return std::exchange(failures_, {}); }

 private:
  struct Lane {
    Lane(std::size_t max_bytes, std::size_t max_messages) : outbox(max_bytes, max_messages) {}
    wire::Outbox outbox;
    std::uint32_t batch = 1;
    bool introduced = false;  // kept while it is empty
    bool listed = false;      // in waiting_
  };
  using Lanes = TextMap<Lane>;

  Lanes::value_type& lane(const std::string& key);
  void flush(Lanes::value_type& peer);
  LoopSocket& socket_of(const std::string& key) const;
  void erase(Lanes::iterator peer);

  std::size_t outbox_bytes_;
  std::size_t outbox_messages_;
  std::vector<std::pair<char, LoopSocket*>> sockets_;
  std::vector<LoopSocket*> publishers_;
  Lanes lanes_;
  std::vector<Lanes::value_type*> waiting_;  // those with something in their outbox
  std::vector<Failure> failures_;
};

}  // namespace runbus::broker
