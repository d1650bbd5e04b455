#include <algorithm>
#include <boost/asio/post.hpp>
#include <string>
#include <utility>

#include "proto/support/log.h"
#include "proto/wire/batch.h"
#include "proto/wire/bus_link_impl.h"
#include "proto/wire/frame.h"

namespace runbus::wire {
namespace {

// So many messages before other work of the loop has its turn.
constexpr int kSlice = 256;

}  // namespace

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

// Another message may take it along before; then this is a look at nothing.
void BusLink::Impl::wait_for_company() {
  if (std::exchange(waits_for_company, true)) {
    return;
  }
  company_timer.expires_after(kLongestWait);
  company_timer.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
    const auto self = weak.lock();
    if (self && !error && self->state != State::kClosed) {
      self->waits_for_company = false;
      self->pump();
    }
  });
}

Result<void> BusLink::Impl::send(const v1::Header& header, zmq::message_t body, bool along) {
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
  if (along) {
    wait_for_company();
  } else if (!pumping) {  // pump() looks at the socket again by itself
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

}  // namespace runbus::wire
