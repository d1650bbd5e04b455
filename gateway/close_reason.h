#pragma once

#include <cstdint>
#include <string_view>

namespace runbus::gateway {

// Why a connection ended. Each connection has exactly one; it is in the log, and in the close frame
// of a WebSocket that can still be told.
enum class CloseReason {
  kClientClosed,    // the peer said so, or closed its socket
  kConnectionLost,  // a transport error
  kProtocolError,   // RFC 6455 or HTTP broken
  kMessageTooBig,
  kWriteQueueFull,    // replies pile up: the client does not read
  kWriteTimeout,      // the socket accepted nothing for too long
  kIdle,              // no sign of life, not even a pong
  kHandshakeTimeout,  // no whole request in time
  kShutdown,
  kInternal,
};

std::string_view to_string(CloseReason reason);
// RFC 6455 §7.4.1.
std::uint16_t close_code(CloseReason reason);

}  // namespace runbus::gateway
