#include "gateway/bus/brokers.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <stdexcept>
#include <utility>

#include "proto/support/log.h"

namespace runbus::gateway {

class Brokers::Port final : public BusPort {
 public:
  Port(Brokers& brokers, std::size_t index, const std::string& endpoint) {
    wire::BusLinkOptions options;
    options.endpoint = endpoint;
    options.curve = brokers.keys_for(endpoint);
    wire::BusLink::Events events;
    events.on_connected = [this, &brokers, index](const v1::Welcome& welcome, bool /*new_broker*/) {
      // Also with the same broker as before: what was on its way is gone, and asking twice does no
      // harm.
      connected_ = true;
      brokers.connected(index, welcome);
      brokers.bus_.on_connected(*this);
    };
    events.on_disconnected = [this, &brokers, index] {
      connected_ = false;
      spdlog::warn("bus: broker {} is gone", index);
      brokers.bus_.on_disconnected(*this);
      brokers.hub_->on_broker_lost(index);
    };
    events.on_message = [this, &brokers](v1::Header& header, zmq::message_t& body) {
      brokers.bus_.on_message(*this, header, body);
    };
    brokers.bus_.add_port(*this);
    link_ = std::make_unique<wire::BusLink>(
        brokers.io_, brokers.context_, std::move(options), [&brokers] { return brokers.ready(); },
        std::move(events));
  }

  bool connected() const override { return connected_; }
  bool writable() const override { return connected_ && link_->writable(); }
  Result<void> send(const v1::Header& header, std::string_view body) override {
    return link_->send(header, body);
  }
  void close() {
    connected_ = false;
    link_->close();
  }

  std::string events_endpoint;  // of the subscriber that the hub has

 private:
  bool connected_ = false;
  std::unique_ptr<wire::BusLink> link_;
};

class Brokers::Feed final : public EventFeed {
 public:
  Feed(Brokers& brokers, std::size_t index, const std::string& endpoint)
      : subscriber_(
            brokers.io_, brokers.context_, endpoint, brokers.keys_for(endpoint),
            [hub = brokers.hub_, index](const v1::Event& event) { hub->on_event(index, event); }) {}
  void subscribe(const std::string& prefix) override { subscriber_.subscribe(prefix); }
  void unsubscribe(const std::string& prefix) override { subscriber_.unsubscribe(prefix); }

 private:
  wire::EventSubscriber subscriber_;
};

Brokers::Brokers(boost::asio::io_context& io, zmq::context_t& context, BrokerOptions options,
                 BusClient& bus)
    : io_(io), context_(context), options_(std::move(options)), bus_(bus) {
  for (const std::string& endpoint : options_.endpoints) {
    check_endpoint(endpoint, options_.curve);
  }
}

Brokers::~Brokers() = default;

void Brokers::start(Hub& hub) {
  hub_ = &hub;
  for (const std::string& endpoint : options_.endpoints) {
    ports_.push_back(std::make_unique<Port>(*this, ports_.size(), endpoint));
  }
}

void Brokers::close() {
  for (const auto& port : ports_) {
    port->close();
  }
}

v1::Ready Brokers::ready() const {
  v1::Ready ready;
  ready.set_role(v1::GATEWAY);
  ready.set_peer_id(bus_.origin());
  ready.set_node(options_.node);
  ready.set_name("gateway");
  ready.set_version(RUNBUS_VERSION);
  ready.set_pid(static_cast<std::uint32_t>(::getpid()));
  return ready;
}

void Brokers::connected(std::size_t index, const v1::Welcome& welcome) {
  spdlog::info("bus: broker {} ({}) is connected", index, printable(welcome.version()));
  Port& port = *ports_[index];
  const std::string& endpoint =
      options_.events_endpoint.empty() ? welcome.events_endpoint() : options_.events_endpoint;
  std::unique_ptr<EventFeed> feed;
  if (!endpoint.empty() && endpoint != port.events_endpoint) {
    try {
      check_endpoint(endpoint, options_.curve);
      feed = std::make_unique<Feed>(*this, index, endpoint);
      port.events_endpoint = endpoint;
    } catch (const std::exception& error) {  // an endpoint that ZeroMQ does not take
      spdlog::error("events: broker {}: {}", index, printable(error.what()));
    }
  }
  hub_->on_broker(index, std::move(feed));
}

// A question to one broker, about events.
template <class Response>
void Brokers::ask(std::size_t broker, const std::string& method,
                  const google::protobuf::Message& request,
                  std::function<void(Result<Response>)> done) {
  CallRequest call;
  call.method = method;
  call.principal = "gateway";
  call.body = request.SerializeAsString();
  call.timeout = std::chrono::seconds(10);
  call.only = ports_.at(broker).get();
  bus_.call(
      std::move(call), [method, done = std::move(done)](const Result<std::string_view>& body) {
        Response response;
        if (!body) {
          done(body.error());
        } else if (!response.ParseFromArray(body->data(), static_cast<int>(body->size()))) {
          done(make_error(ErrorCode::kInternal, {}, "a " + method + " answer that cannot be read"));
        } else {
          done(std::move(response));
        }
      });
}

void Brokers::history(std::size_t broker, const v1::HistoryRequest& request,
                      std::function<void(Result<v1::HistoryResponse>)> done) {
  ask(broker, "bus.history", request, std::move(done));
}

void Brokers::topics(std::size_t broker, const v1::TopicsRequest& request,
                     std::function<void(Result<v1::TopicsResponse>)> done) {
  ask(broker, "bus.topics", request, std::move(done));
}

Result<void> Brokers::publish(std::size_t broker, const v1::Event& event) {
  return bus_.publish(event, "gateway", *ports_.at(broker));
}

wire::CurveKeys Brokers::keys_for(const std::string& endpoint) const {
  return endpoint.starts_with("tcp://") ? options_.curve : wire::CurveKeys();
}

void check_endpoint(const std::string& endpoint, const wire::CurveKeys& curve) {
  if (endpoint.starts_with("ipc://") || endpoint.starts_with("inproc://")) {
    return;
  }
  if (!endpoint.starts_with("tcp://")) {
    throw std::invalid_argument("a broker's endpoint is ipc://PATH or tcp://HOST:PORT, not " +
                                printable(endpoint));
  }
  const bool local = endpoint.starts_with("tcp://127.") || endpoint.starts_with("tcp://[::1]") ||
                     endpoint.starts_with("tcp://localhost:");
  if (!local && curve.server_public.empty()) {
    throw std::invalid_argument(
        "a broker on another host needs --curve-server-key and --curve-secret-file: " +
        printable(endpoint));
  }
}

}  // namespace runbus::gateway
