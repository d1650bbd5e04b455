#include <spdlog/spdlog.h>

#include <algorithm>
#include <functional>
#include <utility>

#include "broker/core.h"
#include "proto/support/log.h"
#include "proto/wire/frame.h"

namespace runbus::broker {
namespace {

constexpr std::uint32_t kMaxRedispatches = 3;
constexpr std::size_t kMaxFollowUpBytes = 8U << 20U;
// How many waiting calls are looked at when one place has become free; the next tick looks at all.
constexpr std::size_t kQueueGlance = 64;
constexpr std::size_t kCallOverhead = 512;

bool is_terminal(v1::Kind kind) { return kind == v1::RESULT || kind == v1::ERROR; }

Error over_the_queue(std::string detail) {
  Error error = make_error(ErrorCode::kBusy, std::move(detail));
  error.limit = "queue";
  return error;
}

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
    answer_error(gateway, id, make_error(ErrorCode::kInvalidRequest, "origin is not the caller's peer_id"));
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
  if (route == nullptr) {
    answer_error(gateway, id,
                 make_error(ErrorCode::kMethodNotFound, "no service has the method " + header_.method()));
    return;
  }
  if (recently_ended(id) && !header_.has_resume()) {
    // It ran; to run it again because the answer was lost would be worse than to say so.
    answer_error(gateway, id, make_error(ErrorCode::kWorkerLost, "the call has ended and its answer is gone"));
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
  call.service = route->service;
  call.size = header.size() + body.size() + kCallOverhead;
  call.header = std::move(header);
  call.body = std::move(body);
  calls_.emplace(id, std::move(fresh));
  remember_end(id, false);
  if (call.deadline_ms != 0 && now_.wall_ms >= call.deadline_ms) {
    fail(call, make_error(ErrorCode::kTimeout, "the deadline had passed when the call came"));
    return;
  }
  place(call, false);
}

// A gateway that has lost its connection, or sees a new broker, says again what it is waiting for.
void Core::on_repeated_call(Peer& gateway, Call& call, zmq::message_t& header, zmq::message_t& body) {
  if (!owns(gateway, call)) {
    return;
  }
  const bool same_worker =
      call.slot != nullptr && (header_.worker_id().empty() || header_.worker_id() == call.slot->worker->id);
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

// For the worker that has the call or will have it, and for the next one should that be lost.
void Core::keep_follow_up(Call& call, zmq::message_t& header, zmq::message_t& body) {
  const std::size_t size = header.size() + body.size() + kCallOverhead;
  if (call.queued) {
    if (call.size + size > kMaxFollowUpBytes + call.header.size() + call.body.size() ||
        call.service->queue_bytes + size > options_.queue_bytes) {
      fail(call, over_the_queue("too much input for a call that has not begun"));
      return;
    }
    call.service->queue_bytes += size;
    queued_bytes_ += size;
  } else {
    forward(*call.slot->worker, header_.kind(), call.id, wire::share(header), wire::share(body));
    if (call.size + size > kMaxFollowUpBytes + call.header.size() + call.body.size()) {
      call.redispatches = kMaxRedispatches;  // too much to say it twice
      call.follow_ups.clear();
      return;
    }
  }
  call.size += size;
  call.follow_ups.push_back({header_.kind(), std::move(header), std::move(body)});
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

void Core::deliver(const std::string& origin, v1::Kind kind, std::string_view call_id, zmq::message_t header,
                   zmq::message_t body) {
  Peer* gateway = find_peer(origin, v1::GATEWAY);
  if (gateway != nullptr && !gateway->unreachable) {
    forward(*gateway, kind, call_id, std::move(header), std::move(body));
    return;
  }
  const std::uint64_t expires = now_.steady_ms + options_.heartbeat_timeout;
  if (!parking_.put(origin, {kind, std::string(call_id), std::move(header), std::move(body), expires})) {
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

Core::Choice Core::choose(const Call& call) {
  if (!call.pinned.empty()) {
    return choose_pinned(call);
  }
  const Route* route = directory_.route(call.method);
  if (route == nullptr || route->service != call.service) {
    return {nullptr, true};
  }
  if (!call.session.empty()) {
    for (const NodePtr& node : sessions_.find(call.session)) {
      // A node that never had this service does not bind its calls.
      if (route->service->nodes.contains(node)) {
        return choose_among(*route, node.get());
      }
    }
  }
  return choose_among(*route, nullptr);
}

Core::Choice Core::choose_pinned(const Call& call) {
  const Peer* worker = find_peer(call.pinned, v1::WORKER);
  if (worker == nullptr || worker->unreachable) {
    return {nullptr, true};
  }
  for (const auto& slot : worker->slots) {
    if (slot->service == call.service) {
      // A call that it has already takes no further room, and is none of the new ones it does not want.
      const bool room = call.resume || slot->open();
      return {room ? slot.get() : nullptr, worker->draining && !call.resume};
    }
  }
  return {nullptr, true};
}

// Of the workers on `node`, or of all.
Core::Choice Core::choose_among(const Route& route, const Node* node) {
  if (Slot* best = least_loaded(route, node); best != nullptr) {
    return {best, false};
  }
  const bool somebody = std::any_of(route.slots.begin(), route.slots.end(), [&](const Slot* slot) {
    const Peer& worker = *slot->worker;
    return (node == nullptr || worker.node.get() == node) && !worker.draining && !worker.unreachable;
  });
  return {nullptr, !somebody};
}

// Of those that have room, on `node` or anywhere; ties go round.
Slot* Core::least_loaded(const Route& route, const Node* node) {
  const std::vector<Slot*>& slots = route.slots;
  Slot* best = nullptr;
  std::size_t best_index = 0;
  for (std::size_t i = 0; i < slots.size(); ++i) {
    const std::size_t index = (route.service->next + i) % slots.size();
    Slot* slot = slots[index];
    if (!slot->open() || (node != nullptr && slot->worker->node.get() != node)) {
      continue;
    }
    if (best == nullptr || std::uint64_t{slot->calls} * best->capacity < std::uint64_t{best->calls} * slot->capacity) {
      best = slot;
      best_index = index;
    }
  }
  if (best != nullptr) {
    route.service->next = best_index + 1;
  }
  return best;
}

// Gives the call to a worker, or lets it wait. `again`: it has waited once, and goes to the front.
void Core::place(Call& call, bool again) {
  const Choice choice = choose(call);
  if (choice.slot != nullptr) {
    dispatch(call, *choice.slot);
  } else {
    enqueue(call, choice.stranded, again);
  }
}

void Core::enqueue(Call& call, bool stranded, bool again) {
  Service& service = *call.service;
  const bool full =
      service.queue.size() >= options_.queue_calls || service.queue_bytes + call.size > options_.queue_bytes;
  if (full && !again) {
    fail(call, over_the_queue("the workers of " + service.name + " are busy and its queue is full"));
    return;
  }
  call.place = service.queue.insert(again ? service.queue.begin() : service.queue.end(), &call);
  call.queued = true;
  call.stranded_since = stranded ? std::max<std::uint64_t>(now_.steady_ms, 1) : 0;
  service.queue_bytes += call.size;
  queued_bytes_ += call.size;
  ++queued_calls_;
}

void Core::unqueue(Call& call) {
  call.service->queue.erase(call.place);
  call.queued = false;
  call.service->queue_bytes -= call.size;
  queued_bytes_ -= call.size;
  --queued_calls_;
}

void Core::dispatch(Call& call, Slot& slot) {
  call.slot = &slot;
  ++slot.calls;
  if (!call.session.empty()) {
    sessions_.place(call.session, slot.worker->node);
  }
  forward(*slot.worker, v1::CALL, call.id, wire::share(call.header), wire::share(call.body));
  for (FollowUp& next : call.follow_ups) {
    forward(*slot.worker, next.kind, call.id, wire::share(next.header), wire::share(next.body));
  }
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

// Takes the call out of the table, and lets the next one have its place.
void Core::end(Call& call) {
  if (call.queued) {
    unqueue(call);
  }
  Slot* slot = call.slot;
  remember_end(call.id, true);
  calls_.erase(calls_.find(call.id));
  if (slot != nullptr) {
    --slot->calls;
    pump_queue(*slot->service, kQueueGlance);
  }
}

// Gives waiting calls to workers that have room, looking at `limit` of them at most.
void Core::pump_queue(Service& service, std::size_t limit) {
  auto next = service.queue.begin();
  for (std::size_t looked = 0; looked < limit && next != service.queue.end(); ++looked) {
    Call& call = **next++;
    // Without its gateway nobody would see the answer; perhaps it comes back.
    if (!absent_.empty() && absent_.contains(call.origin)) {
      continue;
    }
    if (!service.has_open_slot() && !call.resume) {
      return;
    }
    if (const Choice choice = choose(call); choice.slot != nullptr) {
      unqueue(call);
      dispatch(call, *choice.slot);
    }
  }
}

void Core::check_queue(Service& service) {
  if (service.queue.empty()) {
    return;
  }
  pump_queue(service, service.queue.size());
  const std::vector<Call*> waiting(service.queue.begin(), service.queue.end());
  for (Call* call : waiting) {
    if (call->deadline_ms != 0 && now_.wall_ms >= call->deadline_ms) {
      fail(*call, make_error(ErrorCode::kTimeout, "the deadline passed before a worker was free"));
      continue;
    }
    if (!choose(*call).stranded) {
      call->stranded_since = 0;
      continue;
    }
    if (call->stranded_since == 0) {
      call->stranded_since = now_.steady_ms;
    }
    const std::uint64_t waited = now_.steady_ms - call->stranded_since;
    if (!call->pinned.empty() && waited > options_.heartbeat_timeout) {
      fail(*call, make_error(ErrorCode::kWorkerLost, "the worker that the call is for is gone"));
    } else if (waited > options_.heartbeat_timeout + options_.gone_service_patience) {
      fail(*call, make_error(ErrorCode::kUnavailable, "no worker serves " + call->method + " at the moment"));
    }
  }
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
        emit(*call->slot->worker, v1::CANCEL, call->id,
             encode_error(make_error(ErrorCode::kConnection, "the caller is gone")));
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
