#include <algorithm>
#include <utility>

#include "broker/core.h"
#include "proto/wire/frame.h"

namespace runbus::broker {
namespace {

constexpr std::size_t kMaxFollowUpBytes = 8U << 20U;
// How many waiting calls are looked at when one place has become free; the next tick looks at all.
constexpr std::size_t kQueueGlance = 64;

Error over_the_queue(std::string detail) {
  Error error = make_error(ErrorCode::kBusy, std::move(detail));
  error.limit = "queue";
  return error;
}

// How much a session is drawn to a worker's node: the same number at every broker (FNV-1a).
std::uint64_t affinity(std::string_view session, const Slot& slot) {
  std::uint64_t hash = 14'695'981'039'346'656'037U;
  for (const std::string_view text : {session, std::string_view(slot.worker->node->name)}) {
    for (const char c : text) {
      hash = (hash ^ static_cast<unsigned char>(c)) * 1'099'511'628'211U;
    }
  }
  // The last characters alone tell nodes apart: they shall count in every bit.
  hash = (hash ^ hash >> 32U) * 0x9e37'79b9'7f4a'7c15U;
  return hash ^ hash >> 29U;
}

}  // namespace

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

Core::Choice Core::choose(const Call& call) {
  if (now_.steady_ms < call.held_until) {
    return {nullptr, false};
  }
  if (!call.pinned.empty()) {
    return choose_pinned(call);
  }
  const Route* route = directory_.route(call.method);
  if (route == nullptr || route->service != call.service) {
    return {nullptr, true};
  }
  if (call.session.empty()) {
    return choose_among(*route, nullptr, {});
  }
  if (const Node* node = node_of(call, *route->service); node != nullptr) {
    return choose_among(*route, node, {});
  }
  if (may_live_elsewhere(call.session)) {
    return {nullptr, true};
  }
  return choose_among(*route, nullptr, call.session);
}

// The node that the call's session binds it to, or null.
const Node* Core::node_of(const Call& call, const Service& service) {
  for (Sessions* known : {&sessions_, &announced_}) {
    for (const NodePtr& node : known->find(call.session)) {
      // A node that never had this service does not bind its calls.
      if (service.nodes.contains(node)) {
        return node.get();
      }
    }
  }
  return nullptr;
}

// Workers that served an earlier broker may not be back yet.
bool Core::settling() const {
  return now_.steady_ms - started_ms_ < options_.heartbeat_timeout + options_.gone_service_patience;
}

// Whether a session that nobody has spoken of may be on the node of a worker that is not back yet.
// One that is younger than this broker (by its id, a UUIDv7) is not.
bool Core::may_live_elsewhere(std::string_view session) const {
  return settling() && made_ms(session) < started_wall_ms_;
}

Core::Choice Core::choose_pinned(const Call& call) {
  const Peer* worker = find_peer(call.pinned, v1::WORKER);
  if (worker == nullptr || worker->unreachable) {
    return {nullptr, true};
  }
  for (const auto& slot : worker->slots) {
    if (slot->service == call.service) {
      // A call that it has already takes no further room, and is none of the new ones it does not
      // want.
      const bool room = call.resume || slot->open();
      return {room ? slot.get() : nullptr, worker->draining && !call.resume};
    }
  }
  return {nullptr, true};
}

// Of the workers on `node`, or of all.
Core::Choice Core::choose_among(const Route& route, const Node* node, std::string_view session) {
  if (Slot* best = least_loaded(route, node, session); best != nullptr) {
    return {best, false};
  }
  const bool somebody = std::any_of(route.slots.begin(), route.slots.end(), [&](const Slot* slot) {
    const Peer& worker = *slot->worker;
    return (node == nullptr || worker.node.get() == node) && !worker.draining &&
           !worker.unreachable;
  });
  return {nullptr, !somebody};
}

// Of those that have room, on `node` or anywhere. Between equals a new session is drawn to the same
// node by every broker, should two of them meet it at once; other calls go round.
Slot* Core::least_loaded(const Route& route, const Node* node, std::string_view session) {
  const std::vector<Slot*>& slots = route.slots;
  Slot* best = nullptr;
  std::size_t best_index = 0;
  for (std::size_t i = 0; i < slots.size(); ++i) {
    const std::size_t index = (route.service->next + i) % slots.size();
    Slot* slot = slots[index];
    if (!slot->open() || (node != nullptr && slot->worker->node.get() != node)) {
      continue;
    }
    const std::uint64_t load = std::uint64_t{slot->calls} * (best ? best->capacity : 0);
    const std::uint64_t least = best ? std::uint64_t{best->calls} * slot->capacity : 0;
    if (best == nullptr || load < least ||
        (load == least && !session.empty() &&
         affinity(session, *slot) > affinity(session, *best))) {
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

// A call that another broker had: a worker may have begun it.
void Core::place_again(Call& call) {
  Peer* const worker = find_peer(claims_.take(call.id), v1::WORKER);
  // A worker may take one to see that the other broker is gone.
  call.held_until = now_.steady_ms + 2 * options_.heartbeat_timeout;
  place(call, false);
  if (worker != nullptr && call.queued) {
    register_call(*worker, call.id);
  }
}

void Core::enqueue(Call& call, bool stranded, bool again) {
  Service& service = *call.service;
  const bool full = service.queue.size() >= options_.queue_calls ||
                    service.queue_bytes + call.size > options_.queue_bytes;
  if (full && !again) {
    fail(call,
         over_the_queue("the workers of " + service.name + " are busy and its queue is full"));
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

// Calls of services that were not known when they came: their workers are back, or nobody waits any
// longer for them.
void Core::check_lobby() {
  const std::vector<Call*> waiting(lobby_.queue.begin(), lobby_.queue.end());
  for (Call* call : waiting) {
    if (const Route* route = directory_.route(call->method); route != nullptr) {
      unqueue(*call);
      call->service = route->service;
      place(*call, false);
    } else if (!settling()) {
      fail(*call, make_error(ErrorCode::kUnavailable,
                             "no worker serves " + call->method + " at the moment"));
    }
  }
  check_queue(lobby_);
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
      fail(*call, make_error(ErrorCode::kUnavailable,
                             "no worker serves " + call->method + " at the moment"));
    }
  }
}

}  // namespace runbus::broker
