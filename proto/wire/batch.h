#pragma once

#include <google/protobuf/io/coded_stream.h>

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <zmq.hpp>

#include "proto/wire/outbox.h"

// Several messages of the bus in one frame of ZeroMQ, for peers that take it (Ready.max_batch,
// Welcome.max_batch): what a frame costs, with the wake-ups that come of it, is most of the cost of
// a small message. The frame is a serialized runbus.v1.Batch.
namespace runbus::wire {

// What we take, and say that we take.
inline constexpr std::uint32_t kMaxBatchMessages = 64;
// Of Batch.frames.
inline constexpr std::uint32_t kBatchTag = (1U << 3U) | 2U;

enum class Sent { kYes, kFull, kUnreachable };

// Sends what is first in `outbox` and takes it out: up to `max` messages that make a batch, or one
// by itself as [Header][body]. To the peer `routing_id` of a ROUTER; empty: the socket is none.
// Unless it is kYes nothing was sent.
Sent send_first(zmq::socket_t& socket, std::string_view routing_id, std::size_t max,
                Outbox& outbox);

// Calls `take(header, body)` for each message of a batch, with views into `frame`. False when the
// rest of it cannot be read, or is more than kMaxBatchMessages.
template <class Take>
bool read_batch(std::string_view frame, const Take& take) {
  google::protobuf::io::CodedInputStream in(reinterpret_cast<const std::uint8_t*>(frame.data()),
                                            static_cast<int>(frame.size()));
  const auto next = [&](std::string_view& bytes) {
    std::uint32_t size = 0;
    if (in.ReadTag() != kBatchTag || !in.ReadVarint32(&size)) {
      return false;
    }
    bytes = frame.substr(static_cast<std::size_t>(in.CurrentPosition()), size);
    return bytes.size() == size && in.Skip(static_cast<int>(size));
  };
  const auto end = static_cast<int>(frame.size());
  for (std::uint32_t count = 0; in.CurrentPosition() < end; ++count) {
    std::string_view header;
    std::string_view body;
    if (count == kMaxBatchMessages || !next(header) || !next(body)) {
      return false;
    }
    take(header, body);
  }
  return true;
}

}  // namespace runbus::wire
