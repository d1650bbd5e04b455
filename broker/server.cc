#include "broker/server.h"

#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "broker/authenticator.h"
#include "broker/core.h"
#include "broker/endpoint.h"
#include "broker/router.h"
#include "proto/support/id.h"
#include "proto/support/unique_fd.h"
#include "proto/wire/curve_keys.h"
#include "proto/wire/frame.h"

namespace runbus::broker {
namespace {

// So many messages of one socket before the next has its turn.
constexpr int kSlice = 256;
constexpr int kMaxRounds = 16;
constexpr int kTickMs = 100;
constexpr int kBusyTickMs = 20;
constexpr int kStalledMs = 1;
constexpr int kGoodbyeLingerMs = 500;
constexpr char kLocal = 'L';
constexpr char kRemote = 'R';
constexpr const char* kZapEndpoint = "inproc://zeromq.zap.01";

Now read_clocks() {
  using std::chrono::duration_cast;
  using std::chrono::milliseconds;
  const auto steady = std::chrono::steady_clock::now().time_since_epoch();
  const auto wall = std::chrono::system_clock::now().time_since_epoch();
  return {static_cast<std::uint64_t>(duration_cast<milliseconds>(steady).count()),
          static_cast<std::uint64_t>(duration_cast<milliseconds>(wall).count())};
}

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

// "tcp://0.0.0.0:5556" -> "tcp://*:5556", which a peer completes with the host by which it knows us.
std::string advertised(const std::string& endpoint) {
  for (const std::string any : {"tcp://0.0.0.0:", "tcp://[::]:"}) {
    if (endpoint.starts_with(any)) {
      return "tcp://*:" + endpoint.substr(any.size());
    }
  }
  return endpoint;
}

}  // namespace

struct Server::Impl {
  explicit Impl(ServerOptions given);

  void bind_bus();
  void bind_events();
  void bind_publishers();
  void prepare_curve();
  std::optional<LoopSocket>& open(std::optional<LoopSocket>& place, zmq::socket_type type, bool remote,
                                  std::string_view domain, std::size_t max_frame_bytes);
  bool bind_all(const std::vector<std::string>& wanted, std::optional<LoopSocket>& local,
                std::optional<LoopSocket>& remote, std::vector<std::string>& bound);

  void run();
  void work();
  void wait();
  void drain_bus(LoopSocket& from, char letter);
  bool receive_bus(LoopSocket& from, char letter);
  void drain_subscriptions(LoopSocket& from) const;
  void drain_publishers(LoopSocket& from);
  void drain_zap(LoopSocket& from);
  // The next frames of a whole message; false when there is none. More than `max` are counted, not kept.
  static bool receive(LoopSocket& from, std::vector<zmq::message_t>& frames, std::size_t max, std::size_t& count);
  bool attention_wanted();

  ServerOptions options;
  zmq::context_t context;
  std::optional<wire::KeyPair> keys;
  std::optional<Authenticator> authenticator;
  std::vector<UniqueFd> locks;
  std::optional<LoopSocket> zap;
  std::optional<LoopSocket> local_bus;
  std::optional<LoopSocket> remote_bus;
  std::optional<LoopSocket> local_events;
  std::optional<LoopSocket> remote_events;
  std::optional<LoopSocket> publishers;
  std::vector<std::string> endpoints;
  std::vector<std::string> events_endpoints;
  UniqueFd stop_fd;
  Router router;
  std::optional<Core> core;
  std::vector<zmq::message_t> frames;
  std::string key;
  Now now = read_clocks();
  std::uint64_t next_tick_ms = 0;
  bool stopped = false;
};

Server::Impl::Impl(ServerOptions given)
    : options(std::move(given)),
      stop_fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      router(options.outbox_bytes, options.outbox_messages) {
  if (!stop_fd) {
    throw std::system_error(errno, std::generic_category(), "eventfd");
  }
  prepare_curve();
  bind_events();
  bind_bus();
  bind_publishers();
  core.emplace(options.core, random_hex(16), router, now);
}

void Server::Impl::prepare_curve() {
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
  keys = *pair;
  authenticator.emplace(options.authorized_keys);
  // Before any CURVE socket: without a handler libzmq would let every key in.
  zap.emplace(LoopSocket{zmq::socket_t(context, zmq::socket_type::rep)});
  zap->socket.set(zmq::sockopt::linger, 0);
  zap->socket.bind(kZapEndpoint);
}

std::optional<LoopSocket>& Server::Impl::open(std::optional<LoopSocket>& place, zmq::socket_type type,
                                              bool remote, std::string_view domain,
                                              std::size_t max_frame_bytes) {
  if (place) {
    return place;
  }
  place.emplace(LoopSocket{zmq::socket_t(context, type)});
  set_server_options(place->socket, max_frame_bytes);
  if (remote) {
    place->socket.set(zmq::sockopt::zap_domain, std::string(domain));
    place->socket.set(zmq::sockopt::curve_server, true);
    place->socket.set(zmq::sockopt::curve_secretkey, keys->secret_key);
  }
  return place;
}

void Server::Impl::bind_bus() {
  if (options.listen.empty()) {
    throw std::runtime_error("no endpoint to listen on");
  }
  const std::size_t largest = std::max(options.core.max_body_bytes, wire::kMaxHeaderBytes);
  for (const std::string& endpoint : options.listen) {
    const bool remote = is_tcp(endpoint);
    if (!remote && !is_ipc(endpoint)) {
      throw std::runtime_error("cannot listen on " + endpoint + ": it is neither ipc:// nor tcp://");
    }
    LoopSocket& bus = *open(remote ? remote_bus : local_bus, zmq::socket_type::router, remote, kBusDomain, largest);
    bus.socket.set(zmq::sockopt::router_mandatory, true);
    if (remote) {
      endpoints.push_back(bind_tcp(bus.socket, endpoint));
    } else {
      locks.push_back(bind_ipc(bus.socket, endpoint));
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

void Server::Impl::bind_events() {
  // A subscription is small.
  constexpr std::size_t kLargest = 1024;
  for (const std::string& endpoint : options.events_listen) {
    const bool remote = is_tcp(endpoint);
    if (!remote && !is_ipc(endpoint)) {
      throw std::runtime_error("cannot listen on " + endpoint + ": it is neither ipc:// nor tcp://");
    }
    LoopSocket& events =
        *open(remote ? remote_events : local_events, zmq::socket_type::xpub, remote, kEventsDomain, kLargest);
    std::string& announced =
        remote ? options.core.remote_events_endpoint : options.core.local_events_endpoint;
    if (remote) {
      events_endpoints.push_back(bind_tcp(events.socket, endpoint));
      announced = announced.empty() ? advertised(events_endpoints.back()) : announced;
    } else {
      locks.push_back(bind_ipc(events.socket, endpoint));
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

void Server::Impl::bind_publishers() {
  for (const std::string& endpoint : options.events_publish) {
    if (!is_ipc(endpoint)) {
      throw std::runtime_error("cannot take events on " + endpoint + ": it is not ipc://");
    }
    LoopSocket& socket = *open(publishers, zmq::socket_type::xsub, false, {}, wire::kMaxHeaderBytes);
    locks.push_back(bind_ipc(socket.socket, endpoint));
  }
  if (publishers) {
    publishers->socket.send(zmq::buffer(std::string_view("\x01", 1)), zmq::send_flags::dontwait);
  }
}

bool Server::Impl::receive(LoopSocket& from, std::vector<zmq::message_t>& frames, std::size_t max,
                           std::size_t& count) {
  frames.clear();
  count = 0;
  for (bool more = true; more; ++count) {
    zmq::message_t frame;
    if (!from.socket.recv(frame, zmq::recv_flags::dontwait)) {
      from.attend = false;
      return false;
    }
    more = frame.more();
    if (frames.size() < max) {
      frames.push_back(std::move(frame));
    }
  }
  return true;
}

bool Server::Impl::receive_bus(LoopSocket& from, char letter) {
  std::size_t count = 0;
  if (!receive(from, frames, 3, count)) {
    return false;
  }
  key.assign(1, letter);
  key.append(wire::view(frames[0]));
  if (count != 3) {
    core->on_junk("frames", key);
    return true;
  }
  Sender sender{key, {}, {}};
  if (letter == kRemote) {
    const char* user = frames[1].gets(kUserProperty);
    const char* node = frames[1].gets(kNodeProperty);
    if (user == nullptr) {
      core->on_junk("no_identity", key);
      return true;
    }
    sender.user = user;
    sender.node = node == nullptr ? "" : node;
  }
  // The properties live in the frame, which the core may give away.
  const std::string user(sender.user);
  const std::string node(sender.node);
  core->on_message({key, user, node}, frames[1], frames[2], now);
  return true;
}

void Server::Impl::drain_bus(LoopSocket& from, char letter) {
  for (int count = 0; count < kSlice && receive_bus(from, letter); ++count) {
  }
}

// libzmq keeps the subscriptions; they are only handed to us as well.
void Server::Impl::drain_subscriptions(LoopSocket& from) const {
  for (int count = 0; count < kSlice; ++count) {
    zmq::message_t frame;
    if (!from.socket.recv(frame, zmq::recv_flags::dontwait)) {
      from.attend = false;
      return;
    }
  }
}

void Server::Impl::drain_publishers(LoopSocket& from) {
  std::size_t count = 0;
  for (int messages = 0; messages < kSlice && receive(from, frames, 2, count); ++messages) {
    if (count == 2) {
      core->on_published(wire::view(frames[0]), wire::view(frames[1]), now);
    } else {
      core->on_junk("frames", {});
    }
  }
}

void Server::Impl::drain_zap(LoopSocket& from) {
  constexpr std::size_t kFrames = 8;
  std::size_t count = 0;
  for (int requests = 0; requests < kSlice && receive(from, frames, kFrames, count); ++requests) {
    std::vector<std::string> request;
    for (const zmq::message_t& frame : frames) {
      request.emplace_back(wire::view(frame));
    }
    std::vector<std::string> answer = authenticator->answer(request, now.steady_ms);
    if (answer.empty()) {
      answer = {"1.0", request.size() > 1 ? request[1] : "", "500", "not a ZAP request", "", ""};
    }
    for (std::size_t i = 0; i < answer.size(); ++i) {
      const auto flags = i + 1 < answer.size() ? zmq::send_flags::sndmore : zmq::send_flags::none;
      from.socket.send(zmq::buffer(answer[i]), flags | zmq::send_flags::dontwait);
    }
    from.attend = true;
  }
}

bool Server::Impl::attention_wanted() {
  for (const auto* one : {&zap, &local_bus, &remote_bus, &local_events, &remote_events, &publishers}) {
    if (*one && (*one)->attend) {
      return true;
    }
  }
  return false;
}

// One turn of every socket that may have something.
void Server::Impl::work() {
  if (zap && zap->attend) {
    drain_zap(*zap);
  }
  if (local_bus && local_bus->attend) {
    drain_bus(*local_bus, kLocal);
  }
  if (remote_bus && remote_bus->attend) {
    drain_bus(*remote_bus, kRemote);
  }
  if (publishers && publishers->attend) {
    drain_publishers(*publishers);
  }
  for (std::optional<LoopSocket>* events : {&local_events, &remote_events}) {
    if (*events && (*events)->attend) {
      drain_subscriptions(**events);
    }
  }
}

// Until a socket signals, or it is time for something. Sockets that still want attention are not waited for.
void Server::Impl::wait() {
  std::vector<pollfd> fds{{stop_fd.get(), POLLIN, 0}};
  std::vector<LoopSocket*> polled;
  for (auto* one : {&zap, &local_bus, &remote_bus, &local_events, &remote_events, &publishers}) {
    if (*one) {
      fds.push_back({(*one)->socket.get(zmq::sockopt::fd), POLLIN, 0});
      polled.push_back(&**one);
    }
  }
  int timeout = next_tick_ms > now.steady_ms ? static_cast<int>(next_tick_ms - now.steady_ms) : 0;
  timeout = router.stalled() ? std::min(timeout, kStalledMs) : timeout;
  timeout = attention_wanted() ? 0 : timeout;
  if (::poll(fds.data(), fds.size(), timeout) < 0 && errno != EINTR) {
    throw std::system_error(errno, std::generic_category(), "poll");
  }
  stopped = (fds.front().revents & POLLIN) != 0;
  for (std::size_t i = 0; i < polled.size(); ++i) {
    polled[i]->attend = polled[i]->attend || fds[i + 1].revents != 0;
  }
}

void Server::Impl::run() {
  while (!stopped) {
    for (int round = 0; round < kMaxRounds; ++round) {
      now = read_clocks();
      router.flush();
      work();
      for (const Router::Failure& failure : router.take_failures()) {
        failure.overflow ? core->on_overflow(failure.key, now) : core->on_unreachable(failure.key, now);
      }
      if (now.steady_ms >= next_tick_ms) {
        core->on_tick(now);
        next_tick_ms = now.steady_ms + kTickMs;
      }
      if (!attention_wanted()) {
        break;
      }
    }
    if (core->busy()) {
      next_tick_ms = std::min<std::uint64_t>(next_tick_ms, now.steady_ms + kBusyTickMs);
    }
    wait();
  }
  core->say_goodbye("the broker ends");
}

Server::Server(ServerOptions options) : impl_(std::make_unique<Impl>(std::move(options))) {}
Server::~Server() = default;

const std::vector<std::string>& Server::endpoints() const { return impl_->endpoints; }
const std::vector<std::string>& Server::events_endpoints() const { return impl_->events_endpoints; }

void Server::run() { impl_->run(); }

void Server::stop() noexcept {
  const std::uint64_t one = 1;
  // It fails only when a stop is pending already.
  [[maybe_unused]] const ssize_t written = ::write(impl_->stop_fd.get(), &one, sizeof one);
}

}  // namespace runbus::broker
