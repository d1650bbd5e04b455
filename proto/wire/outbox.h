#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <unordered_map>
#include <zmq.hpp>

#include "proto/support/fifo.h"
#include "runbus/v1/bus.pb.h"

// What waits to be sent to one peer, bounded in bytes and in messages. In order, while the socket
// takes it; once the socket is full, control messages overtake data of other calls and never data
// of their own call: a RESULT does not arrive before the ITEMs it follows.
namespace runbus::wire {

// What waits goes as soon as it is as much as this. More at once spares wake-ups, and leaves the
// next process idle for longer: measured with 64 calls in flight.
inline constexpr std::size_t kBatchMessages = 24;
inline constexpr std::size_t kBatchBytes = 64U << 10U;

struct OutMessage {
  zmq::message_t header;
  zmq::message_t body;
  std::string call_id;   // while the outbox is stalled
  std::size_t size = 0;  // as it was queued: sending empties the frames
};

class Outbox {
 public:
  Outbox(std::size_t max_bytes, std::size_t max_messages)
      : max_bytes_(max_bytes), max_messages_(max_messages) {}

  // False when it would be over a bound; nothing was taken then.
  bool push(v1::Kind kind, std::string_view call_id, zmq::message_t& header, zmq::message_t& body);

  bool empty() const { return messages() == 0; }
  std::size_t bytes() const { return bytes_; }
  std::size_t messages() const { return in_order_.size() + control_.size() + data_.size(); }
  bool fills_a_batch() const { return messages() >= kBatchMessages || bytes_ >= kBatchBytes; }

  // The messages in the order in which they go; pop() removes the first.
  OutMessage& operator[](std::size_t index);
  void pop();
  void clear();

  // The socket is full: from now until it is empty, what is urgent overtakes.
  void stall();
  bool stalled() const { return stalled_; }

 private:
  void place(bool behind_data, OutMessage message);

  std::size_t max_bytes_;
  std::size_t max_messages_;
  std::size_t bytes_ = 0;
  bool stalled_ = false;
  Fifo<OutMessage> in_order_;  // while not stalled
  std::deque<OutMessage> control_;
  std::deque<OutMessage> data_;
  // Messages in data_ by call: whoever has some there queues behind them.
  std::unordered_map<std::string, std::uint32_t> calls_with_data_;
};

}  // namespace runbus::wire
