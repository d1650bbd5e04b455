#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <map>
#include <optional>
#include <utility>

#include "proto/support/id.h"
#include "proto/support/log.h"
#include "proto/wire/bus_link.h"
#include "proto/wire/frame.h"
#include "proto/wire/socket_watch.h"

namespace runbus::wire {
namespace {

constexpr std::size_t kMaxFrameBytes = 1U << 20U;
constexpr int kSlice = 256;
// How often a socket with keys is asked whether they were refused; so also the pause before the
// next attempt.
constexpr std::chrono::seconds kLookAgain{2};
constexpr int kRefusals = ZMQ_EVENT_HANDSHAKE_FAILED_AUTH | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |
                          ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL;

}  // namespace

struct EventSubscriber::Impl : std::enable_shared_from_this<EventSubscriber::Impl> {
  Impl(boost::asio::io_context& loop, zmq::context_t& zmq_context, std::string where,
       CurveKeys keys, std::function<void(const v1::Event&)> callback)
      : io(loop),
        context(zmq_context),
        endpoint(std::move(where)),
        curve(std::move(keys)),
        on_event(std::move(callback)),
        timer(loop) {}

  void open();
  void close();
  void pump();
  bool receive();
  void look_for_refusal();
  bool refused();

  boost::asio::io_context& io;
  zmq::context_t& context;
  std::string endpoint;
  CurveKeys curve;
  std::function<void(const v1::Event&)> on_event;
  std::optional<zmq::socket_t> socket;
  std::optional<zmq::socket_t> monitor;  // with keys alone
  std::optional<SocketWatch> watch;
  boost::asio::steady_timer timer;
  std::map<std::string, std::size_t> prefixes;
};

void EventSubscriber::Impl::open() {
  socket.emplace(context, zmq::socket_type::sub);
  set_client_options(*socket, kMaxFrameBytes);
  socket->set(zmq::sockopt::rcvhwm, 1000);
  if (!curve.server_public.empty()) {
    socket->set(zmq::sockopt::curve_serverkey, curve.server_public);
    socket->set(zmq::sockopt::curve_publickey, curve.own_public);
    socket->set(zmq::sockopt::curve_secretkey, curve.own_secret);
    const std::string name = "inproc://event-subscriber-" + random_hex(8);
    if (zmq_socket_monitor(socket->handle(), name.c_str(), kRefusals) != 0) {
      throw zmq::error_t();
    }
    monitor.emplace(context, zmq::socket_type::pair);
    monitor->set(zmq::sockopt::linger, 0);
    monitor->connect(name);
    look_for_refusal();
  }
  for (const auto& [prefix, count] : prefixes) {
    socket->set(zmq::sockopt::subscribe, prefix);
  }
  socket->connect(endpoint);
  watch.emplace(io, *socket, [weak = weak_from_this()] {
    if (const auto self = weak.lock()) {
      self->pump();
    }
  });
  watch->soon();
}

void EventSubscriber::Impl::close() {
  timer.cancel();
  watch.reset();
  monitor.reset();
  socket.reset();
}

// libzmq gives a connection up for good when the other side refuses the key; a new socket tries
// again, so that a key which is added later counts.
void EventSubscriber::Impl::look_for_refusal() {
  timer.expires_after(kLookAgain);
  timer.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
    const auto self = weak.lock();
    if (error || !self || !self->socket) {
      return;
    }
    if (self->refused()) {
      spdlog::info("event subscriber {}: the key is refused", self->endpoint);
      self->close();
      self->open();
    } else {
      self->look_for_refusal();
    }
  });
}

bool EventSubscriber::Impl::refused() {
  bool found = false;
  zmq::message_t event;
  while (monitor->recv(event, zmq::recv_flags::dontwait)) {
    found = true;  // it was asked for no other; the second frame is the endpoint
  }
  return found;
}

void EventSubscriber::Impl::pump() {
  const auto self = shared_from_this();
  for (int count = 0; count < kSlice; ++count) {
    if (!receive()) {
      if (watch && (socket->get(zmq::sockopt::events) & ZMQ_POLLIN) == 0) {
        watch->arm();
        return;
      }
    }
    if (!watch) {
      return;  // destroyed by its own callback
    }
  }
  watch->soon();
}

bool EventSubscriber::Impl::receive() {
  zmq::message_t topic;
  zmq::message_t body;
  if (!socket->recv(topic, zmq::recv_flags::dontwait)) {
    return false;
  }
  int frames = 1;
  for (bool more = topic.more(); more; ++frames) {
    zmq::message_t surplus;
    zmq::message_t& frame = frames == 1 ? body : surplus;
    if (!socket->recv(frame, zmq::recv_flags::dontwait)) {
      return false;  // cannot be: ZeroMQ delivers whole messages
    }
    more = frame.more();
  }
  v1::Event event;
  if (frames != 2 || !event.ParseFromArray(body.data(), static_cast<int>(body.size())) ||
      event.topic() != view(topic)) {
    spdlog::warn("event subscriber: dropped a message that is no event");
    return true;
  }
  on_event(event);
  return true;
}

EventSubscriber::EventSubscriber(boost::asio::io_context& io, zmq::context_t& context,
                                 std::string endpoint, CurveKeys curve,
                                 std::function<void(const v1::Event&)> on_event)
    : impl_(std::make_shared<Impl>(io, context, std::move(endpoint), std::move(curve),
                                   std::move(on_event))) {
  impl_->open();
}

EventSubscriber::~EventSubscriber() { impl_->close(); }

void EventSubscriber::subscribe(const std::string& prefix) {
  if (++impl_->prefixes[prefix] == 1) {
    impl_->socket->set(zmq::sockopt::subscribe, prefix);
    impl_->watch->soon();
  }
}

void EventSubscriber::unsubscribe(const std::string& prefix) {
  const auto found = impl_->prefixes.find(prefix);
  if (found != impl_->prefixes.end() && --found->second == 0) {
    impl_->prefixes.erase(found);
    impl_->socket->set(zmq::sockopt::unsubscribe, prefix);
    impl_->watch->soon();
  }
}

}  // namespace runbus::wire
