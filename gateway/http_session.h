#pragma once

#include "gateway/coroutine.h"
#include "gateway/gateway.h"

namespace runbus::gateway {

// Serves HTTP/1.1 on a new connection: the pages, POST /rpc, and the hand-over to a
// WebSocketConnection at /ws. Limits: header bytes, body bytes, time for a request to arrive whole,
// idle time between requests.
void start_http(TcpSocket socket, Gateway& gateway);

}  // namespace runbus::gateway
