#include "broker/sockets.h"

#include <algorithm>
#include <filesystem>
#include <stdexcept>
#include <utility>

#include "broker/authenticator.h"
#include "broker/endpoint.h"
#include "proto/wire/frame.h"

namespace runbus::broker {
namespace {

constexpr int kGoodbyeLingerMs = 500;
constexpr const char* kZapEndpoint = "inproc://zeromq.zap.01";

void set_server_options(zmq::socket_t& socket, std::size_t max_frame_bytes) {
  socket.set(zmq::sockopt::linger, kGoodbyeLingerMs);
  socket.set(zmq::sockopt::maxmsgsize, static_cast<std::int64_t>(max_frame_bytes));
  socket.set(zmq::sockopt::sndhwm, 1000);
  socket.set(zmq::sockopt::rcvhwm, 1000);
  socket.set(zmq::sockopt::backlog, 1024);
  socket.set(zmq::sockopt::ipv6, true);
  socket.set(zmq::sockopt::handshake_ivl, 5000);
  socket.set(zmq::sockopt::tcp_keepalive, 1);
  socket.set(zmq::sockopt::tcp_keepalive_idle, 10);
  socket.set(zmq::sockopt::tcp_keepalive_intvl, 5);
  socket.set(zmq::sockopt::tcp_keepalive_cnt, 3);
}

// "tcp://0.0.0.0:5556" -> "tcp://*:5556", which a peer completes with the host by which it knows
// us.
std::string advertised(const std::string& endpoint) {
  for (const std::string any : {"tcp://0.0.0.0:", "tcp://[::]:"}) {
    if (endpoint.starts_with(any)) {
      return "tcp://*:" + endpoint.substr(any.size());
    }
  }
  return endpoint;
}

}  // namespace

Sockets::Sockets(ServerOptions& options, Router& router) {
  prepare_curve(options);
  bind_events(options, router);
  bind_bus(options, router);
  bind_publishers(options);
}

void Sockets::prepare_curve(const ServerOptions& options) {
  bool any_tcp = false;
  for (const auto* list : {&options.listen, &options.events_listen}) {
    for (const std::string& endpoint : *list) {
      any_tcp = any_tcp || is_tcp(endpoint);
    }
  }
  if (!any_tcp) {
    return;
  }
  if (options.curve_secret_file.empty() || options.authorized_keys.empty()) {
    throw std::runtime_error("a tcp endpoint needs --curve-secret-file and --authorized-keys");
  }
  if (!std::filesystem::is_directory(options.authorized_keys)) {
    throw std::runtime_error(options.authorized_keys + " is not a directory of authorized keys");
  }
  auto pair = wire::read_secret_file(options.curve_secret_file);
  if (!pair) {
    throw std::runtime_error(pair.error().detail);
  }
  keys_ = *pair;
  // Before any CURVE socket: without a handler libzmq would let every key in.
  zap.emplace(LoopSocket{zmq::socket_t(context, zmq::socket_type::rep)});
  zap->socket.set(zmq::sockopt::linger, 0);
  zap->socket.bind(kZapEndpoint);
}

LoopSocket& Sockets::open(std::optional<LoopSocket>& place, zmq::socket_type type, bool remote,
                          std::string_view domain, std::size_t max_frame_bytes) {
  if (place) {
    return *place;
  }
  place.emplace(LoopSocket{zmq::socket_t(context, type)});
  set_server_options(place->socket, max_frame_bytes);
  if (remote) {
    place->socket.set(zmq::sockopt::zap_domain, std::string(domain));
    place->socket.set(zmq::sockopt::curve_server, true);
    place->socket.set(zmq::sockopt::curve_secretkey, keys_->secret_key);
  }
  return *place;
}

void Sockets::bind_bus(const ServerOptions& options, Router& router) {
  if (options.listen.empty()) {
    throw std::runtime_error("no endpoint to listen on");
  }
  const std::size_t largest = std::max(options.core.max_body_bytes, wire::kMaxHeaderBytes);
  for (const std::string& endpoint : options.listen) {
    const bool remote = is_tcp(endpoint);
    if (!remote && !is_ipc(endpoint)) {
      throw std::runtime_error("cannot listen on " + endpoint +
                               ": it is neither ipc:// nor tcp://");
    }
    LoopSocket& bus = open(remote ? remote_bus : local_bus, zmq::socket_type::router, remote,
                           kBusDomain, largest);
    bus.socket.set(zmq::sockopt::router_mandatory, true);
    if (remote) {
      endpoints.push_back(bind_tcp(bus.socket, endpoint));
    } else {
      locks_.push_back(bind_ipc(bus.socket, endpoint));
      endpoints.push_back(endpoint);
    }
  }
  if (local_bus) {
    router.add(kLocal, *local_bus);
  }
  if (remote_bus) {
    router.add(kRemote, *remote_bus);
  }
}

void Sockets::bind_events(ServerOptions& options, Router& router) {
  // A subscription is small.
  constexpr std::size_t kLargest = 1024;
  for (const std::string& endpoint : options.events_listen) {
    const bool remote = is_tcp(endpoint);
    if (!remote && !is_ipc(endpoint)) {
      throw std::runtime_error("cannot listen on " + endpoint +
                               ": it is neither ipc:// nor tcp://");
    }
    LoopSocket& events = open(remote ? remote_events : local_events, zmq::socket_type::xpub, remote,
                              kEventsDomain, kLargest);
    std::string& announced =
        remote ? options.core.remote_events_endpoint : options.core.local_events_endpoint;
    if (remote) {
      events_endpoints.push_back(bind_tcp(events.socket, endpoint));
      announced = announced.empty() ? advertised(events_endpoints.back()) : announced;
    } else {
      locks_.push_back(bind_ipc(events.socket, endpoint));
      events_endpoints.push_back(endpoint);
      announced = announced.empty()
                      ? "ipc://" + std::filesystem::absolute(endpoint.substr(6)).string()
                      : announced;
    }
  }
  for (std::optional<LoopSocket>* events : {&local_events, &remote_events}) {
    if (*events) {
      router.add_publisher(**events);
    }
  }
}

void Sockets::bind_publishers(const ServerOptions& options) {
  for (const std::string& endpoint : options.events_publish) {
    if (!is_ipc(endpoint)) {
      throw std::runtime_error("cannot take events on " + endpoint + ": it is not ipc://");
    }
    LoopSocket& socket = open(publishers, zmq::socket_type::xsub, false, {}, wire::kMaxHeaderBytes);
    locks_.push_back(bind_ipc(socket.socket, endpoint));
  }
  if (publishers) {
    publishers->socket.send(zmq::buffer(std::string_view("\x01", 1)), zmq::send_flags::dontwait);
  }
}

}  // namespace runbus::broker
