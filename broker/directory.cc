#include "broker/directory.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <set>
#include <utility>

#include "proto/support/id.h"
#include "proto/support/log.h"
#include "proto/wire/frame.h"

namespace runbus::broker {
namespace {

constexpr int kMaxOffersOfAWorker = 64;
constexpr int kMaxMethods = 1024;
constexpr int kMaxCalls = 4096;
constexpr int kMaxSessions = 16'384;
constexpr std::size_t kMaxDescriptorBytes = 1U << 20U;
constexpr std::uint32_t kMaxCapacity = 65'536;
constexpr std::size_t kMaxServices = 256;
constexpr std::size_t kMaxOfferBytes = 16U << 20U;
constexpr std::string_view kOwnMethods = "bus.";

std::string check_offer(const v1::ServiceOffer& offer, const std::string& where) {
  if (!wire::is_valid_method(offer.service())) {
    return where + ".service is not the name of a service";
  }
  if (offer.descriptor_set().size() > kMaxDescriptorBytes) {
    return where + ".descriptor_set is larger than 1 MiB";
  }
  if (offer.capacity() == 0 || offer.capacity() > kMaxCapacity) {
    return where + ".capacity is not in 1 to " + std::to_string(kMaxCapacity);
  }
  if (offer.methods().empty() || offer.methods_size() > kMaxMethods) {
    return where + ".methods are not 1 to " + std::to_string(kMaxMethods);
  }
  for (const std::string& method : offer.methods()) {
    if (!wire::is_valid_method(method) || method.starts_with(kOwnMethods)) {
      return where + ".methods: " + printable(method, 128) + " cannot be offered";
    }
  }
  return {};
}

bool same_description(const v1::ServiceOffer& a, const v1::ServiceOffer& b) {
  return a.service() == b.service() && a.descriptor_set() == b.descriptor_set() &&
         std::equal(a.methods().begin(), a.methods().end(), b.methods().begin(), b.methods().end());
}

}  // namespace

std::string check_ready(const v1::Ready& ready) {
  if (ready.role() != v1::GATEWAY && ready.role() != v1::WORKER) {
    return "role is missing";
  }
  if (!is_valid_id(ready.peer_id())) {
    return "peer_id is not an id";
  }
  if (ready.name().size() > 128 || ready.version().size() > 128) {
    return "name or version is longer than 128 bytes";
  }
  if (ready.role() == v1::GATEWAY) {
    return ready.services().empty() ? std::string() : "a gateway offers no services";
  }
  if (!is_valid_id(ready.node())) {
    return "node is not the name of a node";
  }
  if (ready.services_size() > kMaxOffersOfAWorker || ready.calls_size() > kMaxCalls ||
      ready.sessions_size() > kMaxSessions) {
    return "more than " + std::to_string(kMaxOffersOfAWorker) + " services, " +
           std::to_string(kMaxCalls) + " calls or " + std::to_string(kMaxSessions) + " sessions";
  }
  std::set<std::string_view> seen;
  for (int i = 0; i < ready.services_size(); ++i) {
    const std::string where = "services[" + std::to_string(i) + "]";
    if (std::string problem = check_offer(ready.services(i), where); !problem.empty()) {
      return problem;
    }
    if (!seen.insert(ready.services(i).service()).second) {
      return where + " is the second of its service";
    }
  }
  for (const std::string& call : ready.calls()) {
    if (!is_valid_id(call)) {
      return "calls hold something that is not an id";
    }
  }
  for (const std::string& session : ready.sessions()) {
    if (!is_valid_id(session)) {
      return "sessions hold something that is not an id";
    }
  }
  return {};
}

std::string Directory::check_room(const v1::Ready& ready) const {
  std::size_t count = services_.size();
  std::size_t bytes = 0;
  for (const auto& [name, service] : services_) {
    for (const OfferPtr& offer : service->offers) {
      bytes += offer->offer.ByteSizeLong();
    }
  }
  for (const v1::ServiceOffer& offer : ready.services()) {
    const auto known = services_.find(offer.service());
    if (known == services_.end()) {
      ++count;
    }
    const bool has_it =
        known != services_.end() &&
        std::any_of(known->second->offers.begin(), known->second->offers.end(),
                    [&](const OfferPtr& one) { return same_description(one->offer, offer); });
    bytes += has_it ? 0 : offer.ByteSizeLong();
  }
  if (count > kMaxServices || bytes > kMaxOfferBytes) {
    return "this broker has no room for more services";
  }
  return {};
}

std::string Directory::attach(Peer& worker, const v1::Ready& ready) {
  if (std::string problem = check_room(ready); !problem.empty()) {
    return problem;
  }
  worker.node = node(ready.node());
  ++worker.node->workers;
  worker.slots.clear();
  for (const v1::ServiceOffer& offer : ready.services()) {
    Service& known = service(offer.service());
    auto slot = std::make_unique<Slot>();
    slot->worker = &worker;
    slot->service = &known;
    slot->offer = shared_offer(known, offer);
    slot->capacity = offer.capacity();
    known.slots.push_back(slot.get());
    known.nodes[worker.node] = 0;
    forget_unused_offers(known);
    worker.slots.push_back(std::move(slot));
  }
  rebuild_routes();
  return {};
}

void Directory::detach(Peer& worker, std::uint64_t now) {
  for (const auto& slot : worker.slots) {
    Service& known = *slot->service;
    std::erase(known.slots, slot.get());
    const bool node_has_others =
        std::any_of(known.slots.begin(), known.slots.end(),
                    [&](const Slot* other) { return other->worker->node == worker.node; });
    if (!node_has_others) {
      known.nodes[worker.node] = std::max<std::uint64_t>(now, 1);
    }
    if (known.slots.empty()) {
      known.gone_since = now;
      known.offers = {slot->offer};
    }
    forget_unused_offers(known);
  }
  if (worker.node) {
    --worker.node->workers;
    worker.node->draining -= worker.draining ? 1 : 0;
    worker.node->empty_since = now;
  }
  rebuild_routes();
}

void Directory::set_draining(Peer& worker) {
  if (!std::exchange(worker.draining, true) && worker.node) {
    ++worker.node->draining;
  }
}

bool Directory::same_offers(const Peer& worker, const v1::Ready& ready) {
  if (!worker.node || worker.node->name != ready.node() ||
      worker.slots.size() != static_cast<std::size_t>(ready.services_size())) {
    return false;
  }
  for (int i = 0; i < ready.services_size(); ++i) {
    const Slot& slot = *worker.slots[static_cast<std::size_t>(i)];
    if (slot.capacity != ready.services(i).capacity() ||
        !same_description(slot.offer->offer, ready.services(i))) {
      return false;
    }
  }
  return true;
}

Route* Directory::route(std::string_view method) {
  const auto found = routes_.find(method);
  return found == routes_.end() ? nullptr : &found->second;
}

bool Directory::may_claim(std::string_view name, std::string_view user,
                          const std::vector<Peer*>& workers) const {
  if (user.empty()) {
    return true;
  }
  // A key that is bound to no node may not sit down beside somebody else's workers: sessions live
  // there.
  return std::all_of(workers.begin(), workers.end(), [&](const Peer* worker) {
    return !worker->node || worker->node->name != name || worker->user == user;
  });
}

void Directory::expire(std::uint64_t now, std::uint64_t node_grace) {
  std::erase_if(nodes_, [&](const auto& entry) {
    Node& one = *entry.second;
    one.dead = one.workers == 0 && now - one.empty_since > node_grace;
    return one.dead;
  });
  bool forgotten = false;
  for (auto it = services_.begin(); it != services_.end();) {
    Service& one = *it->second;
    std::erase_if(one.nodes, [&](const auto& entry) {
      return entry.first->dead || (entry.second != 0 && now - entry.second > service_memory_);
    });
    if (one.slots.empty() && one.queue.empty() && now - one.gone_since > service_memory_) {
      spdlog::info("service {} is forgotten", printable(one.name));
      it = services_.erase(it);
      forgotten = true;
    } else {
      ++it;
    }
  }
  if (forgotten) {
    changed_ = true;
    rebuild_routes();
  }
}

v1::Services Directory::offers() const {
  v1::Services all;
  for (const Service* one : services()) {
    for (const OfferPtr& offer : one->offers) {
      *all.add_services() = offer->offer;
    }
  }
  return all;
}

bool Directory::take_changed() { return std::exchange(changed_, false); }

std::vector<Service*> Directory::services() const {
  std::vector<Service*> all;
  all.reserve(services_.size());
  for (const auto& [name, one] : services_) {
    all.push_back(one.get());
  }
  std::sort(all.begin(), all.end(),
            [](const Service* a, const Service* b) { return a->name < b->name; });
  return all;
}

Service& Directory::service(const std::string& name) {
  auto& known = services_[name];
  if (!known) {
    known = std::make_unique<Service>();
    known->name = name;
    known->order = next_order_++;
  }
  return *known;
}

NodePtr Directory::node(const std::string& name) {
  auto& known = nodes_[name];
  if (!known) {
    known = std::make_shared<Node>();
    known->name = name;
  }
  return known;
}

OfferPtr Directory::shared_offer(Service& service, const v1::ServiceOffer& offer) {
  for (const OfferPtr& known : service.offers) {
    if (same_description(known->offer, offer)) {
      return known;
    }
  }
  auto fresh = std::make_shared<Offer>();
  fresh->offer = offer;
  fresh->methods.insert(offer.methods().begin(), offer.methods().end());
  service.offers.push_back(fresh);
  return fresh;
}

// While a service has workers its offers are theirs alone.
void Directory::forget_unused_offers(Service& service) {
  if (service.slots.empty()) {
    return;
  }
  std::erase_if(service.offers, [&](const OfferPtr& offer) {
    return std::none_of(service.slots.begin(), service.slots.end(),
                        [&](const Slot* slot) { return slot->offer == offer; });
  });
}

// Rare (a worker comes or goes), so simply all anew.
void Directory::rebuild_routes() {
  changed_ = true;
  routes_.clear();
  std::vector<Service*> all = services();
  std::sort(all.begin(), all.end(),
            [](const Service* a, const Service* b) { return a->order < b->order; });
  for (Service* one : all) {
    for (const OfferPtr& offer : one->offers) {
      for (const std::string& method : offer->methods) {
        const auto [entry, fresh] = routes_.try_emplace(method, Route{one, {}});
        if (entry->second.service != one) {
          spdlog::warn("method {} of service {} belongs to service {} already", printable(method),
                       printable(one->name), printable(entry->second.service->name));
        } else if (fresh) {
          std::copy_if(one->slots.begin(), one->slots.end(),
                       std::back_inserter(entry->second.slots),
                       [&](const Slot* slot) { return slot->offer->methods.contains(method); });
        }
      }
    }
  }
}

}  // namespace runbus::broker
