#pragma once

#include <boost/asio/io_context.hpp>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "services/session/engine.h"
#include "services/worker/worker.h"

namespace runbus::main {

// The flags of a worker that has sandboxes.
struct NodeFlags {
  std::string state_dir = "/var/lib/runbus";
  std::string agent;      // empty: runbus-agent beside this program
  std::string languages;  // empty: the installed table, else the source tree's
  session::EngineOptions engine;
  session::Limits limits;
  bool allow_network = false;
  bool require_limits = false;
  std::uint32_t max_sessions = 256;
  std::uint32_t destroy_after = 600;  // seconds
  std::uint32_t pause_after = 60;     // seconds; 0: never
  std::uint32_t result_ttl = 300;     // seconds
  std::uint64_t log_space = 256ULL << 20;     // bytes of output of one session
  std::uint64_t node_log_space = 4ULL << 30;  // of all living ones
  std::uint64_t kept_log_space = 1ULL << 30;  // of all sessions whose sandbox has gone
  std::uint32_t kept_logs = 4096;
  std::uint32_t capacity = 64;
  std::uint32_t pool = 1;  // sandboxes kept ready
};

// An engine that works here with its probe; throws std::runtime_error that says what to do.
struct ProbedEngine {
  std::unique_ptr<session::Engine> engine;
  session::Probe probe;
};
ProbedEngine make_probed_engine(const NodeFlags& flags);

// execution and session services of this node. Throws std::runtime_error.
std::vector<std::unique_ptr<worker::Service>> make_execution_services(const NodeFlags& flags,
                                                                      boost::asio::io_context& io,
                                                                      worker::Worker& worker);

}  // namespace runbus::main
