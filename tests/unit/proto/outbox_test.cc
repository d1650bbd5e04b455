#include "proto/wire/outbox.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace runbus::wire {
namespace {

class OutboxTest : public ::testing::Test {
 protected:
  bool push(v1::Kind kind, const std::string& call, std::size_t size = 1) {
    zmq::message_t header(1);
    zmq::message_t body(size);
    return outbox.push(kind, call, header, body);
  }
  std::vector<std::string> drain() {
    std::vector<std::string> calls;
    for (; !outbox.empty(); outbox.pop()) {
      calls.push_back(outbox.front().call_id);
    }
    return calls;
  }
  Outbox outbox{10'000, 5};
};

TEST_F(OutboxTest, ControlOvertakesTheDataOfOtherCallsOnly) {
  push(v1::ITEM, "slow");
  push(v1::ITEM, "slow");
  push(v1::RESULT, "slow");
  push(v1::RESULT, "quick");
  push(v1::HEARTBEAT, "");
  EXPECT_EQ(drain(), (std::vector<std::string>{"quick", "", "slow", "slow", "slow"}));
  EXPECT_EQ(outbox.bytes(), 0U);
}

TEST_F(OutboxTest, ACallWhoseDataIsGoneMayOvertakeAgain) {
  push(v1::ITEM, "a");
  outbox.pop();
  push(v1::ITEM, "b");
  push(v1::RESULT, "a");
  EXPECT_EQ(drain(), (std::vector<std::string>{"a", "b"}));
}

TEST_F(OutboxTest, IsBoundedInMessagesAndBytes) {
  for (int i = 0; i < 5; ++i) {
    EXPECT_TRUE(push(v1::ITEM, "a"));
  }
  EXPECT_FALSE(push(v1::ITEM, "a"));
  outbox.clear();
  EXPECT_TRUE(push(v1::ITEM, "a", 9000));
  EXPECT_FALSE(push(v1::ITEM, "a", 9000));
  EXPECT_EQ(drain().size(), 1U);
  EXPECT_TRUE(push(v1::ITEM, "a", 9000));
}
}  // namespace
}  // namespace runbus::wire
