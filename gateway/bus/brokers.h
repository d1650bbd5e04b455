#pragma once

#include <boost/asio/io_context.hpp>
#include <memory>
#include <string>
#include <vector>
#include <zmq.hpp>

#include "gateway/bus/bus_client.h"
#include "gateway/events/hub.h"
#include "proto/wire/bus_link.h"

namespace runbus::gateway {

struct BrokerOptions {
  std::vector<std::string> endpoints;  // in order of preference
  std::string events_endpoint;         // empty: as each broker says
  wire::CurveKeys curve;               // for tcp endpoints
  std::string node;
};

// The links to the brokers, and a subscriber for the events of each: joins them with the BusClient
// and the Hub.
class Brokers final : public HubBus {
 public:
  Brokers(boost::asio::io_context& io, zmq::context_t& context, BrokerOptions options,
          BusClient& bus);
  ~Brokers() override;

  void start(Hub& hub);
  // Says goodbye; nothing is called afterwards.
  void close();

  // HubBus
  void history(std::size_t broker, const v1::HistoryRequest& request,
               std::function<void(Result<v1::HistoryResponse>)> done) override;
  void topics(std::size_t broker, const v1::TopicsRequest& request,
              std::function<void(Result<v1::TopicsResponse>)> done) override;
  Result<void> publish(std::size_t broker, const v1::Event& event) override;

 private:
  class Port;
  class Feed;

  template <class Response>
  void ask(std::size_t broker, const std::string& method, const google::protobuf::Message& request,
           std::function<void(Result<Response>)> done);
  v1::Ready ready() const;
  void connected(std::size_t index, const v1::Welcome& welcome);
  wire::CurveKeys keys_for(const std::string& endpoint) const;

  boost::asio::io_context& io_;
  zmq::context_t& context_;
  BrokerOptions options_;
  BusClient& bus_;
  Hub* hub_ = nullptr;
  std::vector<std::unique_ptr<Port>> ports_;
};

// Throws std::invalid_argument for an endpoint that leaves the machine without CURVE keys.
void check_endpoint(const std::string& endpoint, const wire::CurveKeys& curve);

}  // namespace runbus::gateway
