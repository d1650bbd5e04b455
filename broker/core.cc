#include "broker/core.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "proto/support/log.h"
#include "proto/wire/frame.h"

namespace runbus::broker {
namespace {

constexpr std::size_t kRememberedEnds = 1U << 16U;
constexpr std::size_t kMaxToldUnknown = 4096;

bool from_gateway(v1::Kind kind) {
  return kind == v1::CALL || kind == v1::CANCEL || kind == v1::INPUT || kind == v1::CREDIT;
}

bool from_worker(v1::Kind kind) {
  return (kind >= v1::ACCEPTED && kind <= v1::ERROR) || kind == v1::DRAIN;
}

}  // namespace

Core::Core(CoreOptions options, std::string epoch, Output& output, Now now)
    : options_(std::move(options)),
      epoch_(std::move(epoch)),
      output_(output),
      now_(now),
      started_ms_(now.steady_ms),
      last_tick_ms_(now.steady_ms),
      directory_(options_.service_memory),
      sessions_(options_.max_sessions),
      history_(epoch_, options_),
      parking_(options_.parked_bytes, options_.parked_messages),
      ended_(kRememberedEnds, 0) {
  publisher_.event_tokens = options_.event_burst;
  publisher_.event_refill = now.steady_ms;
}

Core::~Core() = default;

void Core::on_message(const Sender& sender, zmq::message_t& header, zmq::message_t& body, Now now) {
  now_ = now;
  const std::string_view problem = wire::parse_header(wire::view(header), header_);
  if (!problem.empty()) {
    drop(problem, sender.key);
    return;
  }
  if (body.size() > options_.max_body_bytes) {
    drop("body_size", sender.key);
    return;
  }
  if (header_.kind() == v1::READY) {
    on_ready(sender, body, now);
    return;
  }
  const auto found = peers_by_key_.find(sender.key);
  if (found == peers_by_key_.end() || found->second->user != sender.user) {
    drop("unknown_peer", sender.key);
    if (header_.kind() != v1::GOODBYE) {
      stranger(sender.key);
    }
    return;
  }
  Peer& peer = *found->second;
  peer.last_heard = now.steady_ms;
  const v1::Kind kind = header_.kind();
  if ((from_gateway(kind) && peer.role != v1::GATEWAY) || (from_worker(kind) && peer.role != v1::WORKER) ||
      kind == v1::SERVICES) {
    drop("role", sender.key);
    return;
  }
  if (kind == v1::GOODBYE || kind == v1::HEARTBEAT) {
    // From a connection that has a successor neither means anything.
    if (sender.key != peer.key) {
      return;
    }
    if (kind == v1::GOODBYE) {
      lose(peer, "it said goodbye", true, now);
    } else {
      peer.unreachable = false;
    }
    return;
  }
  dispatch_kind(peer, header, body, now);
}

void Core::dispatch_kind(Peer& peer, zmq::message_t& header, zmq::message_t& body, Now now) {
  switch (header_.kind()) {
    case v1::CALL:
      on_call(peer, header, body);
      break;
    case v1::CANCEL:
      on_cancel(peer, header, body);
      break;
    case v1::INPUT:
    case v1::CREDIT:
      on_follow_up(peer, header, body);
      break;
    case v1::ACCEPTED:
    case v1::ITEM:
    case v1::RESULT:
    case v1::ERROR:
      on_reply(peer, header, body);
      break;
    case v1::DRAIN:
      directory_.set_draining(peer);
      break;
    case v1::EVENT:
      on_event(peer, body, now);
      break;
    default:
      drop("header_kind", peer.key);
  }
}

void Core::on_junk(std::string_view reason, std::string_view key) { drop(reason, key); }

void Core::on_ready(const Sender& sender, const zmq::message_t& body, Now now) {
  v1::Ready ready;
  if (!ready.ParseFromArray(body.data(), static_cast<int>(body.size()))) {
    drop("ready", sender.key);
    refuse(sender.key, "READY cannot be read");
    return;
  }
  std::string problem = check_ready(ready);
  if (problem.empty()) {
    problem = check_identity(sender, ready);
  }
  if (!problem.empty()) {
    drop("ready", sender.key);
    refuse(sender.key, problem);
    return;
  }
  const auto known = peers_.find(ready.peer_id());
  const bool fresh = known == peers_.end();
  const bool reconnected = !fresh && known->second->key != sender.key;
  Peer* peer = introduce(sender, ready, now);
  if (peer == nullptr) {
    refuse(sender.key, "this broker has no room for more peers");
    return;
  }
  if (peer->role == v1::WORKER && !take_offers(*peer, ready, now)) {
    return;
  }
  welcome(*peer, now);
  if (peer->role == v1::GATEWAY) {
    absent_.erase(peer->id);
    send_services(*peer);
    for (ParkedMessage& message : parking_.take(peer->id)) {
      forward(*peer, message.kind, message.call_id, std::move(message.header), std::move(message.body));
    }
    return;
  }
  take_calls(*peer, ready, reconnected, now);
  if (fresh) {
    spdlog::info("worker {} ({}) of node {} is attached", printable(peer->name), peer->id, peer->node->name);
    announce("worker.attached", *peer, now);
  }
  for (const auto& slot : peer->slots) {
    pump_queue(*slot->service, options_.queue_calls);
  }
}

// What the socket knows of the peer against what it says of itself.
std::string Core::check_identity(const Sender& sender, const v1::Ready& ready) const {
  const std::string_view role = ready.role() == v1::GATEWAY ? "gateway:" : "worker:";
  if (!sender.user.empty() && !sender.user.starts_with(role)) {
    return "the key is for another role";
  }
  if (const auto known = peers_.find(ready.peer_id()); known != peers_.end()) {
    if (known->second->user != sender.user || known->second->role != ready.role()) {
      return "peer_id is another peer's";
    }
  }
  if (ready.role() == v1::GATEWAY) {
    return {};
  }
  if (!sender.node.empty()) {
    return sender.node == ready.node() ? std::string() : "the key is for another node";
  }
  return directory_.may_claim(ready.node(), sender.user, workers()) ? std::string()
                                                                    : "the node is another peer's";
}

Peer* Core::introduce(const Sender& sender, const v1::Ready& ready, Now now) {
  if (const auto other = peers_by_key_.find(sender.key);
      other != peers_by_key_.end() && other->second->id != ready.peer_id()) {
    lose(*other->second, "its connection has introduced itself as another", true, now);
  }
  auto known = peers_.find(ready.peer_id());
  if (known == peers_.end()) {
    if (peers_.size() >= options_.max_peers) {
      return nullptr;
    }
    auto fresh = std::make_unique<Peer>();
    fresh->id = ready.peer_id();
    fresh->role = ready.role();
    fresh->user = sender.user;
    fresh->event_tokens = options_.event_burst;
    fresh->event_refill = now.steady_ms;
    known = peers_.emplace(ready.peer_id(), std::move(fresh)).first;
  }
  Peer& peer = *known->second;
  rekey(peer, sender.key);
  peer.name = ready.name();
  peer.version = ready.version();
  peer.pid = ready.pid();
  peer.last_heard = now.steady_ms;
  peer.unreachable = false;
  return &peer;
}

void Core::rekey(Peer& peer, std::string_view key) {
  if (peer.key == key) {
    return;
  }
  if (!peer.old_key.empty() && peer.old_key != key) {
    peers_by_key_.erase(peer.old_key);
  }
  peer.old_key = std::exchange(peer.key, std::string(key));
  peers_by_key_[peer.key] = &peer;
  if (!peer.old_key.empty()) {
    output_.move(peer.old_key, peer.key);
  }
}

bool Core::take_offers(Peer& worker, const v1::Ready& ready, Now now) {
  if (Directory::same_offers(worker, ready)) {
    return true;
  }
  directory_.detach(worker, now.steady_ms);
  worker.node.reset();
  worker.draining = false;
  const std::vector<std::unique_ptr<Slot>> old = std::exchange(worker.slots, {});
  const std::string problem = directory_.attach(worker, ready);
  std::vector<Call*> homeless;
  for (const auto& [id, call] : calls_) {
    if (call->slot == nullptr || call->slot->worker != &worker) {
      continue;
    }
    const Service* service = call->slot->service;
    call->slot = nullptr;
    for (const auto& slot : worker.slots) {
      if (slot->service == service) {
        call->slot = slot.get();
        ++slot->calls;
      }
    }
    if (call->slot == nullptr) {
      homeless.push_back(call.get());
    }
  }
  for (Call* call : homeless) {
    give_back(*call);
  }
  if (!problem.empty()) {
    refuse(worker.key, problem);
    lose(worker, problem, true, now);
    return false;
  }
  return true;
}

void Core::take_calls(Peer& worker, const v1::Ready& ready, bool reconnected, Now now) {
  if (reconnected) {
    // What was on the wire of the old connection is lost: a call that the worker does not speak of may be one that
    // never reached it, or one that it has ended. It has the heartbeat timeout to say so.
    const TextSet mentioned(ready.calls().begin(), ready.calls().end());
    for (const auto& [id, call] : calls_) {
      if (call->slot != nullptr && call->slot->worker == &worker && !mentioned.contains(id)) {
        call->doubtful_until = now.steady_ms + options_.heartbeat_timeout;
        doubtful_.push_back(id);
      }
    }
  }
  for (const std::string& id : ready.calls()) {
    register_call(worker, id);
  }
}

void Core::register_call(Peer& worker, const std::string& call_id) {
  if (worker.slots.empty()) {
    return;
  }
  Call* call = find_call(call_id);
  if (call == nullptr) {
    auto fresh = std::make_unique<Call>();
    fresh->id = call_id;
    call = calls_.emplace(call_id, std::move(fresh)).first->second.get();
  } else if (call->slot != nullptr && call->slot->worker != &worker) {
    // It went to another worker while this one was away.
    emit(worker, v1::CANCEL, call_id, {});
    return;
  } else if (call->queued) {
    unqueue(*call);
  }
  if (call->slot == nullptr) {
    Slot* home = worker.slots.front().get();
    for (const auto& slot : worker.slots) {
      home = slot->service == call->service ? slot.get() : home;
    }
    call->slot = home;
    call->service = home->service;
    ++home->calls;
  }
  call->accepted = true;
  call->doubtful_until = 0;
  call->header.rebuild();
  call->body.rebuild();
  call->follow_ups.clear();
}

void Core::welcome(Peer& peer, Now now) {
  v1::Welcome message;
  message.set_epoch(epoch_);
  message.set_heartbeat_interval_ms(options_.heartbeat_interval);
  message.set_heartbeat_timeout_ms(options_.heartbeat_timeout);
  message.set_max_body_bytes(static_cast<std::uint32_t>(options_.max_body_bytes));
  message.set_events_endpoint(peer.user.empty() ? options_.local_events_endpoint
                                                : options_.remote_events_endpoint);
  message.set_version(options_.version);
  peer.last_heard = now.steady_ms;
  emit(peer, v1::READY, {}, wire::encode(message));
}

void Core::refuse(std::string_view key, std::string_view reason) {
  own_header_.Clear();
  own_header_.set_kind(v1::GOODBYE);
  v1::GoodbyeBody goodbye;
  goodbye.set_reason(std::string(reason));
  output_.send(std::string(key), v1::GOODBYE, {}, wire::encode(own_header_), wire::encode(goodbye));
}

// Told to introduce itself, at most once a second each.
void Core::stranger(std::string_view key) {
  if (now_.steady_ms - told_unknown_since_ >= 1000) {
    told_unknown_.clear();
    told_unknown_since_ = now_.steady_ms;
  }
  if (told_unknown_.size() < kMaxToldUnknown && told_unknown_.emplace(key).second) {
    refuse(key, "unknown");
  }
}

void Core::on_unreachable(std::string_view key, Now now) {
  now_ = now;
  const auto found = peers_by_key_.find(key);
  if (found == peers_by_key_.end() || found->second->key != key || found->second->unreachable) {
    return;
  }
  Peer& peer = *found->second;
  peer.unreachable = true;
  std::vector<Call*> never_arrived;
  for (const auto& [id, call] : calls_) {
    if (call->slot != nullptr && call->slot->worker == &peer && !call->accepted) {
      never_arrived.push_back(call.get());
    }
  }
  for (Call* call : never_arrived) {
    --call->slot->calls;
    call->slot = nullptr;
    give_back(*call);
  }
}

void Core::on_overflow(std::string_view key, Now now) {
  now_ = now;
  const auto found = peers_by_key_.find(key);
  if (found != peers_by_key_.end() && found->second->key == key) {
    refuse(key, "overflow: it does not read what it is sent");
    lose(*found->second, "it does not read what it is sent", false, now);
  }
}

void Core::lose(Peer& peer, std::string_view why, bool for_good, Now now) {
  const auto entry = peers_.find(peer.id);
  const std::unique_ptr<Peer> gone = std::move(entry->second);
  peers_.erase(entry);
  peers_by_key_.erase(gone->key);
  if (const auto old = peers_by_key_.find(gone->old_key); old != peers_by_key_.end() && old->second == gone.get()) {
    peers_by_key_.erase(old);
  }
  output_.forget(gone->key);
  if (gone->role == v1::GATEWAY) {
    spdlog::info("gateway {} is gone: {}", gone->id, printable(why));
    absent_[gone->id] = now.steady_ms + (for_good ? 0 : options_.heartbeat_timeout);
    if (for_good) {
      check_absent_gateways();
    }
    return;
  }
  spdlog::info("worker {} ({}) is gone: {}", printable(gone->name), gone->id, printable(why));
  workers_lost_ += for_good ? 0 : 1;
  directory_.detach(*gone, now.steady_ms);
  announce("worker.lost", *gone, now);
  std::vector<Call*> orphans;
  for (const auto& [id, call] : calls_) {
    if (call->slot != nullptr && call->slot->worker == gone.get()) {
      call->slot = nullptr;
      orphans.push_back(call.get());
    }
  }
  for (Call* call : orphans) {
    give_back(*call);
  }
}

void Core::send_services(Peer& gateway) { emit(gateway, v1::SERVICES, {}, wire::encode(directory_.offers())); }

void Core::watch_peers(Now now) {
  // When this process was stopped or starved the silence was ours.
  const std::uint64_t gap = now.steady_ms - last_tick_ms_;
  const std::uint64_t ours = gap > options_.heartbeat_interval ? gap : 0;
  std::vector<Peer*> silent;
  for (const auto& [id, peer] : peers_) {
    peer->last_heard = std::min(peer->last_heard + ours, now.steady_ms);
    if (now.steady_ms - peer->last_heard > options_.heartbeat_timeout) {
      silent.push_back(peer.get());
    } else if (now.steady_ms - peer->last_sent >= options_.heartbeat_interval) {
      emit(*peer, v1::HEARTBEAT, {}, {});
    }
  }
  for (Peer* peer : silent) {
    refuse(peer->key, "silent");
    lose(*peer, "it is silent", false, now);
  }
}

void Core::on_tick(Now now) {
  now_ = now;
  watch_peers(now);
  last_tick_ms_ = now.steady_ms;
  directory_.expire(now.steady_ms, options_.heartbeat_timeout);
  for (Service* service : directory_.services()) {
    check_queue(*service);
  }
  check_doubtful_calls();
  check_absent_gateways();
  if (const std::size_t expired = parking_.expire(now.steady_ms); expired > 0) {
    dropped_["unknown_origin"] += expired;
  }
  if (directory_.take_changed()) {
    for (const auto& [id, peer] : peers_) {
      if (peer->role == v1::GATEWAY) {
        send_services(*peer);
      }
    }
  }
}

bool Core::busy() const { return queued_calls_ > 0 || directory_.changed(); }

void Core::say_goodbye(std::string_view reason) {
  for (const auto& [id, peer] : peers_) {
    refuse(peer->key, reason);
  }
}

void Core::emit(Peer& peer, v1::Kind kind, std::string_view call_id, zmq::message_t body) {
  own_header_.Clear();
  own_header_.set_kind(kind);
  own_header_.set_call_id(call_id.data(), call_id.size());
  forward(peer, kind, call_id, wire::encode(own_header_), std::move(body));
}

void Core::forward(Peer& peer, v1::Kind kind, std::string_view call_id, zmq::message_t header,
                   zmq::message_t body) {
  peer.last_sent = now_.steady_ms;
  output_.send(peer.key, kind, call_id, std::move(header), std::move(body));
}

void Core::drop(std::string_view reason, std::string_view key) {
  const auto found = dropped_.find(reason);
  std::uint64_t& count = found != dropped_.end() ? found->second : dropped_[std::string(reason)];
  ++count;
  if (now_.steady_ms - last_drop_log_ >= 1000) {
    last_drop_log_ = now_.steady_ms;
    const auto peer = peers_by_key_.find(key);
    spdlog::warn("dropped a message of {}: {} ({} so far)",
                 peer == peers_by_key_.end() ? "an unknown peer" : peer->second->id, reason, count);
  }
}

Peer* Core::find_peer(std::string_view id, v1::Role role) {
  const auto found = peers_.find(id);
  return found != peers_.end() && found->second->role == role ? found->second.get() : nullptr;
}

std::vector<Peer*> Core::workers() const {
  std::vector<Peer*> all;
  for (const auto& [id, peer] : peers_) {
    if (peer->role == v1::WORKER) {
      all.push_back(peer.get());
    }
  }
  return all;
}

}  // namespace runbus::broker
