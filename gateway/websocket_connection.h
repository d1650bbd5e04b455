#pragma once

#include <boost/beast/http/message.hpp>
#include <boost/beast/http/string_body.hpp>
#include <string>

#include "gateway/coroutine.h"
#include "gateway/gateway.h"

namespace runbus::gateway {

// Completes the upgrade that `request` asks for, which has been authenticated, and serves JSON-RPC
// on the WebSocket (RFC 6455): a text message each. A binary message is answered with -32600.
void start_websocket(TcpSocket socket,
                     const boost::beast::http::request<boost::beast::http::string_body>& request,
                     Gateway& gateway, Caller caller);

}  // namespace runbus::gateway
