#include "broker/core.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "proto/support/log.h"
#include "proto/wire/frame.h"

namespace runbus::broker {
namespace {

constexpr std::size_t kRememberedEnds = 1U << 16U;

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
      started_wall_ms_(now.wall_ms),
      last_tick_ms_(now.steady_ms),
      directory_(options_.service_memory),
      sessions_(options_.max_sessions),
      announced_(options_.max_sessions),
      history_(epoch_, options_),
      parking_(options_.parked_bytes, options_.parked_messages),
      ended_(kRememberedEnds, 0) {
  lobby_.name = "services that are not back yet";
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
  if ((from_gateway(kind) && peer.role != v1::GATEWAY) ||
      (from_worker(kind) && peer.role != v1::WORKER) || kind == v1::SERVICES) {
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
      on_heartbeat(peer, body);
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
  if (const auto old = peers_by_key_.find(gone->old_key);
      old != peers_by_key_.end() && old->second == gone.get()) {
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

void Core::send_services(Peer& gateway) {
  emit(gateway, v1::SERVICES, {}, wire::encode(directory_.offers()));
}

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
  check_lobby();
  for (Service* service : directory_.services()) {
    check_queue(*service);
  }
  check_doubtful_calls();
  claims_.expire(now.steady_ms);
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
