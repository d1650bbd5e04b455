#include "proto/wire/bus_link.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <optional>
#include <utility>

#include "proto/support/log.h"
#include "proto/wire/batch.h"
#include "proto/wire/frame.h"
#include "proto/wire/outbox.h"
#include "proto/wire/socket_watch.h"

namespace runbus::wire {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr std::size_t kMaxFrameBytes = 256U << 20U;
constexpr int kSlice = 256;
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

struct BusLink::Impl : std::enable_shared_from_this<BusLink::Impl> {
  enum class State { kConnecting, kConnected, kClosing, kClosed };

  Impl(boost::asio::io_context& loop, zmq::context_t& zmq_context, BusLinkOptions link_options,
       std::function<v1::Ready()> introduction, Events handlers)
      : io(loop),
        context(zmq_context),
        options(std::move(link_options)),
        make_ready(std::move(introduction)),
        events(std::move(handlers)),
        outbox(options.max_outbox_bytes, options.max_outbox_messages),
        timer(loop) {}

  void start();
  void open_socket();
  void drop_socket();
  void tick_after(milliseconds interval);
  void tick();
  void pump();
  void run_slice();
  bool gathers();
  int receive();
  void take(std::string_view header, zmq::message_t& body);
  void handle(v1::Header& header, zmq::message_t& body);
  void handle_welcome(const zmq::message_t& body);
  void handle_goodbye(const zmq::message_t& body);
  bool flush();
  void note_room();
  bool send_now(zmq::message_t& header, zmq::message_t& body);
  bool send_own(v1::Kind kind, zmq::message_t body);
  void send_ready();
  void lose(std::string_view why, milliseconds wait);
  Result<void> send(const v1::Header& header, zmq::message_t body);
  void begin_close();
  void finish_close();
  void report_drained();
  bool live() const { return state == State::kConnecting || state == State::kConnected; }

  boost::asio::io_context& io;
  zmq::context_t& context;
  BusLinkOptions options;
  std::function<v1::Ready()> make_ready;
  Events events;
  State state = State::kConnecting;
  std::optional<zmq::socket_t> socket;
  std::optional<SocketWatch> watch;
  Outbox outbox;
  boost::asio::steady_timer timer;
  v1::Welcome welcome;
  std::string broker_epoch;
  v1::Header incoming;
  Clock::time_point last_heard;
  Clock::time_point last_sent;
  Clock::time_point next_ready;
  Clock::time_point next_socket;
  milliseconds retry = kFirstRetry;
  Clock::time_point close_deadline;
  std::function<void()> drained;
  std::size_t gathered = 0;  // messages that waited at the last turn
  bool was_full = false;
  bool pumping = false;
};

void BusLink::Impl::start() {
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

// Everything that can be done now, in slices; then waits for the socket.
void BusLink::Impl::pump() {
  const auto self = shared_from_this();
  if (std::exchange(pumping, true)) {
    return;
  }
  run_slice();
  pumping = false;
}

// Whether to wait one more turn of the loop for messages that go along with those that wait.
bool BusLink::Impl::gathers() {
  const std::size_t before = std::exchange(gathered, outbox.messages());
  return gathered > before && !outbox.stalled() && !outbox.fills_a_batch();
}

void BusLink::Impl::run_slice() {
  if (gathers()) {
    watch->soon();
    return;
  }
  gathered = 0;
  for (int count = 0; count < kSlice;) {
    const int received = live() ? receive() : 0;
    count += std::max(received, 1);
    if (received > 0 && !outbox.fills_a_batch()) {
      continue;
    }
    const bool sent = socket && flush();
    if (state == State::kClosing && outbox.empty()) {
      finish_close();
    }
    if (!socket) {
      return;
    }
    if (received > 0 || sent) {
      continue;
    }
    // receive() has looked at all that was signalled so far: what comes next signals again.
    if (state == State::kConnected && outbox.empty()) {
      watch->arm();
      return;
    }
    const int ready = socket->get(zmq::sockopt::events);
    const bool readable = live() && (ready & ZMQ_POLLIN) != 0;
    const bool writable = (ready & ZMQ_POLLOUT) != 0;
    if (state == State::kConnecting && writable && Clock::now() >= next_ready) {
      send_ready();
      continue;
    }
    if (!readable && !(writable && !outbox.empty())) {
      watch->arm();
      return;
    }
  }
  watch->soon();
}

// A message or a batch; how many messages.
int BusLink::Impl::receive() {
  zmq::message_t first;
  if (!socket->recv(first, zmq::recv_flags::dontwait)) {
    return 0;
  }
  if (!first.more()) {
    int count = 0;
    const bool sound =
        read_batch(view(first), [&](std::string_view header, std::string_view bytes) {
          zmq::message_t body(bytes.data(), bytes.size());
          take(header, body);
          ++count;
        });
    if (!sound) {
      spdlog::warn("bus link {}: dropped the rest of a bad batch", options.endpoint);
    }
    return std::max(count, 1);
  }
  zmq::message_t body;
  bool more = true;
  for (int frames = 1; more; ++frames) {
    zmq::message_t surplus;
    zmq::message_t& frame = frames == 1 ? body : surplus;
    if (!socket->recv(frame, zmq::recv_flags::dontwait)) {
      return 0;  // cannot be: ZeroMQ delivers whole messages
    }
    more = frame.more();
    if (frames > 1 && !more) {
      spdlog::warn("bus link {}: dropped a message with bad frames", options.endpoint);
      return 1;
    }
  }
  take(view(first), body);
  return 1;
}

void BusLink::Impl::take(std::string_view header, zmq::message_t& body) {
  const std::string_view problem = parse_header(header, incoming);
  if (!problem.empty()) {
    spdlog::warn("bus link {}: dropped a message with bad {}", options.endpoint, problem);
    return;
  }
  last_heard = Clock::now();
  handle(incoming, body);
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

bool BusLink::Impl::send_now(zmq::message_t& header, zmq::message_t& body) {
  if (!socket->send(header, zmq::send_flags::dontwait | zmq::send_flags::sndmore)) {
    return false;
  }
  // The first frame has taken the place of the whole message, so the second is never refused.
  socket->send(body, zmq::send_flags::dontwait);
  last_sent = Clock::now();
  return true;
}

// Sends a batch; whether there was one and the socket took it.
bool BusLink::Impl::flush() {
  if (outbox.empty() || state == State::kConnecting) {
    return false;
  }
  if (send_first(*socket, {}, welcome.max_batch(), outbox) != Sent::kYes) {
    outbox.stall();
    return false;
  }
  last_sent = Clock::now();
  note_room();
  return true;
}

void BusLink::Impl::note_room() {
  if (!was_full || outbox.bytes() * 2 >= options.max_outbox_bytes ||
      outbox.messages() * 2 >= options.max_outbox_messages) {
    return;
  }
  was_full = false;
  boost::asio::post(io, [weak = weak_from_this()] {
    if (const auto self = weak.lock()) {
      self->report_drained();
    }
  });
}

void BusLink::Impl::report_drained() {
  if (live() && drained) {
    const std::function<void()> hold = drained;
    hold();
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

Result<void> BusLink::Impl::send(const v1::Header& header, zmq::message_t body) {
  if (state != State::kConnected) {
    return make_error(ErrorCode::kUnavailable, "the bus is not connected");
  }
  zmq::message_t frame = encode(header);
  if (body.size() > welcome.max_body_bytes() || frame.size() > kMaxHeaderBytes) {
    Error error =
        make_error(ErrorCode::kValidation, "a message of " + std::to_string(body.size()) +
                                               " bytes is larger than the bus carries (" +
                                               std::to_string(welcome.max_body_bytes()) + ")");
    error.limit = "max_body_bytes";
    return error;
  }
  if (!pumping) {  // pump() looks at the socket again by itself
    watch->soon();
  }
  if (!outbox.push(header.kind(), header.call_id(), frame, body)) {
    was_full = true;
    Error error = make_error(ErrorCode::kBusy, "too much waits to be sent on the bus");
    error.limit = "bus_outbox";
    return error;
  }
  if (outbox.fills_a_batch() && !outbox.stalled()) {
    flush();
  }
  return {};
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
  return impl_->send(header, std::move(body));
}

Result<void> BusLink::send(const v1::Header& header, std::string_view body) {
  return impl_->send(header, zmq::message_t(body.data(), body.size()));
}

std::size_t BusLink::outbox_bytes() const { return impl_->outbox.bytes(); }

void BusLink::on_drained(std::function<void()> callback) { impl_->drained = std::move(callback); }

void BusLink::close() { impl_->begin_close(); }

}  // namespace runbus::wire
