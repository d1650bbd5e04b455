#pragma once

#include "gateway/auth.h"
#include "gateway/config.h"
#include "gateway/connection.h"
#include "gateway/health.h"
#include "gateway/rpc_session.h"

namespace runbus::gateway {

// What the connections of one gateway share. Made by main, outlives them.
struct Gateway {
  const GatewayConfig& config;
  const Auth& auth;
  Connections& connections;
  RpcServices& rpc;
  Health& health;
};

}  // namespace runbus::gateway
