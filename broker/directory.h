#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "broker/state.h"
#include "runbus/v1/bus.pb.h"

// Which services are offered, by which workers, on which nodes. A service whose workers are gone is
// remembered for a while, with its last description: gateways go on to know its methods.
namespace runbus::broker {

// What is wrong with an introduction ("services[0].capacity is 0"), or "".
std::string check_ready(const v1::Ready& ready);

class Directory {
 public:
  explicit Directory(std::uint64_t service_memory) : service_memory_(service_memory) {}

  // Puts a worker on its node and makes its slots. "" or why it is refused; nothing has changed
  // then.
  std::string attach(Peer& worker, const v1::Ready& ready);
  // Takes its slots away; they stay alive (in worker.slots) but nobody finds them.
  void detach(Peer& worker, std::uint64_t now);
  void set_draining(Peer& worker);
  // Whether attach() would change nothing but the names.
  static bool same_offers(const Peer& worker, const v1::Ready& ready);

  // Null when no service has the method.
  Route* route(std::string_view method);
  // Whether `user` (empty: local) may put a worker on the node.
  bool may_claim(std::string_view node, std::string_view user,
                 const std::vector<Peer*>& workers) const;

  // Forgets nodes without workers after `node_grace`, and services after service_memory.
  void expire(std::uint64_t now, std::uint64_t node_grace);

  // Every distinct offer. take_changed(): whether they have changed since that was last asked.
  v1::Services offers() const;
  bool changed() const { return changed_; }
  bool take_changed();

  // In order of their names.
  std::vector<Service*> services() const;

 private:
  Service& service(const std::string& name);
  NodePtr node(const std::string& name);
  static OfferPtr shared_offer(Service& service, const v1::ServiceOffer& offer);
  static void forget_unused_offers(Service& service);
  void rebuild_routes();
  std::string check_room(const v1::Ready& ready) const;

  std::uint64_t service_memory_;
  std::uint64_t next_order_ = 0;
  TextMap<std::unique_ptr<Service>> services_;
  TextMap<NodePtr> nodes_;
  TextMap<Route> routes_;
  bool changed_ = false;
};

}  // namespace runbus::broker
