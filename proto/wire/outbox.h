#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <unordered_map>
#include <zmq.hpp>

#include "runbus/v1/bus.pb.h"

// What waits to be sent to one peer, bounded in bytes and in messages. Control messages overtake
// data of other calls and never data of their own call: a RESULT does not arrive before the ITEMs
// it follows.
namespace runbus::wire {

struct OutMessage {
  zmq::message_t header;
  zmq::message_t body;
  std::string call_id;
  std::size_t size = 0;  // as it was queued: sending empties the frames
};

class Outbox {
 public:
  Outbox(std::size_t max_bytes, std::size_t max_messages)
      : max_bytes_(max_bytes), max_messages_(max_messages) {}

  // False when it would be over a bound; nothing was taken then.
  bool push(v1::Kind kind, std::string_view call_id, zmq::message_t& header, zmq::message_t& body);

  bool empty() const { return control_.empty() && data_.empty(); }
  std::size_t bytes() const { return bytes_; }
  std::size_t messages() const { return control_.size() + data_.size(); }

  // The message that is next; only while not empty. pop() removes it.
  OutMessage& front();
  void pop();
  void clear();

 private:
  std::size_t max_bytes_;
  std::size_t max_messages_;
  std::size_t bytes_ = 0;
  std::deque<OutMessage> control_;
  std::deque<OutMessage> data_;
  // Messages in data_ by call: whoever has some there queues behind them.
  std::unordered_map<std::string, std::uint32_t> calls_with_data_;
};

}  // namespace runbus::wire
