#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gateway/bus/pending_call.h"
#include "tests/unit/gateway/fake_bus.h"

// A PendingCall on a bus without sockets.
namespace runbus::gateway::test {

inline CallPatience quick() {
  CallPatience patience;
  patience.no_broker = std::chrono::milliseconds(30);
  patience.reconnect = std::chrono::milliseconds(500);
  patience.recovery = std::chrono::milliseconds(100);
  patience.recovery_retry = std::chrono::milliseconds(5);
  patience.hole = std::chrono::milliseconds(5);
  patience.cancel = std::chrono::milliseconds(20);
  patience.backstop = std::chrono::milliseconds(5);
  return patience;
}

class Recorder final : public CallObserver {
 public:
  void on_item(zmq::message_t& body) override { items.push_back(body.to_string()); }
  void on_result(std::string_view body) override {
    ++ends;
    result = std::string(body);
  }
  void on_error(const Error& failure) override {
    ++ends;
    error = failure.code;
  }

  std::vector<std::string> items;
  std::optional<std::string> result;
  std::optional<ErrorCode> error;
  int ends = 0;
};

class PendingCallTest : public testing::Test {
 protected:
  std::shared_ptr<PendingCall> start(bool resumable = true, std::uint64_t window = 1000,
                                     std::chrono::milliseconds timeout = std::chrono::hours(1)) {
    CallRequest request;
    request.method = "count";
    request.body = "body";
    request.resumable = resumable;
    request.window = window;
    request.timeout = timeout;
    return bus.client.call(std::move(request), seen);
  }
  // Of a call that a worker has.
  Sent start_accepted() {
    start();
    Sent call = bus.port.take(v1::CALL);
    bus.accept(call);
    return call;
  }
  // An accepted call whose broker is lost: its CALL there, and the one at the second broker.
  std::pair<Sent, Sent> start_and_move() {
    Sent call = start_accepted();
    bus.port.up = false;
    bus.second.up = true;
    bus.client.on_disconnected(bus.port);
    return {std::move(call), bus.second.take(v1::CALL)};
  }
  void item(const Sent& call, std::uint64_t sequence, const std::string& body,
            std::uint64_t offset = 0) {
    say(call, v1::ITEM, sequence, body, offset);
  }
  void say(const Sent& call, v1::Kind kind, std::uint64_t sequence, const std::string& body,
           std::uint64_t offset = 0) {
    v1::Header header;
    header.set_kind(kind);
    header.set_call_id(call.header.call_id());
    header.set_sequence(sequence);
    header.set_offset(offset);
    zmq::message_t message(body);
    bus.client.on_message(bus.port, header, message);
  }
  void pass_longer_than_a_hole_is_waited_for() {
    bus.io.restart();
    bus.io.run_for(quick().hole + std::chrono::milliseconds(1));
  }
  bool ended() {
    return bus.run_until([this] { return seen->ends > 0; });
  }

  FakeBus bus{quick()};
  std::shared_ptr<Recorder> seen = std::make_shared<Recorder>();
};

}  // namespace runbus::gateway::test
