#include <algorithm>
#include <boost/asio/post.hpp>
#include <utility>

#include "proto/support/log.h"
#include "services/worker/worker_impl.h"

namespace runbus::worker {

using std::chrono_literals::operator""ms;
using std::chrono_literals::operator""s;

void Worker::Impl::drain(std::function<void()> done) {
  if (done) {
    if (drain_state == Drain::kDone) {
      boost::asio::post(loop, std::move(done));
      return;
    }
    drained_callbacks.push_back(std::move(done));
  }
  if (drain_state != Drain::kNo) {
    return;
  }
  drain_state = Drain::kWaiting;
  spdlog::info("draining: {} calls to finish", calls.size());
  v1::Header header;
  header.set_kind(v1::DRAIN);
  for (const Link& link : links) {
    static_cast<void>(
        link.bus->send(header, zmq::message_t()));  // a broker that is away is told when it is back
  }
  drain_timer.expires_after(options.drain_timeout);
  drain_timer.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
    const auto self = weak.lock();
    if (error || !self || self->drain_state != Drain::kWaiting) {
      return;
    }
    spdlog::warn("drain timeout: {} calls are failed", self->calls.size());
    self->each_call([](CallState& call) {
      call.fail(make_error(ErrorCode::kWorkerLost, "the worker shuts down"));
    });
    if (self->drain_state == Drain::kWaiting) {
      self->drain_state = Drain::kFlushing;
      self->flush(std::chrono::steady_clock::now() + 1s);
    }
  });
  check_drained();
}

void Worker::Impl::check_drained() {
  if (drain_state != Drain::kWaiting || !calls.empty()) {
    return;
  }
  drain_state = Drain::kFlushing;
  // Posted: the last answer is being sent right now, by a call that is still at work.
  boost::asio::post(loop, [weak = weak_from_this()] {
    if (const auto self = weak.lock()) {
      self->flush(std::chrono::steady_clock::now() + 1s);
    }
  });
}

void Worker::Impl::flush(std::chrono::steady_clock::time_point until) {
  const bool empty = std::all_of(links.begin(), links.end(), [](const Link& link) {
    return !link.bus->connected() || link.bus->outbox_bytes() == 0;
  });
  if (empty || std::chrono::steady_clock::now() >= until) {
    finish_drain();
    return;
  }
  drain_timer.expires_after(5ms);
  drain_timer.async_wait([weak = weak_from_this(), until](const boost::system::error_code& error) {
    if (const auto self = weak.lock(); self && !error) {
      self->flush(until);
    }
  });
}

void Worker::Impl::finish_drain() {
  drain_state = Drain::kDone;
  drain_timer.cancel();
  for (const Link& link : links) {
    link.bus->close();
  }
  spdlog::info("drained");
  for (auto& callback : std::exchange(drained_callbacks, {})) {
    boost::asio::post(loop, std::move(callback));
  }
}

}  // namespace runbus::worker
