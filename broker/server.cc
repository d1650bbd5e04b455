#include "broker/server.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <optional>
#include <system_error>
#include <utility>

#include "broker/authenticator.h"
#include "broker/core.h"
#include "broker/router.h"
#include "broker/sockets.h"
#include "proto/support/id.h"
#include "proto/support/unique_fd.h"
#include "proto/wire/batch.h"
#include "proto/wire/frame.h"

namespace runbus::broker {
namespace {

// So many messages of one socket before the next has its turn.
constexpr int kSlice = 256;
constexpr int kMaxRounds = 16;
constexpr std::uint64_t kMaxTickMs = 100;
constexpr int kBusyTickMs = 20;
constexpr int kStalledMs = 1;

Now read_clocks() {
  using std::chrono::duration_cast;
  using std::chrono::milliseconds;
  const auto steady = std::chrono::steady_clock::now().time_since_epoch();
  const auto wall = std::chrono::system_clock::now().time_since_epoch();
  return {static_cast<std::uint64_t>(duration_cast<milliseconds>(steady).count()),
          static_cast<std::uint64_t>(duration_cast<milliseconds>(wall).count())};
}

}  // namespace

struct Server::Impl {
  explicit Impl(ServerOptions given);

  void run();
  void work();
  void send();
  void wait();
  void drain_bus(LoopSocket& from, char letter);
  int receive_bus(LoopSocket& from, char letter);
  void drain_subscriptions(LoopSocket& from) const;
  void drain_publishers(LoopSocket& from);
  void drain_zap(LoopSocket& from);
  static bool receive(LoopSocket& from, zmq::message_t& frame);
  // The next frames of a whole message; false when there is none. More than `max` are counted, not
  // kept.
  static bool receive(LoopSocket& from, std::vector<zmq::message_t>& frames, std::size_t max,
                      std::size_t& count);
  bool attention_wanted();

  UniqueFd stop_fd;
  int other_stop_fd;
  Router router;
  Sockets sockets;
  std::optional<Authenticator> authenticator;
  std::optional<Core> core;
  std::vector<zmq::message_t> frames;
  std::string key;
  Now now = read_clocks();
  std::uint64_t tick_ms = kMaxTickMs;
  std::uint64_t next_tick_ms = 0;
  bool stopped = false;
};

Server::Impl::Impl(ServerOptions given)
    : stop_fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      other_stop_fd(given.stop_fd),
      router(given.outbox_bytes, given.outbox_messages),
      sockets(given, router) {
  if (!stop_fd) {
    throw std::system_error(errno, std::generic_category(), "eventfd");
  }
  if (sockets.zap) {
    authenticator.emplace(given.authorized_keys);
  }
  tick_ms = std::clamp<std::uint64_t>(given.core.heartbeat_interval / 2, 1, kMaxTickMs);
  core.emplace(given.core, random_hex(16), router, now);
}

bool Server::Impl::receive(LoopSocket& from, zmq::message_t& frame) {
  from.attend = from.socket.recv(frame, zmq::recv_flags::dontwait).has_value();
  return from.attend;
}

bool Server::Impl::receive(LoopSocket& from, std::vector<zmq::message_t>& frames, std::size_t max,
                           std::size_t& count) {
  frames.clear();
  count = 0;
  for (bool more = true; more; ++count) {
    zmq::message_t frame;
    if (!receive(from, frame)) {
      return false;
    }
    more = frame.more();
    if (frames.size() < max) {
      frames.push_back(std::move(frame));
    }
  }
  return true;
}

// [routing id][Header][body] or [routing id][Batch]; how many messages.
int Server::Impl::receive_bus(LoopSocket& from, char letter) {
  std::size_t count = 0;
  if (!receive(from, frames, 3, count)) {
    return 0;
  }
  key.assign(1, letter);
  key.append(wire::view(frames[0]));
  if (count < 2 || count > 3) {
    core->on_junk("frames", key);
    return 1;
  }
  // The properties live in the frame, which the core may give away.
  std::string user;
  std::string node;
  if (letter == kRemote) {
    const char* said_user = zmq_msg_gets(frames[1].handle(), kUserProperty);
    const char* said_node = zmq_msg_gets(frames[1].handle(), kNodeProperty);
    if (said_user == nullptr) {
      core->on_junk("no_identity", key);
      return 1;
    }
    user = said_user;
    node = said_node == nullptr ? "" : said_node;
  }
  if (count == 3) {
    core->on_message({key, user, node}, frames[1], frames[2], now);
    return 1;
  }
  int messages = 0;
  const bool sound = wire::read_batch(
      wire::view(frames[1]), [&](std::string_view header_bytes, std::string_view body_bytes) {
        zmq::message_t header(header_bytes.data(), header_bytes.size());
        zmq::message_t body(body_bytes.data(), body_bytes.size());
        core->on_message({key, user, node}, header, body, now);
        ++messages;
      });
  if (!sound) {
    core->on_junk("batch", key);
  }
  return std::max(messages, 1);
}

void Server::Impl::drain_bus(LoopSocket& from, char letter) {
  for (int count = 0; count < kSlice && from.attend;) {
    count += receive_bus(from, letter);
  }
}

// libzmq keeps the subscriptions; they are only handed to us as well.
void Server::Impl::drain_subscriptions(LoopSocket& from) const {
  for (int count = 0; count < kSlice; ++count) {
    zmq::message_t frame;
    if (!receive(from, frame)) {
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
  for (const auto* one : {&sockets.zap, &sockets.local_bus, &sockets.remote_bus,
                          &sockets.local_events, &sockets.remote_events, &sockets.publishers}) {
    if (*one && (*one)->attend) {
      return true;
    }
  }
  return false;
}

// One turn of every socket that may have something.
void Server::Impl::work() {
  if (sockets.zap && sockets.zap->attend) {
    drain_zap(*sockets.zap);
  }
  if (sockets.local_bus && sockets.local_bus->attend) {
    drain_bus(*sockets.local_bus, kLocal);
  }
  if (sockets.remote_bus && sockets.remote_bus->attend) {
    drain_bus(*sockets.remote_bus, kRemote);
  }
  if (sockets.publishers && sockets.publishers->attend) {
    drain_publishers(*sockets.publishers);
  }
  for (std::optional<LoopSocket>* events : {&sockets.local_events, &sockets.remote_events}) {
    if (*events && (*events)->attend) {
      drain_subscriptions(**events);
    }
  }
}

void Server::Impl::send() {
  router.flush();
  for (const Router::Failure& failure : router.take_failures()) {
    failure.overflow ? core->on_overflow(failure.key, now) : core->on_unreachable(failure.key, now);
  }
  router.flush();
}

// Until a socket signals, or it is time for something. Sockets that still want attention are not
// waited for.
void Server::Impl::wait() {
  // poll() passes over a negative descriptor.
  std::vector<pollfd> fds{{stop_fd.get(), POLLIN, 0}, {other_stop_fd, POLLIN, 0}};
  std::vector<LoopSocket*> polled;
  for (auto* one : {&sockets.zap, &sockets.local_bus, &sockets.remote_bus, &sockets.local_events,
                    &sockets.remote_events, &sockets.publishers}) {
    if (*one) {
      fds.push_back({(*one)->socket.get(zmq::sockopt::fd), POLLIN, 0});
      polled.push_back(&**one);
    }
  }
  int timeout = next_tick_ms > now.steady_ms ? static_cast<int>(next_tick_ms - now.steady_ms) : 0;
  timeout = router.waiting() ? std::min(timeout, kStalledMs) : timeout;
  timeout = attention_wanted() ? 0 : timeout;
  if (::poll(fds.data(), fds.size(), timeout) < 0 && errno != EINTR) {
    throw std::system_error(errno, std::generic_category(), "poll");
  }
  stopped = ((fds[0].revents | fds[1].revents) & POLLIN) != 0;
  for (std::size_t i = 0; i < polled.size(); ++i) {
    polled[i]->attend = polled[i]->attend || fds[i + 2].revents != 0;
  }
}

void Server::Impl::run() {
  while (!stopped) {
    for (int round = 0; round < kMaxRounds; ++round) {
      now = read_clocks();
      work();
      if (now.steady_ms >= next_tick_ms) {
        core->on_tick(now);
        next_tick_ms = now.steady_ms + tick_ms;
      }
      send();
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
  router.flush();
}

Server::Server(ServerOptions options) : impl_(std::make_unique<Impl>(std::move(options))) {}
Server::~Server() = default;

const std::vector<std::string>& Server::endpoints() const { return impl_->sockets.endpoints; }
const std::vector<std::string>& Server::events_endpoints() const {
  return impl_->sockets.events_endpoints;
}

void Server::run() { impl_->run(); }

void Server::stop() noexcept {
  const std::uint64_t one = 1;
  // It fails only when a stop is pending already.
  [[maybe_unused]] const ssize_t written = ::write(impl_->stop_fd.get(), &one, sizeof one);
}

}  // namespace runbus::broker
