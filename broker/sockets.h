#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>
#include <zmq.hpp>

#include "broker/router.h"
#include "broker/server.h"
#include "proto/support/unique_fd.h"
#include "proto/wire/curve_keys.h"

// The broker's sockets, bound and with every option set. Which there are follows from the
// endpoints.
namespace runbus::broker {

// First letters of the keys of peers.
inline constexpr char kLocal = 'L';
inline constexpr char kRemote = 'R';

struct Sockets {
  // Fills in the events endpoints that peers are told. Throws std::runtime_error that says what is
  // wrong.
  Sockets(ServerOptions& options, Router& router);

  zmq::context_t context;
  std::optional<LoopSocket> zap;  // while there is any tcp endpoint
  std::optional<LoopSocket> local_bus;
  std::optional<LoopSocket> remote_bus;
  std::optional<LoopSocket> local_events;
  std::optional<LoopSocket> remote_events;
  std::optional<LoopSocket> publishers;
  std::vector<std::string> endpoints;
  std::vector<std::string> events_endpoints;

 private:
  void prepare_curve(const ServerOptions& options);
  void bind_bus(const ServerOptions& options, Router& router);
  void bind_events(ServerOptions& options, Router& router);
  void bind_publishers(const ServerOptions& options);
  LoopSocket& open(std::optional<LoopSocket>& place, zmq::socket_type type, bool remote,
                   std::string_view domain, std::size_t max_frame_bytes);

  std::optional<wire::KeyPair> keys_;
  std::vector<UniqueFd> locks_;
};

}  // namespace runbus::broker
