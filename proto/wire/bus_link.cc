#include "proto/wire/bus_link.h"

#include <algorithm>
#include <utility>

#include "proto/support/log.h"
#include "proto/wire/batch.h"
#include "proto/wire/bus_link_impl.h"
#include "proto/wire/frame.h"

namespace runbus::wire {
namespace {

using std::chrono::milliseconds;

constexpr std::size_t kMaxFrameBytes = 256U << 20U;
// How often an introduction that nobody answered is sent again.
constexpr milliseconds kReadyAgain{1000};
// Between a goodbye and the next introduction: at once after a good connection, later when refused.
constexpr milliseconds kAfterGoodbye{50};
constexpr milliseconds kAfterRefusal{1000};
// libzmq gives a connection up for good when the other side refuses the key or speaks another
// protocol. Without a welcome the socket is made anew, so that a key which is added later counts;
// ever less often.
constexpr milliseconds kFirstRetry{2000};
constexpr milliseconds kLastRetry{10'000};
constexpr milliseconds kTick{100};
constexpr milliseconds kMaxLinger{1000};

// "tcp://host:5555", "tcp://*:5556" -> "tcp://host:5556": a broker that listens on every address
// does not know under which one its peers see it.
std::string fill_in_host(const std::string& theirs, const std::string& ours) {
  constexpr std::string_view kAnyHost = "tcp://*:";
  if (!theirs.starts_with(kAnyHost) || !ours.starts_with("tcp://")) {
    return theirs;
  }
  return ours.substr(0, ours.rfind(':') + 1) + theirs.substr(kAnyHost.size());
}

}  // namespace

void BusLink::Impl::start() {
  retry = kFirstRetry;
  open_socket();
  next_ready = Clock::now();
  // Not at once: the owner has no link yet, and a broker may answer within this call.
  tick_after(milliseconds(0));
}

void BusLink::Impl::open_socket() {
  socket.emplace(context, zmq::socket_type::dealer);
  set_client_options(*socket, kMaxFrameBytes);
  // Without a connection there is nowhere to put a message: one for a broker that is gone would
  // reach its successor before our introduction does.
  socket->set(zmq::sockopt::immediate, true);
  socket->set(zmq::sockopt::sndhwm, 1000);
  socket->set(zmq::sockopt::rcvhwm, 1000);
  if (!options.curve.server_public.empty()) {
    socket->set(zmq::sockopt::curve_serverkey, options.curve.server_public);
    socket->set(zmq::sockopt::curve_publickey, options.curve.own_public);
    socket->set(zmq::sockopt::curve_secretkey, options.curve.own_secret);
  }
  socket->connect(options.endpoint);
  watch.emplace(io, *socket, [weak = weak_from_this()] {
    if (const auto self = weak.lock()) {
      self->pump();
    }
  });
  watch->soon();
  next_socket = Clock::now() + retry;
}

void BusLink::Impl::drop_socket() {
  watch.reset();
  socket.reset();
}

void BusLink::Impl::tick_after(milliseconds interval) {
  timer.expires_after(interval);
  timer.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
    const auto held = weak.lock();
    if (!error && held) {
      held->tick();
    }
  });
}

void BusLink::Impl::tick() {
  const auto self = shared_from_this();
  if (state == State::kClosed) {
    return;
  }
  // What arrived while this process was busy or stopped counts before silence is judged.
  pump();
  const auto now = Clock::now();
  if (state == State::kConnected) {
    if (now - last_heard > milliseconds(welcome.heartbeat_timeout_ms())) {
      lose("the broker is silent", milliseconds(0));
    } else if (now - last_sent >= milliseconds(welcome.heartbeat_interval_ms()) && outbox.empty()) {
      send_own(v1::HEARTBEAT, {});
    }
  }
  if (state == State::kConnecting && now >= next_socket) {
    retry = std::min(retry * 2, kLastRetry);
    drop_socket();
    open_socket();
  }
  if (state == State::kConnecting && now >= next_ready) {
    send_ready();
  }
  if (state == State::kClosing && now >= close_deadline) {
    finish_close();
  }
  if (state == State::kClosed) {
    return;
  }
  tick_after(
      state == State::kConnected
          ? std::clamp(milliseconds(welcome.heartbeat_interval_ms() / 2), milliseconds(5), kTick)
          : kTick);
}

void BusLink::Impl::handle(v1::Header& header, zmq::message_t& body) {
  switch (header.kind()) {
    case v1::READY:
      handle_welcome(body);
      break;
    case v1::HEARTBEAT:
      break;
    case v1::GOODBYE:
      handle_goodbye(body);
      break;
    default:
      if (state == State::kConnected && events.on_message) {
        events.on_message(header, body);
      }
  }
}

void BusLink::Impl::handle_welcome(const zmq::message_t& body) {
  v1::Welcome fresh;
  if (!fresh.ParseFromArray(body.data(), static_cast<int>(body.size())) || fresh.epoch().empty() ||
      fresh.heartbeat_interval_ms() == 0 || fresh.heartbeat_timeout_ms() == 0) {
    spdlog::warn("bus link {}: the broker's welcome cannot be read", options.endpoint);
    return;
  }
  // An answer to an introduction that was sent twice.
  if (state == State::kConnected && fresh.epoch() == welcome.epoch()) {
    return;
  }
  welcome = std::move(fresh);
  welcome.set_events_endpoint(fill_in_host(welcome.events_endpoint(), options.endpoint));
  const bool new_broker = std::exchange(broker_epoch, welcome.epoch()) != welcome.epoch();
  state = State::kConnected;
  retry = kFirstRetry;
  if (events.on_connected) {
    events.on_connected(welcome, new_broker);
  }
}

void BusLink::Impl::handle_goodbye(const zmq::message_t& body) {
  v1::GoodbyeBody goodbye;
  if (!goodbye.ParseFromArray(body.data(), static_cast<int>(body.size()))) {
    goodbye.set_reason("(unreadable)");
  }
  const bool unknown = goodbye.reason() == "unknown";
  if (state == State::kConnecting && unknown) {
    return;  // our introduction is on its way
  }
  lose("goodbye: " + printable(goodbye.reason()),
       state == State::kConnected ? kAfterGoodbye : kAfterRefusal);
}

void BusLink::Impl::lose(std::string_view why, milliseconds wait) {
  spdlog::info("bus link {}: {}", options.endpoint, why);
  const bool was_connected = state == State::kConnected;
  state = State::kConnecting;
  outbox.clear();
  was_full = false;
  drop_socket();
  open_socket();
  next_ready = Clock::now() + wait;
  if (was_connected && events.on_disconnected) {
    events.on_disconnected();
  }
}

bool BusLink::Impl::send_own(v1::Kind kind, zmq::message_t body) {
  v1::Header header;
  header.set_kind(kind);
  zmq::message_t frame = encode(header);
  const bool sent = send_now(frame, body);
  watch->soon();
  return sent;
}

void BusLink::Impl::send_ready() {
  v1::Ready ready = make_ready();
  ready.set_max_batch(kMaxBatchMessages);
  // Without a connection this fails, and is tried again as soon as there is one.
  if (send_own(v1::READY, encode(ready))) {
    next_ready = Clock::now() + kReadyAgain;
  }
}

void BusLink::Impl::begin_close() {
  if (!live()) {
    return;
  }
  const bool connected = state == State::kConnected;
  state = State::kClosing;
  if (!connected || outbox.empty()) {
    finish_close();
    return;
  }
  close_deadline = Clock::now() + kMaxLinger;
  watch->soon();
}

void BusLink::Impl::finish_close() {
  if (state == State::kClosed) {
    return;
  }
  state = State::kClosed;
  timer.cancel();
  company_timer.cancel();
  if (!socket) {
    return;
  }
  while (flush()) {
  }
  v1::Header header;
  header.set_kind(v1::GOODBYE);
  v1::GoodbyeBody goodbye;
  goodbye.set_reason("leaving");
  zmq::message_t frame = encode(header);
  zmq::message_t body = encode(goodbye);
  send_now(frame, body);
  // The I/O thread sends what the socket has taken, for as long as the context lives.
  socket->set(zmq::sockopt::linger, static_cast<int>(kMaxLinger.count()));
  drop_socket();
}

BusLink::BusLink(boost::asio::io_context& io, zmq::context_t& context, BusLinkOptions options,
                 std::function<v1::Ready()> make_ready, Events events)
    : impl_(std::make_shared<Impl>(io, context, std::move(options), std::move(make_ready),
                                   std::move(events))) {
  impl_->start();
}

BusLink::~BusLink() {
  impl_->begin_close();
  impl_->finish_close();
}

bool BusLink::connected() const { return impl_->state == Impl::State::kConnected; }

bool BusLink::writable() const {
  if (!connected() || impl_->outbox.stalled()) {
    return false;
  }
  if (!impl_->pumping) {  // what the socket says now it does not say again by its descriptor
    impl_->watch->soon();
  }
  return (impl_->socket->get(zmq::sockopt::events) & ZMQ_POLLOUT) != 0;
}

Result<void> BusLink::send(const v1::Header& header, zmq::message_t body) {
  return impl_->send(header, std::move(body), false);
}

Result<void> BusLink::send(const v1::Header& header, std::string_view body) {
  return impl_->send(header, zmq::message_t(body.data(), body.size()), false);
}

Result<void> BusLink::send_along(const v1::Header& header, std::string_view body) {
  return impl_->send(header, zmq::message_t(body.data(), body.size()), true);
}

std::size_t BusLink::outbox_bytes() const { return impl_->outbox.bytes(); }

void BusLink::on_drained(std::function<void()> callback) { impl_->drained = std::move(callback); }

void BusLink::close() { impl_->begin_close(); }

}  // namespace runbus::wire
