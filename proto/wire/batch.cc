#include "proto/wire/batch.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "proto/wire/frame.h"

namespace runbus::wire {
namespace {

using google::protobuf::io::CodedOutputStream;

std::size_t packed_size(const zmq::message_t& frame) {
  const auto size = static_cast<std::uint32_t>(frame.size());
  return 1 + CodedOutputStream::VarintSize32(size) + size;
}

std::uint8_t* pack(const zmq::message_t& frame, std::uint8_t* at) {
  at = CodedOutputStream::WriteTagToArray(kBatchTag, at);
  at = CodedOutputStream::WriteVarint32ToArray(static_cast<std::uint32_t>(frame.size()), at);
  std::memcpy(at, frame.data(), frame.size());
  return at + frame.size();
}

// How many messages make the next batch, and the size of its frame.
std::pair<std::size_t, std::size_t> plan(Outbox& outbox, std::size_t max) {
  max = std::min({max, kBatchMessages, outbox.messages()});
  std::size_t count = 0;
  std::size_t bytes = 0;
  for (; count < max; ++count) {
    const OutMessage& next = outbox[count];
    const std::size_t size = packed_size(next.header) + packed_size(next.body);
    if (bytes + size > kBatchBytes) {
      break;
    }
    bytes += size;
  }
  return {count, bytes};
}

bool send_frame(zmq::socket_t& socket, zmq::message_t& frame, bool more = false) {
  return socket
      .send(frame,
            zmq::send_flags::dontwait | (more ? zmq::send_flags::sndmore : zmq::send_flags::none))
      .has_value();
}

}  // namespace

// The first frame takes the place of the whole message: those after it are not refused. Should the
// peer go away in between, libzmq drops them.
Sent send_first(zmq::socket_t& socket, std::string_view routing_id, std::size_t max,
                Outbox& outbox) {
  if (!routing_id.empty()) {
    zmq::message_t id(routing_id.data(), routing_id.size());
    if (zmq_msg_send(id.handle(), socket.handle(), ZMQ_DONTWAIT | ZMQ_SNDMORE) < 0) {
      return zmq_errno() == EAGAIN ? Sent::kFull : Sent::kUnreachable;
    }
  }
  const auto [count, bytes] = plan(outbox, max);
  if (count < 2) {
    OutMessage& message = outbox[0];
    if (!send_frame(socket, message.header, true)) {
      return Sent::kFull;
    }
    send_frame(socket, message.body);
    outbox.pop();
    return Sent::kYes;
  }
  zmq::message_t frame(bytes);
  auto* at = static_cast<std::uint8_t*>(frame.data());
  for (std::size_t i = 0; i < count; ++i) {
    at = pack(outbox[i].body, pack(outbox[i].header, at));
  }
  if (!send_frame(socket, frame)) {
    return Sent::kFull;
  }
  for (std::size_t i = 0; i < count; ++i) {
    outbox.pop();
  }
  return Sent::kYes;
}

}  // namespace runbus::wire
