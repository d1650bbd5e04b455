#include "gateway/bus/service_catalog.h"

#include <spdlog/spdlog.h>

#include <algorithm>

#include "proto/support/log.h"
#include "runbus/v1/gateway.pb.h"

namespace runbus::gateway {
namespace {

constexpr std::size_t kMaxServices = 256;

const google::protobuf::ServiceDescriptor& service_of(const google::protobuf::FileDescriptor& file,
                                                      const std::string& name) {
  const google::protobuf::ServiceDescriptor* service = file.FindServiceByName(name);
  if (service == nullptr) {
    throw std::logic_error("no such built-in service: " + name);
  }
  return *service;
}

bool same(const v1::ServiceOffer& a, const v1::ServiceOffer& b) {
  return a.descriptor_set() == b.descriptor_set() &&
         std::equal(a.methods().begin(), a.methods().end(), b.methods().begin(), b.methods().end());
}

}  // namespace

ServiceCatalog::ServiceCatalog(boost::asio::io_context& io, std::chrono::milliseconds memory)
    : memory_(memory), timer_(io) {
  const auto& gateway = *v1::PingRequest::descriptor()->file();
  const auto& bus = *v1::WorkersRequest::descriptor()->file();
  builtins_.push_back(wire::make_offer(service_of(gateway, "ConnectionService"), 1));
  builtins_.push_back(wire::make_offer(service_of(gateway, "EventsService"), 1));
  builtins_.push_back(wire::make_offer(service_of(bus, "BusService"), 1));
  rebuild();
}

void ServiceCatalog::update(const BusPort& port, const v1::Services& services) {
  Offers offers;
  for (const v1::ServiceOffer& offer : services.services()) {
    const bool builtin = std::any_of(
        builtins_.begin(), builtins_.end(),
        [&offer](const v1::ServiceOffer& own) { return own.service() == offer.service(); });
    if (!builtin && offers.size() < kMaxServices) {
      offers.emplace(offer.service(), offer);
    }
  }
  offered_[&port] = std::move(offers);
  rebuild();
}

void ServiceCatalog::forget(const BusPort& port) {
  offered_.erase(&port);
  rebuild();
}

void ServiceCatalog::rebuild() {
  const auto now = std::chrono::steady_clock::now();
  Offers wanted;
  for (const auto& [port, offers] : offered_) {
    wanted.insert(offers.begin(), offers.end());
  }
  // What is gone comes last and only for its time.
  Offers kept = wanted;
  for (const auto& [name, offer] : known_) {
    if (wanted.contains(name)) {
      gone_.erase(name);
      continue;
    }
    const auto until = gone_.try_emplace(name, now + memory_).first->second;
    if (until > now && kept.size() < kMaxServices) {
      kept.emplace(name, offer);
    } else {
      gone_.erase(name);
    }
  }
  if (!gone_.empty()) {
    auto first = now + memory_;
    for (const auto& [name, until] : gone_) {
      first = std::min(first, until);
    }
    timer_.expires_at(first + std::chrono::milliseconds(1));
    timer_.async_wait([this](const boost::system::error_code& error) {
      if (!error) {
        rebuild();
      }
    });
  }
  const bool unchanged =
      current_ && std::equal(kept.begin(), kept.end(), known_.begin(), known_.end(),
                             [](const auto& a, const auto& b) {
                               return a.first == b.first && same(a.second, b.second);
                             });
  if (unchanged) {
    return;
  }
  std::vector<v1::ServiceOffer> offers = builtins_;
  for (const auto& [name, offer] : wanted) {
    offers.push_back(offer);
  }
  for (const auto& [name, offer] : kept) {
    if (!wanted.contains(name)) {
      offers.push_back(offer);
    }
  }
  std::vector<std::string> problems;
  current_ = wire::Catalog::build(offers, &problems);
  known_ = std::move(kept);
  for (const std::string& problem : problems) {
    spdlog::warn("catalog: {}", printable(problem));
  }
  spdlog::info("catalog: {} methods of {} services", current_->methods().size(), offers.size());
}

}  // namespace runbus::gateway
