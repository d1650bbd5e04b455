#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>
#include <zmq.hpp>

#include "runbus/v1/bus.pb.h"

// What the broker knows: peers, the services they offer, and calls. Plain data, changed by
// Directory and Core.
namespace runbus::broker {

// For look-ups by string_view.
struct TextHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const {
    return std::hash<std::string_view>{}(text);
  }
};
template <class T>
using TextMap = std::unordered_map<std::string, T, TextHash, std::equal_to<>>;
using TextSet = std::unordered_set<std::string, TextHash, std::equal_to<>>;

struct Call;
struct Peer;
struct Service;

// A host that workers are on. Sessions hold nodes that may be forgotten already: `dead` says so.
struct Node {
  std::string name;
  std::uint32_t workers = 0;
  std::uint32_t draining = 0;
  std::uint64_t empty_since = 0;  // while workers is 0
  bool dead = false;

  bool usable() const { return !dead && (workers == 0 || draining < workers); }
};
using NodePtr = std::shared_ptr<Node>;

// One version of a service's description; the same for all workers that announce the same.
struct Offer {
  v1::ServiceOffer offer;
  TextSet methods;
};
using OfferPtr = std::shared_ptr<const Offer>;

// A worker's place for calls of one service.
struct Slot {
  Peer* worker = nullptr;
  Service* service = nullptr;
  OfferPtr offer;
  std::uint32_t capacity = 0;
  std::uint32_t calls = 0;

  bool open() const;  // may be given a new call
};

struct Service {
  std::string name;
  std::uint64_t order = 0;  // of two services with the same method the older has it
  std::vector<Slot*> slots;
  std::vector<OfferPtr> offers;  // of the slots; of the last one when there are none
  std::uint64_t gone_since = 0;  // while there are no slots
  // When a node's last worker with this service left; 0 while there is one.
  std::unordered_map<NodePtr, std::uint64_t> nodes;
  std::size_t next = 0;  // where the round begins
  std::list<Call*> queue;
  std::size_t queue_bytes = 0;

  bool has_open_slot() const;
};

// Who may have a method's calls.
struct Route {
  Service* service = nullptr;
  std::vector<Slot*> slots;
};

struct Peer {
  std::string key;      // socket and routing id of its present connection
  std::string old_key;  // of the one before: what it sent there may still arrive
  v1::Role role = v1::ROLE_UNSPECIFIED;
  std::string id;
  std::string user;  // "role:name" of its CURVE key; empty: local
  std::string name;
  std::string version;
  std::uint32_t pid = 0;
  std::uint64_t last_heard = 0;
  std::uint64_t last_sent = 0;
  bool unreachable = false;  // its connection is gone; it may come back until the heartbeat timeout
  bool draining = false;
  double event_tokens = 0;
  std::uint64_t event_refill = 0;
  NodePtr node;
  std::vector<std::unique_ptr<Slot>> slots;
};

// INPUT or CREDIT that came before the call was accepted: goes to whoever gets the call.
struct FollowUp {
  v1::Kind kind = v1::KIND_UNSPECIFIED;
  zmq::message_t header;
  zmq::message_t body;
};

// How often a call that nobody accepted is given to another worker.
inline constexpr std::uint32_t kMaxRedispatches = 3;
// What a waiting message costs beside its bytes.
inline constexpr std::size_t kCallOverhead = 512;

struct Call {
  std::string id;
  std::string origin;  // peer_id of the gateway; empty for a call another broker dispatched, until
                       // it is known
  std::string session;
  std::string method;
  std::string pinned;  // worker id, or empty
  bool resume = false;
  std::uint64_t held_until = 0;  // a worker may say until then that it has it already
  Service* service = nullptr;
  // As they came; kept until a worker has accepted the call.
  zmq::message_t header;
  zmq::message_t body;
  std::vector<FollowUp> follow_ups;
  std::size_t size = 0;  // of all of them
  std::uint64_t deadline_ms = 0;
  // Queued: the place in service->queue, and since when no worker could have taken it (0: one
  // could).
  bool queued = false;
  std::list<Call*>::iterator place;
  std::uint64_t stranded_since = 0;
  // Dispatched.
  Slot* slot = nullptr;
  bool accepted = false;
  bool cancelled = false;
  // Its worker has come back without mentioning it: until then it may speak up (0: no such doubt).
  std::uint64_t doubtful_until = 0;
  std::uint32_t redispatches = 0;
};

inline bool Slot::open() const {
  return !worker->draining && !worker->unreachable && calls < capacity;
}

inline bool Service::has_open_slot() const {
  for (const Slot* slot : slots) {
    if (slot->open()) {
      return true;
    }
  }
  return false;
}

}  // namespace runbus::broker
