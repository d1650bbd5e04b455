#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "gateway/bus/bus_port.h"
#include "proto/wire/catalog.h"
#include "runbus/v1/bus.pb.h"

namespace runbus::gateway {

// What can be called: the gateway's and the broker's own services first, so that no worker can put
// itself in their place, then what the brokers say is offered. A service that is gone stays
// callable for a while (the broker then says that it is unavailable), because a worker that
// restarts is no reason for "method not found".
class ServiceCatalog {
 public:
  ServiceCatalog(boost::asio::io_context& io, std::chrono::milliseconds memory);

  void update(const BusPort& port, const v1::Services& services);
  void forget(const BusPort& port);

  // Whether there is anything beside the services of gateway and broker.
  bool has_offers() const { return !known_.empty(); }

  const std::shared_ptr<const wire::Catalog>& current() const { return current_; }

 private:
  using Offers = std::map<std::string, v1::ServiceOffer>;
  void rebuild();

  std::chrono::milliseconds memory_;
  std::vector<v1::ServiceOffer> builtins_;
  std::map<const BusPort*, Offers> offered_;
  Offers known_;  // all that the catalog has
  std::map<std::string, std::chrono::steady_clock::time_point> gone_;
  std::shared_ptr<const wire::Catalog> current_;
  boost::asio::steady_timer timer_;
};

}  // namespace runbus::gateway
