#include "gateway/close_reason.h"

namespace runbus::gateway {

std::string_view to_string(CloseReason reason) {
  switch (reason) {
    case CloseReason::kClientClosed:
      return "closed by the client";
    case CloseReason::kConnectionLost:
      return "connection lost";
    case CloseReason::kProtocolError:
      return "protocol error";
    case CloseReason::kMessageTooBig:
      return "message too big";
    case CloseReason::kWriteQueueFull:
      return "client does not read: write queue full";
    case CloseReason::kWriteTimeout:
      return "client does not read: write timeout";
    case CloseReason::kIdle:
      return "no sign of life";
    case CloseReason::kHandshakeTimeout:
      return "no whole request in time";
    case CloseReason::kShutdown:
      return "gateway shuts down";
    case CloseReason::kInternal:
      break;
  }
  return "internal error";
}

std::uint16_t close_code(CloseReason reason) {
  switch (reason) {
    case CloseReason::kClientClosed:
      return 1000;
    case CloseReason::kConnectionLost:
    case CloseReason::kIdle:
    case CloseReason::kHandshakeTimeout:
    case CloseReason::kShutdown:
      return 1001;
    case CloseReason::kProtocolError:
      return 1002;
    case CloseReason::kMessageTooBig:
      return 1009;
    case CloseReason::kWriteQueueFull:
    case CloseReason::kWriteTimeout:
      return 1008;
    case CloseReason::kInternal:
      break;
  }
  return 1011;
}

}  // namespace runbus::gateway
