#include "proto/wire/outbox.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "proto/wire/frame.h"
#include "tests/unit/proto/bus_fixture.h"

namespace runbus::wire {
namespace {

class OutboxTest : public ::testing::Test {
 protected:
  bool push(v1::Kind kind, const std::string& call, std::size_t size = 1) {
    zmq::message_t header = encode(make_header(kind, call));
    zmq::message_t body(size);
    return outbox.push(kind, call, header, body);
  }
  std::vector<std::string> drain() {
    std::vector<std::string> calls;
    for (; !outbox.empty(); outbox.pop()) {
      v1::Header header;
      EXPECT_EQ(parse_header(view(outbox[0].header), header), "");
      calls.push_back(header.call_id());
    }
    return calls;
  }
  Outbox outbox{10'000, 5};
};

TEST_F(OutboxTest, KeepsTheOrderWhileItIsNotStalled) {
  push(v1::ITEM, "slow");
  push(v1::RESULT, "quick");
  push(v1::HEARTBEAT, "");
  EXPECT_EQ(drain(), (std::vector<std::string>{"slow", "quick", ""}));
  EXPECT_EQ(outbox.bytes(), 0U);
}

TEST_F(OutboxTest, ControlOvertakesTheDataOfOtherCallsOnly) {
  outbox.stall();
  push(v1::ITEM, "slow");
  push(v1::ITEM, "slow");
  push(v1::RESULT, "slow");
  push(v1::RESULT, "quick");
  push(v1::HEARTBEAT, "");
  EXPECT_EQ(drain(), (std::vector<std::string>{"quick", "", "slow", "slow", "slow"}));
  EXPECT_EQ(outbox.bytes(), 0U);
}

TEST_F(OutboxTest, ControlOvertakesWhatWasThereWhenItStalled) {
  push(v1::ITEM, "slow");
  push(v1::RESULT, "slow");
  push(v1::RESULT, "quick");
  outbox.stall();
  push(v1::CREDIT, "slow");
  push(v1::CREDIT, "other");
  EXPECT_EQ(drain(), (std::vector<std::string>{"quick", "other", "slow", "slow", "slow"}));
  EXPECT_FALSE(outbox.stalled()) << "once empty it begins anew";
  EXPECT_EQ(outbox.bytes(), 0U);
}

TEST_F(OutboxTest, ACallWhoseDataIsGoneMayOvertakeAgain) {
  outbox.stall();
  push(v1::ITEM, "a");
  push(v1::ITEM, "c");
  outbox.pop();
  push(v1::ITEM, "b");
  push(v1::RESULT, "a");
  EXPECT_EQ(drain(), (std::vector<std::string>{"a", "c", "b"}));
}

TEST_F(OutboxTest, IsBoundedInMessagesAndBytes) {
  for (const bool stalled : {false, true}) {
    if (stalled) {
      outbox.stall();
    }
    for (int i = 0; i < 5; ++i) {
      EXPECT_TRUE(push(v1::ITEM, "a"));
    }
    EXPECT_FALSE(push(v1::ITEM, "a"));
    outbox.clear();
    EXPECT_TRUE(push(v1::ITEM, "a", 9000));
    EXPECT_FALSE(push(v1::ITEM, "a", 9000));
    EXPECT_EQ(drain().size(), 1U);
    EXPECT_TRUE(push(v1::ITEM, "a", 9000));
    outbox.clear();
  }
}

}  // namespace
}  // namespace runbus::wire
