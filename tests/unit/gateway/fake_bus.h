#pragma once

#include <gtest/gtest.h>

#include <boost/asio/io_context.hpp>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gateway/bus/bus_client.h"
#include "gateway/config.h"
#include "gateway/events/hub.h"
#include "gateway/rpc_session.h"
#include "gateway/sink.h"

// A bus without sockets: what the gateway sends is recorded, what workers and brokers say is said
// by the test.
namespace runbus::gateway::test {

struct Sent {
  v1::Header header;
  std::string body;
};

class FakePort final : public BusPort {
 public:
  bool connected() const override { return up; }
  bool writable() const override { return up && !stalled; }
  Result<void> send(const v1::Header& header, std::string_view body) override;

  // The oldest message of that kind that was not taken; a failure of the test when there is none.
  Sent take(v1::Kind kind);
  std::size_t count(v1::Kind kind) const;

  bool up = true;
  bool stalled = false;
  std::optional<Error> refusal;
  std::vector<Sent> sent;
  std::function<void(const Sent&)> on_send;
};

struct FakeHistory final : HubBus {
  struct Asked {
    std::size_t broker;
    v1::HistoryRequest request;
    std::function<void(Result<v1::HistoryResponse>)> done;
  };
  void history(std::size_t broker, const v1::HistoryRequest& request,
               std::function<void(Result<v1::HistoryResponse>)> done) override;
  void topics(std::size_t broker, const v1::TopicsRequest& request,
              std::function<void(Result<v1::TopicsResponse>)> done) override;
  Result<void> publish(std::size_t broker, const v1::Event& event) override;

  // What each broker says of its topics, at once; unless a test says so there may be others.
  std::map<std::size_t, v1::TopicsResponse> listed;
  std::vector<v1::TopicsRequest> asked_for_topics;
  // Of topics; asked for that alone, it answers at once.
  std::map<std::string, v1::Position> stands;
  bool silent = false;  // then it does not
  std::vector<Asked> asked;
  std::vector<v1::Event> published;
  std::function<void(std::size_t, const v1::Event&)> on_publish;
};

class FakeFeed final : public EventFeed {
 public:
  explicit FakeFeed(std::vector<std::string>& prefixes) : prefixes_(prefixes) {}
  void subscribe(const std::string& prefix) override;
  void unsubscribe(const std::string& prefix) override;

 private:
  std::vector<std::string>& prefixes_;
};

class FakeSink final : public Sink {
 public:
  Items items() const override { return wanted; }
  bool persistent() const override { return true; }
  void send(std::string frame) override;
  void send_item(std::unique_ptr<Item> item) override;
  std::size_t backlog() const override { return waiting; }

  // All frames so far, which are then forgotten.
  std::vector<std::string> take();
  // Writes the items that wait.
  void deliver();

  Items wanted = Items::kMessages;
  std::size_t waiting = 0;
  bool hold_items = false;
  std::vector<std::string> frames;
  std::vector<std::unique_ptr<Item>> held;
};

// A service test.CalcService with the methods of the examples of JSON-RPC 2.0 §7 (subtract, sum,
// update, notify_hello, notify_sum, get_data), a stream `count` (items count.number, resumable) and
// `upload`, which takes further input. Its messages are dynamic: their JSON is given and taken.
v1::ServiceOffer calc_offer();

class FakeBus {
 public:
  explicit FakeBus(CallPatience patience = {});

  std::shared_ptr<RpcSession> session(FakeSink& sink);
  const wire::Method& method(const std::string& name) const;
  // The JSON of a request that was sent.
  std::string json(const Sent& call) const;

  // A worker answers.
  void accept(const Sent& call, const std::string& worker = "worker-1");
  void item(const Sent& call, std::uint64_t sequence, const std::string& json,
            std::uint64_t offset = 0);
  void result(const Sent& call, std::uint64_t sequence, const std::string& json);
  void error(const Sent& call, ErrorCode code, std::uint64_t sequence = 0);
  // The broker itself answers.
  void answer(const Sent& call, const google::protobuf::Message& result);
  void services(FakePort& from, const std::vector<v1::ServiceOffer>& offers);
  // Runs the loop until `done` or 20 s have passed; whether it was done.
  bool run_until(const std::function<bool()>& done);

  boost::asio::io_context io;
  GatewayConfig config;
  FakePort port;
  FakePort second;  // not connected at first
  FakeHistory history;
  BusClient client;
  Hub hub;
  RpcServices rpc{config, client, hub};

 private:
  void deliver(v1::Header header, const std::string& body);
  std::string encode(const Sent& call, const std::string& json) const;
};

}  // namespace runbus::gateway::test
