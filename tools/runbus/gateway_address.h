#pragma once

#include <string>
#include <string_view>

#include "proto/support/error.h"
#include "tools/runbus/arguments.h"

namespace runbus::cli {

struct GatewayAddress {
  std::string host;  // without brackets
  std::string port;
  std::string token;  // empty: none known
};

// http://HOST[:PORT][/…][?token=…] or the same with ws://.
Result<GatewayAddress> parse_gateway_url(std::string_view url);

// The gateway to talk to: --url; else, without --state-dir, $RUNBUS_URL; else the `runbus up` that
// runs on the state directory. Its token: --token-file; else the URL's own; else $RUNBUS_TOKEN;
// else, for a gateway found by its state directory and for no other, the token kept there.
Result<GatewayAddress> find_gateway(const GatewayChoice& choice);

}  // namespace runbus::cli
