#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "gateway/rpc_session.h"
#include "tests/unit/gateway/fake_bus.h"

namespace runbus::gateway {

using test::FakeBus;
using test::FakeSink;
using test::Sent;

class RpcSessionTest : public testing::Test {
 protected:
  // Calls in flight and their session hold each other until one of them ends.
  void TearDown() override { session->close(); }

  // Sends a text and answers the CALL that it made with `result`.
  std::vector<std::string> exchange(const std::string& text, const std::string& result) {
    session->on_message(text);
    bus.result(bus.port.take(v1::CALL), 1, result);
    return sink.take();
  }
  std::vector<std::string> send(const std::string& text) {
    session->on_message(text);
    return sink.take();
  }

  FakeBus bus;
  FakeSink sink;
  std::shared_ptr<RpcSession> session = bus.session(sink);
};

// A response that is an error of this code to the request of this id.
MATCHER_P2(IsError, code, id, "") {
  return testing::StartsWith(R"({"jsonrpc":"2.0","error":{"code":)" +
                             std::to_string(static_cast<int>(code)) + ",")
             .impl()
             .MatchAndExplain(arg, result_listener) &&
         arg.ends_with(",\"id\":" + std::string(id) + "}");
}

}  // namespace runbus::gateway
