#include <google/protobuf/util/time_util.h>

#include <algorithm>

#include "broker/core.h"
#include "proto/support/log.h"
#include "proto/wire/frame.h"

namespace runbus::broker {
namespace {

// The broker's own topics.
constexpr std::string_view kOwnTopics = "worker.";
constexpr int kMaxPrefixes = 64;

}  // namespace

void Core::on_builtin(Peer& gateway, const zmq::message_t& body) {
  const std::string& method = header_.method();
  zmq::message_t answer;
  if (method == "bus.workers") {
    answer = wire::encode(worker_list());
  } else if (method == "bus.services") {
    answer = wire::encode(service_list());
  } else if (method == "bus.stats") {
    answer = wire::encode(stats(now_));
  } else if (method == "bus.history") {
    v1::HistoryRequest request;
    if (!request.ParseFromArray(body.data(), static_cast<int>(body.size()))) {
      answer_error(gateway, header_.call_id(),
                   make_error(ErrorCode::kInvalidParams, "the request cannot be read"));
      return;
    }
    answer = wire::encode(history_.read(request));
  } else if (method == "bus.topics") {
    v1::TopicsRequest request;
    const bool readable = request.ParseFromArray(body.data(), static_cast<int>(body.size()));
    if (!readable || request.prefixes_size() > kMaxPrefixes) {
      answer_error(gateway, header_.call_id(),
                   make_error(ErrorCode::kInvalidParams,
                              readable ? "prefixes: more than 64" : "the request cannot be read"));
      return;
    }
    answer = wire::encode(history_.list(request));
  } else if (method == "bus.publish") {
    const auto position = publish_for(gateway, body);
    if (!position) {
      answer_error(gateway, header_.call_id(), position.error());
      return;
    }
    answer = wire::encode(*position);
  } else {
    answer_error(gateway, header_.call_id(),
                 make_error(ErrorCode::kMethodNotFound, "the broker has no method " + method));
    return;
  }
  own_header_.Clear();
  own_header_.set_kind(v1::RESULT);
  own_header_.set_call_id(header_.call_id());
  own_header_.set_origin(gateway.id);
  own_header_.set_sequence(1);
  forward(gateway, v1::RESULT, header_.call_id(), wire::encode(own_header_), std::move(answer));
}

v1::WorkersResponse Core::worker_list() const {
  v1::WorkersResponse response;
  for (const Peer* worker : workers()) {
    v1::WorkerInfo& info = *response.add_workers();
    info.set_worker_id(worker->id);
    info.set_name(worker->name);
    info.set_node(worker->node->name);
    info.set_version(worker->version);
    info.set_pid(worker->pid);
    std::uint32_t capacity = 0;
    std::uint32_t calls = 0;
    for (const auto& slot : worker->slots) {
      info.add_services(slot->service->name);
      capacity += slot->capacity;
      calls += slot->calls;
    }
    info.set_capacity(capacity);
    info.set_calls(calls);
    info.set_draining(worker->draining);
    info.set_identity(worker->user.empty() ? "local"
                                           : worker->user.substr(worker->user.find(':') + 1));
  }
  std::sort(response.mutable_workers()->begin(), response.mutable_workers()->end(),
            [](const auto& a, const auto& b) { return a.worker_id() < b.worker_id(); });
  return response;
}

v1::ServicesResponse Core::service_list() const {
  v1::ServicesResponse response;
  for (const Service* service : directory_.services()) {
    v1::ServiceInfo& info = *response.add_services();
    info.set_service(service->name);
    TextSet methods;
    for (const OfferPtr& offer : service->offers) {
      methods.insert(offer->methods.begin(), offer->methods.end());
    }
    info.mutable_methods()->Add(methods.begin(), methods.end());
    std::sort(info.mutable_methods()->begin(), info.mutable_methods()->end());
    std::uint32_t capacity = 0;
    for (const Slot* slot : service->slots) {
      capacity += slot->capacity;
    }
    info.set_workers(static_cast<std::uint32_t>(service->slots.size()));
    info.set_capacity(capacity);
    info.set_queued_calls(static_cast<std::uint32_t>(service->queue.size()));
    info.set_queued_bytes(service->queue_bytes);
  }
  return response;
}

v1::StatsResponse Core::stats(Now now) const {
  v1::StatsResponse response;
  const auto worker_count = static_cast<std::uint32_t>(workers().size());
  response.set_epoch(epoch_);
  response.set_uptime(static_cast<double>(now.steady_ms - started_ms_) / 1000.0);
  response.set_gateways(static_cast<std::uint32_t>(peers_.size()) - worker_count);
  response.set_workers(worker_count);
  response.set_calls_in_flight(static_cast<std::uint32_t>(calls_.size() - queued_calls_));
  response.set_queued_calls(static_cast<std::uint32_t>(queued_calls_));
  response.set_queued_bytes(queued_bytes_);
  response.set_sessions(static_cast<std::uint32_t>(sessions_.size()));
  response.set_calls(calls_total_);
  response.set_redispatched(redispatched_);
  response.set_workers_lost(workers_lost_);
  response.set_events(events_total_);
  response.mutable_dropped()->insert(dropped_.begin(), dropped_.end());
  return response;
}

// Reads an event that a peer wants to publish; what is refused is counted.
Result<void> Core::take_event(Peer& peer, std::string_view bytes, v1::Event& event, Now now) {
  const auto refuse = [this, &peer](const char* why, Error error, const char* limit) {
    drop(why, peer.key);
    error.limit = limit;
    return error;
  };
  if (bytes.size() > wire::kMaxEventBytes) {
    return refuse(
        "event_size",
        make_error(ErrorCode::kValidation,
                   "an event has at most " + std::to_string(wire::kMaxEventBytes) + " bytes"),
        "event_bytes");
  }
  if (!may_publish(peer, now)) {
    return refuse(
        "event_rate",
        make_error(ErrorCode::kRateLimit, "at most " + std::to_string(options_.event_rate) +
                                              " events a second of one gateway or worker"),
        "event_rate");
  }
  if (!event.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return refuse("event_syntax", make_error(ErrorCode::kInvalidParams, "the event cannot be read"),
                  "");
  }
  if (!wire::is_valid_topic(event.topic()) || event.topic().starts_with(kOwnTopics)) {
    return refuse("event_topic",
                  make_error(ErrorCode::kInvalidParams, "topic: none that can be published under"),
                  "");
  }
  return {};
}

void Core::on_event(Peer& peer, const zmq::message_t& body, Now now) {
  v1::Event event;
  if (take_event(peer, wire::view(body), event, now)) {
    publish(event, now);
  }
}

void Core::on_published(std::string_view topic, std::string_view bytes, Now now) {
  now_ = now;
  v1::Event event;
  if (!take_event(publisher_, bytes, event, now)) {
    return;
  }
  if (event.topic() == topic) {
    publish(event, now);
  } else {
    drop("event_topic", {});
  }
}

// A gateway that has lost its connection asks again; what was published then must not be once more.
Result<v1::Published> Core::publish_for(Peer& gateway, const zmq::message_t& body) {
  if (header_.again()) {
    return make_error(ErrorCode::kConnection,
                      "the broker's connection was lost; whether it had the event is not known");
  }
  v1::Event event;
  if (const Result<void> taken = take_event(gateway, wire::view(body), event, now_); !taken) {
    return taken.error();
  }
  publish(event, now_);
  v1::Published position;
  position.set_epoch(event.epoch());
  position.set_offset(event.offset());
  return position;
}

// A bucket of event_burst that fills by event_rate a second.
bool Core::may_publish(Peer& peer, Now now) const {
  const double refill =
      static_cast<double>(now.steady_ms - peer.event_refill) * options_.event_rate / 1000.0;
  peer.event_tokens = std::min<double>(peer.event_tokens + refill, options_.event_burst);
  peer.event_refill = now.steady_ms;
  if (peer.event_tokens < 1) {
    return false;
  }
  peer.event_tokens -= 1;
  return true;
}

void Core::publish(v1::Event& event, Now now) {
  if (!event.has_timestamp()) {
    *event.mutable_timestamp() = google::protobuf::util::TimeUtil::MillisecondsToTimestamp(
        static_cast<std::int64_t>(now.wall_ms));
  }
  ++events_total_;
  output_.publish(event.topic(), history_.append(event));
}

// "worker.attached", "worker.lost"
void Core::announce(std::string_view topic, const Peer& worker, Now now) {
  v1::Event event;
  event.set_topic(std::string(topic));
  auto& data = *event.mutable_data()->mutable_fields();
  data["worker_id"].set_string_value(worker.id);
  data["name"].set_string_value(worker.name);
  data["node"].set_string_value(worker.node ? worker.node->name : "");
  auto& services = *data["services"].mutable_list_value();
  for (const auto& slot : worker.slots) {
    services.add_values()->set_string_value(slot->service->name);
  }
  publish(event, now);
}

}  // namespace runbus::broker
