#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "broker/core.h"
#include "proto/wire/frame.h"

// Drives a broker's core with a clock of its own and records what it says.
namespace runbus::broker {

struct Sent {
  std::string key;
  v1::Header header;
  std::string body;
};

class Recorder : public Output {
 public:
  void send(const std::string& key, v1::Kind kind, std::string_view call_id, zmq::message_t header,
            zmq::message_t body) override {
    Sent message{key, {}, std::string(wire::view(body))};
    ASSERT_TRUE(message.header.ParseFromArray(header.data(), static_cast<int>(header.size())));
    EXPECT_EQ(message.header.kind(), kind);
    EXPECT_EQ(message.header.call_id(), call_id);
    sent.push_back(std::move(message));
  }
  void publish(std::string_view topic, std::string_view event) override {
    v1::Event parsed;
    ASSERT_TRUE(parsed.ParseFromArray(event.data(), static_cast<int>(event.size())));
    EXPECT_EQ(parsed.topic(), topic);
    published.push_back(std::move(parsed));
  }
  void set_batch(const std::string& key, std::uint32_t messages) override {
    batches[key] = messages;
  }
  void move(const std::string& old_key, const std::string& new_key) override {
    moves.emplace_back(old_key, new_key);
  }
  void forget(const std::string& key) override { forgotten.push_back(key); }

  std::vector<Sent> sent;
  std::vector<v1::Event> published;
  std::map<std::string, std::uint32_t> batches;
  std::vector<std::pair<std::string, std::string>> moves;
  std::vector<std::string> forgotten;
};

class CoreTest : public ::testing::Test {
 protected:
  CoreTest() { start(CoreOptions{}); }

  // A broker that has been there for a while.
  void start(const CoreOptions& options) {
    start_fresh(options);
    now.steady_ms += options.heartbeat_timeout + options.gone_service_patience;
  }

  // One that takes it that workers of an earlier broker may still come back.
  void start_fresh(const CoreOptions& options) {
    core = std::make_unique<Core>(options, "epoch" + std::to_string(++epochs), out, now);
  }

  void say(std::string_view key, const v1::Header& header, std::string_view body = {},
           std::string_view user = {}, std::string_view node = {}) {
    zmq::message_t frame = wire::encode(header);
    zmq::message_t content(body.data(), body.size());
    core->on_message({key, user, node}, frame, content, now);
  }

  static v1::Header header(v1::Kind kind, std::string_view call = {}) {
    v1::Header result;
    result.set_kind(kind);
    result.set_call_id(std::string(call));
    return result;
  }

  // A peer's key is its id with "@" before it, unless said otherwise.
  static std::string key_of(std::string_view id) { return "@" + std::string(id); }

  void attach_gateway(const std::string& id, const std::string& key = {}) {
    v1::Ready ready;
    ready.set_role(v1::GATEWAY);
    ready.set_peer_id(id);
    say(key.empty() ? key_of(id) : key, header(v1::READY), ready.SerializeAsString());
  }

  static v1::Ready worker_ready(const std::string& id, const std::string& node = "n1",
                                std::uint32_t capacity = 1,
                                const std::string& service = "test.Echo") {
    v1::Ready ready;
    ready.set_role(v1::WORKER);
    ready.set_peer_id(id);
    ready.set_node(node);
    ready.set_name("echo");
    auto& offer = *ready.add_services();
    offer.set_service(service);
    offer.set_capacity(capacity);
    offer.add_methods(service == "test.Echo" ? "echo.say" : service + ".call");
    return ready;
  }

  void attach_worker(const std::string& id, const std::string& node = "n1",
                     std::uint32_t capacity = 1, const std::string& service = "test.Echo") {
    say(key_of(id), header(v1::READY),
        worker_ready(id, node, capacity, service).SerializeAsString());
  }

  static v1::Header call_header(const std::string& id, const std::string& session = {},
                                const std::string& method = "echo.say") {
    v1::Header result = header(v1::CALL, id);
    result.set_method(method);
    result.set_session_id(session);
    result.set_origin("g1");
    return result;
  }

  void call(const std::string& id, const std::string& session = {},
            const std::string& method = "echo.say") {
    say("@g1", call_header(id, session, method), "request " + id);
  }

  void reply(const std::string& worker, v1::Kind kind, const std::string& call,
             std::uint64_t sequence = 0, const std::string& origin = "g1") {
    v1::Header result = header(kind, call);
    result.set_sequence(sequence);
    result.set_origin(origin);
    result.set_worker_id(worker);
    say(key_of(worker), result, "reply " + call);
  }

  // Lets time pass, while the peers named say that they are alive.
  void pass(std::uint64_t milliseconds, const std::vector<std::string>& alive) {
    for (std::uint64_t end = now.steady_ms + milliseconds; now.steady_ms < end;) {
      const std::uint64_t step = std::min<std::uint64_t>(100, end - now.steady_ms);
      now.steady_ms += step;
      now.wall_ms += step;
      for (const std::string& id : alive) {
        say(key_of(id), header(v1::HEARTBEAT));
      }
      core->on_tick(now);
    }
  }

  // What was sent to a peer of this kind, oldest first.
  std::vector<Sent> sent_to(const std::string& id, v1::Kind kind) const {
    std::vector<Sent> found;
    std::copy_if(out.sent.begin(), out.sent.end(), std::back_inserter(found),
                 [&](const Sent& message) {
                   return message.key == key_of(id) && message.header.kind() == kind;
                 });
    return found;
  }

  std::vector<std::string> calls_of(const std::string& worker) const {
    std::vector<std::string> ids;
    for (const Sent& message : sent_to(worker, v1::CALL)) {
      ids.push_back(message.header.call_id());
    }
    return ids;
  }

  // The last ERROR that the gateway got for the call; code 0 when there is none.
  v1::ErrorBody error_of(const std::string& call, const std::string& gateway = "g1") const {
    v1::ErrorBody body;
    for (const Sent& message : sent_to(gateway, v1::ERROR)) {
      if (message.header.call_id() == call) {
        EXPECT_TRUE(body.ParseFromString(message.body));
      }
    }
    return body;
  }

  std::size_t count_to(const std::string& id, v1::Kind kind) const {
    return sent_to(id, kind).size();
  }

  std::uint64_t dropped(const std::string& reason) const {
    const v1::StatsResponse stats = core->stats(now);
    const auto found = stats.dropped().find(reason);
    return found == stats.dropped().end() ? 0 : found->second;
  }

  template <class Response>
  Response ask(const std::string& method, const google::protobuf::Message& request) {
    const std::string id = "ask" + std::to_string(++asked);
    say("@g1", call_header(id, {}, method), request.SerializeAsString());
    Response response;
    EXPECT_EQ(out.sent.back().header.kind(), v1::RESULT);
    EXPECT_EQ(out.sent.back().header.call_id(), id);
    EXPECT_TRUE(response.ParseFromString(out.sent.back().body));
    return response;
  }

  Now now{1'000'000, 1'700'000'000'000};
  Recorder out;
  std::unique_ptr<Core> core;
  int epochs = 0;
  int asked = 0;
};

}  // namespace runbus::broker
