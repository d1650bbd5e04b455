#include "tools/runbus/client.h"

#include <gtest/gtest.h>

#include <boost/asio/io_context.hpp>
#include <vector>

#include "tests/unit/tools/testing.h"
#include "tools/runbus/text_server.h"

namespace runbus::cli {
namespace {

using testing::kPatience;
using Clock = std::chrono::steady_clock;

// A server and a client on one io_context; the test writes the server's side.
class ClientTest : public ::testing::Test {
 protected:
  using Peer = std::shared_ptr<TextServer::Peer>;

  ClientTest()
      : server_(io_, {.on_text =
                          [this](const Peer& peer, std::string_view text) {
                            peer_ = peer;
                            rapidjson::Document request;
                            request.Parse(text.data(), text.size());
                            on_request_(peer, request);
                          },
                      .admit =
                          [](const std::string& authorization) {
                            return authorization != "Bearer wrong";
                          }}),
        client_(io_, {.on_notification =
                          [this](std::string_view method, const rapidjson::Value& params) {
                            notifications_.push_back(std::string(method) + to_json(params));
                          },
                      .on_closed = [this](const Error& error) { closed_ = error.detail; },
                      .on_frame = {}}) {}

  GatewayAddress address(const std::string& token = "right") const {
    return {.host = "127.0.0.1", .port = std::to_string(server_.port()), .token = token};
  }
  bool until(const std::function<bool()>& done) {
    return run_until(io_, Clock::now() + kPatience, done);
  }

  static std::string reply(const rapidjson::Document& request, const std::string& rest) {
    return "{\"jsonrpc\":\"2.0\",\"id\":" + std::to_string(request["id"].GetUint64()) + "," + rest +
           "}";
  }

  boost::asio::io_context io_{1};
  std::function<void(const Peer&, const rapidjson::Document&)> on_request_;
  Peer peer_;
  std::vector<std::string> notifications_;
  std::optional<std::string> closed_;
  TextServer server_;
  Client client_;
};

TEST_F(ClientTest, CallsAndGetsTheResult) {
  on_request_ = [](const Peer& peer, const rapidjson::Document& request) {
    EXPECT_EQ(peer->authorization(), "Bearer right");
    EXPECT_STREQ(request["method"].GetString(), "a.\"b");
    peer->send(reply(request, "\"result\":{\"x\":" + to_json(request["params"]["y"]) + "}"));
  };
  ASSERT_TRUE(client_.connect(address(), kPatience));
  const auto result = client_.call("a.\"b", "{\"y\":9007199254740993}", kPatience);
  ASSERT_TRUE(result) << to_string(result.error());
  EXPECT_EQ(to_json(*result), "{\"x\":9007199254740993}");
}

TEST_F(ClientTest, GivesTheErrorOfAResponse) {
  on_request_ = [](const Peer& peer, const rapidjson::Document& request) {
    peer->send(reply(
        request,
        R"("error":{"code":-32602,"message":"Invalid params","data":{"detail":"x: no","limit":"size"}})"));
  };
  ASSERT_TRUE(client_.connect(address(), kPatience));
  const auto result = client_.call("m", "{}", kPatience);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::kInvalidParams);
  EXPECT_EQ(result.error().detail, "x: no");
  EXPECT_EQ(result.error().limit, "size");
}

TEST_F(ClientTest, RepliesFindTheirCallsInAnyOrder) {
  std::vector<std::string> held;
  on_request_ = [&held](const Peer& peer, const rapidjson::Document& request) {
    held.push_back(reply(request, "\"result\":" + to_json(request["params"]["n"])));
    if (held.size() == 3) {
      for (auto one = held.rbegin(); one != held.rend(); ++one) {
        peer->send(*one);
      }
    }
  };
  ASSERT_TRUE(client_.connect(address(), kPatience));
  std::string order;
  for (int i = 0; i < 3; ++i) {
    client_.call("m", "{\"n\":" + std::to_string(i) + "}",
                 [&order, i](Result<const rapidjson::Value*> result) {
                   ASSERT_TRUE(result);
                   EXPECT_EQ((*result)->GetInt(), i);
                   order += std::to_string(i);
                 });
  }
  EXPECT_TRUE(until([&] { return order.size() == 3; }));
  EXPECT_EQ(order, "210");
}

TEST_F(ClientTest, NotificationsComeBeforeTheResultTheyPrecede) {
  on_request_ = [](const Peer& peer, const rapidjson::Document& request) {
    peer->send(R"({"jsonrpc":"2.0","method":"execute.output","params":{"call":1}})");
    peer->send(reply(request, "\"result\":{}"));
  };
  ASSERT_TRUE(client_.connect(address(), kPatience));
  ASSERT_TRUE(client_.call("m", "{}", kPatience));
  EXPECT_EQ(notifications_, std::vector<std::string>{"execute.output{\"call\":1}"});
}

TEST_F(ClientTest, TellsARefusedTokenFromAnAbsentGateway) {
  const auto refused = client_.connect(address("wrong"), kPatience);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kAuthentication);
  Client other(io_, {});
  const auto absent = other.connect({.host = "127.0.0.1", .port = "1", .token = {}}, kPatience);
  ASSERT_FALSE(absent);
  EXPECT_EQ(absent.error().code, ErrorCode::kConnection);
}

TEST_F(ClientTest, LostConnectionEndsEveryCallOnce) {
  on_request_ = [](const Peer& peer, const rapidjson::Document&) { peer->drop(); };
  ASSERT_TRUE(client_.connect(address(), kPatience));
  int ended = 0;
  for (int i = 0; i < 2; ++i) {
    client_.call("m", "{}", [&ended](Result<const rapidjson::Value*> result) {
      EXPECT_EQ(result.error().code, ErrorCode::kConnection);
      ++ended;
    });
  }
  EXPECT_TRUE(until([&] { return closed_.has_value(); }));
  EXPECT_EQ(ended, 2);
  EXPECT_FALSE(client_.is_open());
  const auto late = client_.call("m", "{}", kPatience);
  EXPECT_EQ(late.error().code, ErrorCode::kConnection);
}

TEST_F(ClientTest, WhatIsNoJsonRpcEndsTheConnection) {
  on_request_ = [](const Peer& peer, const rapidjson::Document&) { peer->send("{\"half\":"); };
  ASSERT_TRUE(client_.connect(address(), kPatience));
  EXPECT_FALSE(client_.call("m", "{}", kPatience));
  EXPECT_NE(closed_.value_or("").find("not a JSON object"), std::string::npos);
}

TEST_F(ClientTest, PausedClientReadsNothing) {
  on_request_ = [](const Peer& peer, const rapidjson::Document& request) {
    for (int i = 0; i < 3; ++i) {
      peer->send(R"({"method":"n","params":{}})");
    }
    peer->send(reply(request, "\"result\":{}"));
  };
  ASSERT_TRUE(client_.connect(address(), kPatience));
  bool replied = false;
  client_.pause();
  client_.call("m", "{}", [&replied](Result<const rapidjson::Value*>) { replied = true; });
  // The read that was on its way when it paused may still give one frame.
  run_until(io_, Clock::now() + std::chrono::milliseconds(300), [] { return false; });
  EXPECT_LE(notifications_.size(), 1U);
  EXPECT_FALSE(replied);
  client_.resume();
  EXPECT_TRUE(until([&] { return replied; }));
  EXPECT_EQ(notifications_.size(), 3U);
}

TEST_F(ClientTest, ClosedClientCallsNobody) {
  on_request_ = [](const Peer& peer, const rapidjson::Document& request) {
    peer->send(reply(request, "\"result\":{}"));
  };
  ASSERT_TRUE(client_.connect(address(), kPatience));
  bool called = false;
  client_.call("m", "{}", [&called](Result<const rapidjson::Value*>) { called = true; });
  client_.close(std::chrono::seconds(5));
  run_until(io_, Clock::now() + std::chrono::milliseconds(100), [] { return false; });
  EXPECT_FALSE(called);
  EXPECT_FALSE(closed_.has_value());
}

TEST_F(ClientTest, CallThatIsNotAnsweredTimesOut) {
  on_request_ = [](const Peer&, const rapidjson::Document&) {};
  ASSERT_TRUE(client_.connect(address(), kPatience));
  const auto result = client_.call("m", "{}", std::chrono::milliseconds(50));
  EXPECT_EQ(result.error().code, ErrorCode::kTimeout);
}

}  // namespace
}  // namespace runbus::cli
