#include <functional>
#include <utility>

#include "broker/core.h"
#include "proto/wire/frame.h"

namespace runbus::broker {
namespace {

// CANCEL with this method: nobody waits for the answer.
constexpr std::string_view kGone = "$/gone";

bool is_terminal(v1::Kind kind) { return kind == v1::RESULT || kind == v1::ERROR; }

zmq::message_t encode_error(const Error& error) {
  v1::ErrorBody body;
  body.set_code(static_cast<std::int32_t>(error.code));
  body.set_detail(error.detail);
  body.set_limit(error.limit);
  return wire::encode(body);
}

}  // namespace

void Core::on_call(Peer& gateway, zmq::message_t& header, zmq::message_t& body) {
  const std::string& id = header_.call_id();
  if (header_.origin() != gateway.id) {
    drop("origin", gateway.key);
    answer_error(gateway, id,
                 make_error(ErrorCode::kInvalidRequest, "origin is not the caller's peer_id"));
    return;
  }
  if (Call* known = find_call(id); known != nullptr) {
    on_repeated_call(gateway, *known, header, body);
    return;
  }
  ++calls_total_;
  if (header_.method().starts_with("bus.")) {
    on_builtin(gateway, body);
    return;
  }
  const Route* route = directory_.route(header_.method());
  if (route == nullptr && !settling()) {
    answer_error(
        gateway, id,
        make_error(ErrorCode::kMethodNotFound, "no service has the method " + header_.method()));
    return;
  }
  if (recently_ended(id) && !header_.has_resume()) {
    // It ran; to run it again because the answer was lost would be worse than to say so.
    answer_error(gateway, id,
                 make_error(ErrorCode::kWorkerLost, "the call has ended and its answer is gone"));
    return;
  }
  auto fresh = std::make_unique<Call>();
  Call& call = *fresh;
  call.id = id;
  call.origin = header_.origin();
  call.session = header_.session_id();
  call.method = header_.method();
  call.pinned = header_.worker_id();
  call.resume = header_.has_resume();
  call.deadline_ms = header_.deadline_ms();
  call.service = route != nullptr ? route->service : &lobby_;
  call.size = header.size() + body.size() + kCallOverhead;
  call.header = std::move(header);
  call.body = std::move(body);
  calls_.emplace(id, std::move(fresh));
  remember_end(id, false);
  if (call.deadline_ms != 0 && now_.wall_ms >= call.deadline_ms) {
    fail(call, make_error(ErrorCode::kTimeout, "the deadline had passed when the call came"));
    return;
  }
  if (header_.again()) {
    place_again(call);
  } else {
    place(call, false);
  }
}

// A gateway that has lost its connection, or sees a new broker, says again what it is waiting for.
void Core::on_repeated_call(Peer& gateway, Call& call, zmq::message_t& header,
                            zmq::message_t& body) {
  if (!owns(gateway, call)) {
    return;
  }
  const bool same_worker = call.slot != nullptr && (header_.worker_id().empty() ||
                                                    header_.worker_id() == call.slot->worker->id);
  if (header_.has_resume() && same_worker) {
    forward(*call.slot->worker, v1::CALL, call.id, std::move(header), std::move(body));
    return;
  }
  drop("repeated_call", gateway.key);
}

void Core::on_reply(Peer& worker, zmq::message_t& header, zmq::message_t& body) {
  const v1::Kind kind = header_.kind();
  Call* call = find_call(header_.call_id());
  if (call == nullptr) {
    if (recently_ended(header_.call_id())) {
      drop("late_reply", worker.key);
    } else if (header_.origin().empty()) {
      drop("unknown_call", worker.key);
    } else {
      deliver(header_.origin(), kind, header_.call_id(), std::move(header), std::move(body));
      remember_end(header_.call_id(), is_terminal(kind));
    }
    return;
  }
  if (call->slot == nullptr || call->slot->worker != &worker) {
    drop("not_its_call", worker.key);
    return;
  }
  call->doubtful_until = 0;
  if (!call->accepted) {
    call->accepted = true;
    call->header.rebuild();
    call->body.rebuild();
    call->follow_ups.clear();
  }
  if (call->origin.empty()) {
    call->origin = header_.origin();
  }
  if (call->origin.empty()) {
    drop("unknown_origin", worker.key);
  } else {
    deliver(call->origin, kind, call->id, std::move(header), std::move(body));
  }
  if (is_terminal(kind)) {
    end(*call);
  }
}

void Core::on_cancel(Peer& gateway, zmq::message_t& header, zmq::message_t& body) {
  Call* call = find_call(header_.call_id());
  if (call == nullptr) {
    to_named_worker(header, body, gateway.key);
    return;
  }
  if (!owns(gateway, *call)) {
    return;
  }
  call->cancelled = true;
  if (call->slot == nullptr) {
    fail(*call, make_error(ErrorCode::kCancelled, "cancelled before it began"));
    return;
  }
  forward(*call->slot->worker, v1::CANCEL, call->id, std::move(header), std::move(body));
}

void Core::on_follow_up(Peer& gateway, zmq::message_t& header, zmq::message_t& body) {
  Call* call = find_call(header_.call_id());
  if (call == nullptr) {
    to_named_worker(header, body, gateway.key);
    return;
  }
  if (!owns(gateway, *call)) {
    return;
  }
  if (!call->accepted) {
    keep_follow_up(*call, header, body);
    return;
  }
  forward(*call->slot->worker, header_.kind(), call->id, std::move(header), std::move(body));
}

// For calls of the time before this broker: the gateway knows who has them.
void Core::to_named_worker(zmq::message_t& header, zmq::message_t& body, std::string_view key) {
  Peer* worker = header_.worker_id().empty() ? nullptr : find_peer(header_.worker_id(), v1::WORKER);
  if (worker == nullptr) {
    drop("unknown_call", key);
    return;
  }
  forward(*worker, header_.kind(), header_.call_id(), std::move(header), std::move(body));
}

void Core::deliver(const std::string& origin, v1::Kind kind, std::string_view call_id,
                   zmq::message_t header, zmq::message_t body) {
  Peer* gateway = find_peer(origin, v1::GATEWAY);
  if (gateway != nullptr && !gateway->unreachable) {
    forward(*gateway, kind, call_id, std::move(header), std::move(body));
    return;
  }
  const std::uint64_t expires = now_.steady_ms + options_.heartbeat_timeout;
  if (!parking_.put(origin,
                    {kind, std::string(call_id), std::move(header), std::move(body), expires})) {
    drop("unknown_origin", {});
  }
}

// Whether the call is this gateway's; one of the time before this broker becomes its.
bool Core::owns(Peer& gateway, Call& call) {
  if (call.origin.empty()) {
    call.origin = gateway.id;
  }
  if (call.origin != gateway.id) {
    drop("not_its_call", gateway.key);
    return false;
  }
  return true;
}

// The worker that had the call is gone; its slot has been settled.
void Core::give_back(Call& call) {
  call.doubtful_until = 0;
  if (call.cancelled) {
    fail(call, make_error(ErrorCode::kCancelled));
  } else if (call.accepted) {
    fail(call, make_error(ErrorCode::kWorkerLost, "the worker that had begun the call is gone"));
  } else if (call.redispatches >= kMaxRedispatches) {
    fail(call, make_error(ErrorCode::kWorkerLost, "every worker that was given the call is gone"));
  } else {
    ++call.redispatches;
    ++redispatched_;
    place(call, true);
  }
}

void Core::fail(Call& call, Error error) {
  if (!call.origin.empty()) {
    own_header_.Clear();
    own_header_.set_kind(v1::ERROR);
    own_header_.set_call_id(call.id);
    own_header_.set_origin(call.origin);
    deliver(call.origin, v1::ERROR, call.id, wire::encode(own_header_), encode_error(error));
  }
  end(call);
}

void Core::answer_error(Peer& gateway, std::string_view call_id, const Error& error) {
  own_header_.Clear();
  own_header_.set_kind(v1::ERROR);
  own_header_.set_call_id(std::string(call_id));
  own_header_.set_origin(gateway.id);
  forward(gateway, v1::ERROR, call_id, wire::encode(own_header_), encode_error(error));
}

void Core::check_doubtful_calls() {
  std::vector<std::string> still;
  for (std::string& id : doubtful_) {
    Call* call = find_call(id);
    if (call == nullptr || call->doubtful_until == 0) {
      continue;
    }
    if (now_.steady_ms < call->doubtful_until) {
      still.push_back(std::move(id));
      continue;
    }
    --call->slot->calls;
    call->slot = nullptr;
    give_back(*call);
  }
  doubtful_ = std::move(still);
}

// Nothing runs for nobody: what an absent gateway had asked for is called off.
void Core::check_absent_gateways() {
  for (auto it = absent_.begin(); it != absent_.end();) {
    if (now_.steady_ms < it->second) {
      ++it;
      continue;
    }
    std::vector<Call*> theirs;
    for (const auto& [id, call] : calls_) {
      if (call->origin == it->first) {
        theirs.push_back(call.get());
      }
    }
    for (Call* call : theirs) {
      call->cancelled = true;
      if (call->slot == nullptr) {
        end(*call);
      } else {
        own_header_.Clear();
        own_header_.set_kind(v1::CANCEL);
        own_header_.set_call_id(call->id);
        own_header_.set_method(std::string(kGone));
        forward(*call->slot->worker, v1::CANCEL, call->id, wire::encode(own_header_), {});
      }
    }
    it = absent_.erase(it);
  }
}

Call* Core::find_call(std::string_view id) {
  const auto found = calls_.find(id);
  return found == calls_.end() ? nullptr : found->second.get();
}

bool Core::recently_ended(std::string_view id) const {
  const std::uint64_t hash = std::hash<std::string_view>{}(id);
  return ended_[hash % ended_.size()] == hash;
}

void Core::remember_end(std::string_view id, bool ended) {
  const std::uint64_t hash = std::hash<std::string_view>{}(id);
  std::uint64_t& place = ended_[hash % ended_.size()];
  if (ended) {
    place = hash;
  } else if (place == hash) {
    place = 0;
  }
}

}  // namespace runbus::broker
