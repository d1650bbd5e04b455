#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace runbus::broker {

// The bounds and times that the core works by. Times are milliseconds.
struct CoreOptions {
  std::uint32_t heartbeat_interval = 500;
  std::uint32_t heartbeat_timeout = 2000;
  // How long past the heartbeat timeout a call waits for a service that has no worker.
  std::uint32_t gone_service_patience = 1000;
  // How long a service without workers is remembered: it is answered -32003 and not -32601
  // meanwhile.
  std::uint64_t service_memory = 600'000;
  std::size_t max_body_bytes = 32U << 20U;
  std::size_t queue_calls = 1024;
  std::size_t queue_bytes = 64U << 20U;
  std::size_t history_events = 1024;
  std::size_t history_bytes = 32U << 20U;
  std::size_t max_topics = 4096;
  std::size_t max_sessions = 100'000;
  std::size_t max_peers = 10'000;
  // Answers to gateways that are not attached (yet).
  std::size_t parked_bytes = 32U << 20U;
  std::size_t parked_messages = 4096;
  // Events a second that one peer may publish, and how many at once.
  std::uint32_t event_rate = 10'000;
  std::uint32_t event_burst = 20'000;
  std::string version;
  std::string local_events_endpoint;
  std::string remote_events_endpoint;
};

// Both clocks, read by whoever drives the core: it has none of its own.
struct Now {
  std::uint64_t steady_ms = 0;  // monotonic
  std::uint64_t wall_ms = 0;    // since 1970 UTC
};

}  // namespace runbus::broker
