#include "gateway/rpc_request.h"

#include <gtest/gtest.h>

namespace runbus::gateway {
namespace {

struct Parsed {
  explicit Parsed(const std::string& text, std::size_t max_batch = 10)
      : message(text, {}, max_batch) {}
  RpcRequest& first() { return message.requests().front(); }
  ErrorCode code(std::size_t i = 0) {
    const auto& error = message.requests().at(i).error;
    return error ? error->code : ErrorCode{0};
  }
  RpcMessage message;
};

TEST(RpcRequest, KeepsTheIdAsItIsWritten) {
  const std::vector<std::string> ids = {"1",
                                        "-7",
                                        "\"a\\\"b\"",
                                        "18446744073709551615",
                                        "1.50",
                                        "1e2",
                                        "123456789012345678901234567890"};
  for (const std::string& id : ids) {
    Parsed parsed(R"({"id":)" + id + R"(,"jsonrpc":"2.0","method":"m"})");
    EXPECT_FALSE(parsed.first().error) << id;
    EXPECT_EQ(parsed.first().id, id);
    EXPECT_FALSE(parsed.first().key.empty()) << id;
  }
}

TEST(RpcRequest, FindsFractionalIdsInABatchAmongNestedParams) {
  Parsed parsed(
      R"( [ {"jsonrpc":"2.0","method":"a","params":{"id":9.5,"x":["}",{"y":"\"]"}]},"id":1.50} ,)"
      R"({"jsonrpc":"2.0","method":"b","params":[1,[2,{"id":3}]],"id" : 2.250 }])");
  ASSERT_EQ(parsed.message.requests().size(), 2U);
  EXPECT_EQ(parsed.message.requests()[0].id, "1.50");
  EXPECT_EQ(parsed.message.requests()[1].id, "2.250");
}

TEST(RpcRequest, EqualIdsHaveEqualKeys) {
  Parsed a(R"({"jsonrpc":"2.0","method":"m","id":1.50})");
  Parsed b(R"({"jsonrpc":"2.0","method":"m","id":1.5})");
  EXPECT_EQ(a.first().key, b.first().key);
  Parsed c(R"({"jsonrpc":"2.0","method":"m","id":"1.5"})");
  EXPECT_NE(b.first().key, c.first().key);
}

TEST(RpcRequest, NullIdIsARequestAndAbsentIdANotification) {
  Parsed null(R"({"jsonrpc":"2.0","method":"m","id":null})");
  EXPECT_FALSE(null.first().notification());
  EXPECT_EQ(null.first().id, "null");
  EXPECT_TRUE(null.first().key.empty());
  Parsed absent(R"({"jsonrpc":"2.0","method":"m"})");
  EXPECT_TRUE(absent.first().notification());
  EXPECT_FALSE(absent.first().error);
}

TEST(RpcRequest, NamesEachThingThatIsMalformed) {
  const std::vector<std::pair<std::string, std::string>> wrong = {
      {R"(1)", "request: expected an object, got a number"},
      {R"({})", "jsonrpc: must be \"2.0\""},
      {R"({"jsonrpc":"1.0","method":"m"})", "jsonrpc: must be \"2.0\""},
      {R"({"jsonrpc":2.0,"method":"m"})", "jsonrpc: must be \"2.0\""},
      {R"({"jsonrpc":"2.0"})", "method: missing"},
      {R"({"jsonrpc":"2.0","method":1})", "method: expected a string, got a number"},
      {R"({"jsonrpc":"2.0","method":"m","params":"bar"})",
       "params: expected an object or an array, got a string"},
      {R"({"jsonrpc":"2.0","method":"m","params":null})",
       "params: expected an object or an array, got null"},
      {R"({"jsonrpc":"2.0","method":"m","id":true})",
       "id: expected a string, a number or null, got a boolean"},
      {R"({"jsonrpc":"2.0","method":"m","id":{}})",
       "id: expected a string, a number or null, got an object"},
      {R"({"jsonrpc":"2.0","method":"m","method":"n"})", "method: given twice"},
      {R"({"jsonrpc":"2.0","method":"m","id":1,"id":2})", "id: given twice"},
  };
  for (const auto& [text, detail] : wrong) {
    Parsed parsed(text);
    EXPECT_EQ(parsed.code(), ErrorCode::kInvalidRequest) << text;
    ASSERT_TRUE(parsed.first().error) << text;
    EXPECT_EQ(parsed.first().error->detail, detail) << text;
    EXPECT_FALSE(parsed.first().notification()) << text;
  }
}

TEST(RpcRequest, AnswersAMalformedRequestUnderItsIdWhereItHasOne) {
  Parsed parsed(R"({"jsonrpc":"2.0","method":1,"id":"x"})");
  EXPECT_EQ(parsed.first().id, "\"x\"");
  Parsed without(R"({"jsonrpc":"2.0","method":1})");
  EXPECT_EQ(without.first().id, "null");
}

TEST(RpcRequest, RefusesOverlongIdsAndMethods) {
  const std::string id = "\"" + std::string(300, 'x') + "\"";
  Parsed parsed(R"({"jsonrpc":"2.0","method":"m","id":)" + id + "}");
  EXPECT_EQ(parsed.code(), ErrorCode::kInvalidRequest);
  EXPECT_EQ(parsed.first().id, "null");
  Parsed number(R"({"jsonrpc":"2.0","method":"m","id":1.)" + std::string(300, '1') + "}");
  EXPECT_EQ(number.code(), ErrorCode::kInvalidRequest);
  Parsed method(R"({"jsonrpc":"2.0","id":1,"method":")" + std::string(300, 'm') + "\"}");
  EXPECT_EQ(method.code(), ErrorCode::kInvalidRequest);
}

TEST(RpcRequest, WhatIsNoJsonIsOneParseError) {
  for (const char* text : {"", "{", "[1,", R"({"a":1} x)", "nul", "\xff"}) {
    Parsed parsed(text);
    ASSERT_EQ(parsed.message.requests().size(), 1U) << text;
    EXPECT_EQ(parsed.code(), ErrorCode::kParseError) << text;
    EXPECT_EQ(parsed.first().id, "null");
    EXPECT_FALSE(parsed.message.batch());
  }
}

TEST(RpcRequest, BoundsABatch) {
  Parsed empty("[]");
  EXPECT_FALSE(empty.message.batch());
  EXPECT_EQ(empty.code(), ErrorCode::kInvalidRequest);
  Parsed fits("[1,1,1]", 3);
  EXPECT_TRUE(fits.message.batch());
  EXPECT_EQ(fits.message.requests().size(), 3U);
  Parsed over("[1,1,1,1]", 3);
  EXPECT_EQ(over.message.requests().size(), 1U);
  EXPECT_EQ(over.code(), ErrorCode::kInvalidRequest);
}

}  // namespace
}  // namespace runbus::gateway
