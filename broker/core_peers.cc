#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "broker/core.h"
#include "proto/support/id.h"
#include "proto/support/log.h"
#include "proto/wire/batch.h"
#include "proto/wire/frame.h"

namespace runbus::broker {
namespace {

constexpr std::size_t kMaxToldUnknown = 4096;
constexpr int kMaxIdsOfAHeartbeat = 1024;  // of each kind

}  // namespace

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
      forward(*peer, message.kind, message.call_id, std::move(message.header),
              std::move(message.body));
    }
    return;
  }
  take_calls(*peer, ready, reconnected, now);
  take_sessions(*peer, ready.sessions());
  check_lobby();
  if (fresh) {
    spdlog::info("worker {} ({}) of node {} is attached", printable(peer->name), peer->id,
                 peer->node->name);
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
  output_.set_batch(peer.key, ready.max_batch());
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
    // What was on the wire of the old connection is lost: a call that the worker does not speak of
    // may be one that never reached it, or one that it has ended. It has the heartbeat timeout to
    // say so.
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

// What a session's calls need to find it when it was placed by another broker, or before this one
// started.
template <class Ids>
void Core::take_sessions(const Peer& worker, const Ids& sessions) {
  // Named with the one used last first, which shall be forgotten last.
  for (auto id = sessions.rbegin(); id != sessions.rend(); ++id) {
    announced_.place(*id, worker.node);
  }
}

void Core::on_heartbeat(Peer& peer, const zmq::message_t& body) {
  peer.unreachable = false;
  if (body.size() == 0) {
    return;
  }
  v1::Heartbeat heartbeat;
  const auto are_ids = [](const auto& ids) {
    return ids.size() <= kMaxIdsOfAHeartbeat &&
           std::all_of(ids.begin(), ids.end(),
                       [](const std::string& id) { return is_valid_id(id); });
  };
  const bool sound = peer.role == v1::WORKER &&
                     heartbeat.ParseFromArray(body.data(), static_cast<int>(body.size())) &&
                     are_ids(heartbeat.sessions()) && are_ids(heartbeat.calls());
  if (!sound) {
    drop("heartbeat", peer.key);
    return;
  }
  take_sessions(peer, heartbeat.sessions());
  for (const std::string& id : heartbeat.calls()) {
    claim_call(peer, id);
  }
}

// Its caller may be waiting here already, or come later.
void Core::claim_call(Peer& worker, const std::string& call_id) {
  const Call* call = find_call(call_id);
  if (call == nullptr) {
    claims_.put(call_id, worker.id, now_.steady_ms + 3 * options_.heartbeat_timeout);
  } else if (call->slot == nullptr) {
    register_call(worker, call_id);
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
  }
  // Its caller was here first, and has said from where it goes on and how much credit there is.
  const bool waited = call->queued;
  if (waited) {
    unqueue(*call);
  }
  if (call->slot == nullptr) {
    Slot* home = worker.slots.front().get();
    for (const auto& slot : worker.slots) {
      home = slot->service == call->service ? slot.get() : home;
    }
    call->service = home->service;
    if (waited) {
      dispatch(*call, *home);
    } else {
      call->slot = home;
      ++home->calls;
    }
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
  message.set_max_batch(wire::kMaxBatchMessages);
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

}  // namespace runbus::broker
