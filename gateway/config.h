#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace runbus::gateway {

// Every bound of the gateway, in one place. Set once by main, then read only.
struct GatewayConfig {
  std::string host = "127.0.0.1";
  std::uint16_t port = 8080;
  std::vector<std::string> allowed_origins;

  std::size_t max_connections = 10'000;
  std::size_t max_header_bytes = 16U << 10U;
  std::size_t max_frame_bytes = 16U << 20U;  // one WebSocket message, one HTTP body
  std::chrono::milliseconds handshake_timeout{10'000};
  std::chrono::milliseconds keep_alive_timeout{60'000};
  std::chrono::milliseconds body_timeout{30'000};  // without a byte of the body
  std::chrono::milliseconds ping_after{30'000};    // without a byte from a WebSocket peer
  std::chrono::milliseconds idle_timeout{90'000};  // the same; the peer is then gone

  std::size_t write_queue_bytes = 16U << 20U;  // replies and events that wait for one connection
  std::chrono::milliseconds write_age{60'000};  // no byte accepted while replies wait
  std::chrono::seconds write_timeout{600};      // the same, while only items of streams wait
  std::size_t event_backlog_bytes = 1U << 20U;  // beyond it a subscriber is told `events.lagged`

  std::size_t max_calls = 256;                 // in flight, per connection
  std::size_t max_batch = 1000;                // requests in one batch
  std::size_t max_request_bytes = 64U << 20U;  // of calls in flight, per connection
  std::size_t max_subscriptions = 64;          // per connection
  // Bytes of items on their way to a client, which the gateway and the worker both hold for one
  // that does not read. A window that is open wide lets the processes of a stream work at the same
  // time.
  std::uint64_t stream_window = 2U << 20U;       // the most a stream gets
  std::uint64_t min_stream_window = 16U << 10U;  // the least
  std::uint64_t connection_window = 8U << 20U;   // all above the least, per connection
  std::uint64_t gateway_window = 128U << 20U;    // all above the least
  std::chrono::seconds call_timeout{3600};
  double linger = 60;  // seconds that a connection's own session outlives it
  // A worker's result or item as JSON: the bus bounds its body (32 MiB), but few bytes of a hostile
  // message can become a lot of JSON.
  std::size_t max_json_bytes = 256U << 20U;
};

}  // namespace runbus::gateway
