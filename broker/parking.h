#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <string>
#include <string_view>
#include <zmq.hpp>

#include "broker/state.h"

// Answers for gateways that are not attached: after a restart of the broker a worker may be back
// before the gateway whose calls it serves. Kept in order, for a short time and within bounds.
namespace runbus::broker {

struct ParkedMessage {
  v1::Kind kind = v1::KIND_UNSPECIFIED;
  std::string call_id;
  zmq::message_t header;
  zmq::message_t body;
  std::uint64_t expires = 0;
};

class Parking {
 public:
  Parking(std::size_t max_bytes, std::size_t max_messages)
      : max_bytes_(max_bytes), max_messages_(max_messages) {}

  // False when there is no room.
  bool put(std::string_view origin, ParkedMessage message);
  // All of a gateway's, oldest first; they are no longer here then.
  std::list<ParkedMessage> take(std::string_view origin);
  // Forgets what has expired; how many.
  std::size_t expire(std::uint64_t now);

  std::size_t size() const { return messages_; }

 private:
  void release(const ParkedMessage& message);

  std::size_t max_bytes_;
  std::size_t max_messages_;
  std::size_t bytes_ = 0;
  std::size_t messages_ = 0;
  TextMap<std::list<ParkedMessage>> by_origin_;
};

}  // namespace runbus::broker
