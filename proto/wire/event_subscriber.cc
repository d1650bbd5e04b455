#include <map>
#include <optional>
#include <utility>

#include "proto/support/log.h"
#include "proto/wire/bus_link.h"
#include "proto/wire/frame.h"
#include "proto/wire/socket_watch.h"

namespace runbus::wire {
namespace {

constexpr std::size_t kMaxEventBytes = 1U << 20U;
constexpr int kSlice = 256;

}  // namespace

struct EventSubscriber::Impl : std::enable_shared_from_this<EventSubscriber::Impl> {
  Impl(zmq::context_t& context, std::function<void(const v1::Event&)> callback)
      : socket(context, zmq::socket_type::sub), on_event(std::move(callback)) {}

  void open(boost::asio::io_context& io, const std::string& endpoint, const CurveKeys& curve);
  void pump();
  bool receive();

  zmq::socket_t socket;
  std::optional<SocketWatch> watch;
  std::function<void(const v1::Event&)> on_event;
  std::map<std::string, std::size_t> prefixes;
};

void EventSubscriber::Impl::open(boost::asio::io_context& io, const std::string& endpoint,
                                 const CurveKeys& curve) {
  set_client_options(socket, kMaxEventBytes);
  socket.set(zmq::sockopt::rcvhwm, 1000);
  if (!curve.server_public.empty()) {
    socket.set(zmq::sockopt::curve_serverkey, curve.server_public);
    socket.set(zmq::sockopt::curve_publickey, curve.own_public);
    socket.set(zmq::sockopt::curve_secretkey, curve.own_secret);
  }
  socket.connect(endpoint);
  watch.emplace(io, socket, [weak = weak_from_this()] {
    if (const auto self = weak.lock()) {
      self->pump();
    }
  });
  watch->soon();
}

void EventSubscriber::Impl::pump() {
  const auto self = shared_from_this();
  for (int count = 0; count < kSlice; ++count) {
    if (!receive()) {
      if (watch && (socket.get(zmq::sockopt::events) & ZMQ_POLLIN) == 0) {
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
  if (!socket.recv(topic, zmq::recv_flags::dontwait)) {
    return false;
  }
  int frames = 1;
  for (bool more = topic.more(); more; ++frames) {
    zmq::message_t surplus;
    zmq::message_t& frame = frames == 1 ? body : surplus;
    if (!socket.recv(frame, zmq::recv_flags::dontwait)) {
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
    : impl_(std::make_shared<Impl>(context, std::move(on_event))) {
  impl_->open(io, endpoint, curve);
}

EventSubscriber::~EventSubscriber() { impl_->watch.reset(); }

void EventSubscriber::subscribe(const std::string& prefix) {
  if (++impl_->prefixes[prefix] == 1) {
    impl_->socket.set(zmq::sockopt::subscribe, prefix);
    impl_->watch->soon();
  }
}

void EventSubscriber::unsubscribe(const std::string& prefix) {
  const auto found = impl_->prefixes.find(prefix);
  if (found != impl_->prefixes.end() && --found->second == 0) {
    impl_->prefixes.erase(found);
    impl_->socket.set(zmq::sockopt::unsubscribe, prefix);
    impl_->watch->soon();
  }
}

}  // namespace runbus::wire
