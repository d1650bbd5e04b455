#pragma once

#include <cstddef>
#include <string_view>
#include <zmq.hpp>

#include "runbus/v1/bus.pb.h"

// The frames of the bus: [Header][body]. Whatever comes from a socket passes through parse_header()
// first, so that the rest of a process only sees headers whose texts are bounded and whose ids are
// ids.
namespace runbus::wire {

inline constexpr std::size_t kMaxHeaderBytes = 64U << 10U;
inline constexpr std::size_t kDefaultMaxBodyBytes = 32U << 20U;
inline constexpr std::size_t kMaxMethodLength = 128;
inline constexpr std::size_t kMaxPrincipalLength = 1024;
inline constexpr std::size_t kMaxTraceparentLength = 256;

// Parses into `header` (reused: its strings keep their memory). Returns "" when it is sound, else
// the name of what is wrong, for counters: "header_size", "header_syntax", "header_kind",
// "header_id" or "header_text".
std::string_view parse_header(std::string_view bytes, v1::Header& header);

// "execute.code": 1 to 128 characters of A-Z a-z 0-9 . _ / $ -
bool is_valid_method(std::string_view name);

// "code_execution.started": 1 to 128 characters of a-z A-Z 0-9 . _ -, without empty parts between
// the dots.
bool is_valid_topic(std::string_view topic);

// Of an Event on the bus.
inline constexpr std::size_t kMaxEventBytes = 64U << 10U;

// Whether the kind carries bytes of a stream or of calls; control messages (all others) may
// overtake it.
bool is_data(v1::Kind kind);

zmq::message_t encode(const google::protobuf::MessageLite& message);

inline std::string_view view(const zmq::message_t& message) {
  return {static_cast<const char*>(message.data()), message.size()};
}

// The same bytes once more; large messages share them.
zmq::message_t share(zmq::message_t& message);

}  // namespace runbus::wire
