#pragma once

#include <google/protobuf/struct.pb.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>
#include <zmq.hpp>

#include "gateway/bus/bus_port.h"
#include "gateway/bus/pending_call.h"
#include "gateway/bus/service_catalog.h"

namespace runbus::gateway {

// The gateway's side of the bus: the brokers in order of preference (a call goes to the first that
// is connected and takes messages, so that all gateways with one list use the same; it stays with
// that one until it is lost), the calls in flight, and the catalog. Ports outlive it.
class BusClient final : public CallHost {
 public:
  BusClient(boost::asio::io_context& io, std::string peer_id, CallPatience patience = {},
            std::chrono::milliseconds service_memory = std::chrono::seconds(30));
  ~BusClient() override;
  BusClient(const BusClient&) = delete;
  BusClient& operator=(const BusClient&) = delete;

  void add_port(BusPort& port);

  // From the ports.
  void on_connected(BusPort& port);
  void on_disconnected(BusPort& port);
  void on_message(BusPort& port, const v1::Header& header, zmq::message_t& body);

  // Makes a call. The observer may be told of a failure before this returns.
  std::shared_ptr<PendingCall> call(CallRequest request, std::shared_ptr<CallObserver> observer);
  // A call made by the gateway itself; `done` gets the body of the result.
  void call(CallRequest request, std::function<void(Result<std::string_view>)> done);
  // Publishes by one broker; `done` is told where the event is in its topic, or kConnection: it may
  // have been published or not.
  void publish(const v1::Event& event, const std::string& principal,
               std::function<void(Result<v1::Published>)> done);
  // By the given one, without an answer.
  Result<void> publish(const v1::Event& event, const std::string& principal, BusPort& port);

  const std::shared_ptr<const wire::Catalog>& catalog() const { return services_.current(); }
  bool connected() { return connected_port() != nullptr; }
  // Connected, and told of the services: calls make sense.
  bool ready() const { return ready_; }
  // Some worker's service is known.
  bool serves_anything() const { return services_.has_offers(); }
  std::size_t calls_in_flight() const { return calls_.size(); }

  // CallHost
  BusPort* connected_port() override;
  const std::string& origin() const override { return peer_id_; }
  const CallPatience& patience() const override { return patience_; }
  void schedule(PendingCall& call, TimePoint when) override;
  void forget(PendingCall& call) override;
  void send_later(v1::Header cancel) override;

 private:
  using Due = std::multimap<TimePoint, PendingCall*>;
  struct Entry {
    std::shared_ptr<PendingCall> call;
    Due::iterator due;
  };

  void arm();
  void run_due();
  std::vector<std::shared_ptr<PendingCall>> snapshot() const;

  std::string peer_id_;
  CallPatience patience_;
  std::vector<BusPort*> ports_;
  ServiceCatalog services_;
  bool ready_ = false;
  std::unordered_map<std::string, Entry> calls_;
  Due due_;
  boost::asio::steady_timer timer_;
  TimePoint armed_ = TimePoint::max();
  std::deque<v1::Header> cancels_;
};

}  // namespace runbus::gateway
