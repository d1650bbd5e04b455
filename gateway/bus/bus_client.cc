#include "gateway/bus/bus_client.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

namespace runbus::gateway {
namespace {

constexpr std::size_t kMaxCancels = 10'000;
constexpr std::chrono::seconds kPublishTimeout{10};

// Turns the one reply of an internal call into a function call.
class FunctionObserver final : public CallObserver {
 public:
  explicit FunctionObserver(std::function<void(Result<std::string_view>)> done)
      : done_(std::move(done)) {}
  void on_item(zmq::message_t& /*body*/) override {}
  void on_result(std::string_view body) override { done_(body); }
  void on_error(const Error& error) override { done_(error); }

 private:
  std::function<void(Result<std::string_view>)> done_;
};

}  // namespace

BusClient::BusClient(boost::asio::io_context& io, std::string peer_id, CallPatience patience,
                     std::chrono::milliseconds service_memory)
    : peer_id_(std::move(peer_id)),
      patience_(patience),
      services_(io, service_memory),
      timer_(io) {}

BusClient::~BusClient() = default;

void BusClient::add_port(BusPort& port) { ports_.push_back(&port); }

BusPort* BusClient::connected_port() {
  BusPort* first = nullptr;
  for (BusPort* port : ports_) {
    if (!port->connected()) {
      continue;
    }
    if (ports_.size() == 1 || port->writable()) {
      return port;
    }
    first = first != nullptr ? first : port;
  }
  return first;
}

void BusClient::on_connected(BusPort& port) {
  while (!cancels_.empty() && port.send(cancels_.front(), std::string_view())) {
    cancels_.pop_front();
  }
  for (const auto& call : snapshot()) {
    call->on_link_up(port);
  }
}

void BusClient::on_disconnected(BusPort& port) {
  // Its services stay known: it may be back in a moment, and ServiceCatalog::update then says what
  // is left.
  ready_ = ready_ && connected_port() != nullptr;
  for (const auto& call : snapshot()) {
    call->on_link_lost(port);
  }
}

void BusClient::on_message(BusPort& port, const v1::Header& header, zmq::message_t& body) {
  if (header.kind() == v1::SERVICES) {
    v1::Services services;
    if (!services.ParseFromArray(body.data(), static_cast<int>(body.size()))) {
      spdlog::error("bus: a SERVICES message that cannot be read");
      return;
    }
    services_.update(port, services);
    ready_ = true;
    return;
  }
  const auto found = calls_.find(header.call_id());
  if (found == calls_.end()) {
    return;  // ended: a repeated terminal reply, or what came after a cancellation
  }
  const std::shared_ptr<PendingCall> call = found->second.call;
  call->on_message(port, header, body);
}

std::shared_ptr<PendingCall> BusClient::call(CallRequest request,
                                             std::shared_ptr<CallObserver> observer) {
  auto call = std::make_shared<PendingCall>(*this, std::move(request), std::move(observer));
  calls_.emplace(call->id(), Entry{call, due_.end()});
  call->start();
  return call;
}

void BusClient::call(CallRequest request, std::function<void(Result<std::string_view>)> done) {
  call(std::move(request), std::make_shared<FunctionObserver>(std::move(done)));
}

void BusClient::publish(const v1::Event& event, const std::string& principal,
                        std::function<void(Result<v1::Published>)> done) {
  CallRequest request;
  request.method = "bus.publish";
  request.principal = principal;
  request.body = event.SerializeAsString();
  request.timeout = kPublishTimeout;
  request.only = connected_port();
  if (request.only == nullptr) {
    done(make_error(ErrorCode::kUnavailable, "no broker is connected"));
    return;
  }
  call(std::move(request), [done = std::move(done)](const Result<std::string_view>& body) {
    v1::Published position;
    if (!body) {
      done(body.error());
    } else if (!position.ParseFromArray(body->data(), static_cast<int>(body->size()))) {
      done(make_error(ErrorCode::kInternal, {}, "a bus.publish answer that cannot be read"));
    } else {
      done(std::move(position));
    }
  });
}

Result<void> BusClient::publish(const v1::Event& event, const std::string& principal,
                                BusPort& port) {
  v1::Header header;
  header.set_kind(v1::EVENT);
  header.set_principal(principal);
  header.set_origin(peer_id_);
  return port.send(header, event.SerializeAsString());
}

void BusClient::schedule(PendingCall& call, TimePoint when) {
  const auto found = calls_.find(call.id());
  if (found == calls_.end()) {
    return;
  }
  Entry& entry = found->second;
  if (entry.due != due_.end()) {
    if (entry.due->first == when) {
      return;
    }
    due_.erase(entry.due);
  }
  entry.due = due_.emplace(when, &call);
  arm();
}

void BusClient::forget(PendingCall& call) {
  const auto found = calls_.find(call.id());
  if (found == calls_.end()) {
    return;
  }
  if (found->second.due != due_.end()) {
    due_.erase(found->second.due);
  }
  calls_.erase(found);
}

void BusClient::send_later(v1::Header cancel) {
  if (cancels_.size() >= kMaxCancels) {
    cancels_.pop_front();
  }
  cancels_.push_back(std::move(cancel));
}

// The timer is set again only for something earlier: most calls end long before their time.
void BusClient::arm() {
  if (due_.empty() || due_.begin()->first >= armed_) {
    return;
  }
  armed_ = due_.begin()->first;
  timer_.expires_at(armed_);
  timer_.async_wait([this](const boost::system::error_code& error) {
    if (!error) {
      armed_ = TimePoint::max();
      run_due();
    }
  });
}

void BusClient::run_due() {
  const TimePoint now = std::chrono::steady_clock::now();
  while (!due_.empty() && due_.begin()->first <= now) {
    const std::shared_ptr<PendingCall> call = due_.begin()->second->shared_from_this();
    const auto entry = calls_.find(call->id());
    due_.erase(due_.begin());
    entry->second.due = due_.end();
    call->on_time(now);
  }
  arm();
}

std::vector<std::shared_ptr<PendingCall>> BusClient::snapshot() const {
  std::vector<std::shared_ptr<PendingCall>> calls;
  calls.reserve(calls_.size());
  for (const auto& [id, entry] : calls_) {
    calls.push_back(entry.call);
  }
  return calls;
}

}  // namespace runbus::gateway
