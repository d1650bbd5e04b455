#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/gateway/pending_call_fixture.h"

// A part of the answer that is missing, and the loss of the worker.
namespace runbus::gateway {
namespace {

using test::PendingCallTest;
using test::Sent;
using testing::ElementsAre;

TEST_F(PendingCallTest, AsksAgainForWhatIsMissing) {
  const Sent call = start_accepted();
  item(call, 1, "a", 10);
  item(call, 3, "c", 30);
  item(call, 4, "d", 40);
  const Sent again = bus.port.take(v1::CALL);
  EXPECT_EQ(bus.port.count(v1::CALL), 0U);  // once, not for each
  EXPECT_EQ(again.header.worker_id(), "worker-1");
  EXPECT_EQ(again.header.resume().sequence(), 1U);
  EXPECT_EQ(again.header.resume().offset(), 10U);
  item(call, 2, "b", 20);
  item(call, 3, "c", 30);
  EXPECT_THAT(seen->items, ElementsAre("a", "b", "c"));
}

TEST_F(PendingCallTest, GivesUpOnAHoleThatIsNeverFilled) {
  const Sent call = start_accepted();
  item(call, 2, "b");
  ASSERT_TRUE(ended());
  EXPECT_EQ(seen->error, ErrorCode::kWorkerLost);
  EXPECT_EQ(bus.port.count(v1::CALL), 5U);
}

TEST_F(PendingCallTest, WhatIsMissingComesFromAnotherWorkerWhenItsOwnIsGone) {
  const Sent call = start_accepted();
  item(call, 1, "a", 10);
  item(call, 3, "c", 30);
  EXPECT_EQ(bus.port.take(v1::CALL).header.worker_id(), "worker-1");
  bus.error(call, ErrorCode::kWorkerLost);
  const Sent again = bus.port.take(v1::CALL);
  EXPECT_EQ(again.header.worker_id(), "") << "not the one that is gone";
  EXPECT_EQ(again.header.resume().sequence(), 1U);
  EXPECT_EQ(again.header.resume().offset(), 10U);
  // Nobody is there for a while, which is longer than a hole is waited for.
  int attempts = 0;
  bus.port.on_send = [&](const Sent& sent) {
    if (sent.header.kind() == v1::CALL && ++attempts < 10) {
      bus.error(sent, ErrorCode::kUnavailable);
    }
  };
  bus.error(again, ErrorCode::kUnavailable);
  ASSERT_TRUE(bus.run_until([&] { return attempts == 10 || seen->ends > 0; }));
  bus.accept(call, "worker-2");
  item(call, 2, "b", 20);
  item(call, 3, "c", 30);
  say(call, v1::RESULT, 4, "end");
  EXPECT_THAT(seen->items, ElementsAre("a", "b", "c"));
  EXPECT_EQ(seen->result, "end");
}

TEST_F(PendingCallTest, AFullOutboxIsNoFurtherLossOfWhatIsMissing) {
  const Sent call = start_accepted();
  bus.port.refusal = make_error(ErrorCode::kBusy);
  item(call, 2, "b");
  for (int i = 0; i < 120; ++i) {
    pass_longer_than_a_hole_is_waited_for();
  }
  EXPECT_EQ(seen->ends, 0);
  bus.port.refusal.reset();
  EXPECT_TRUE(bus.run_until([this] { return bus.port.count(v1::CALL) > 0; }));
}

TEST_F(PendingCallTest, TheAbsenceOfTheBrokerIsNoFurtherLossOfWhatIsMissing) {
  const Sent call = start_accepted();
  item(call, 2, "b");
  bus.port.take(v1::CALL);
  for (int i = 0; i < 10; ++i) {
    bus.port.up = false;
    bus.client.on_disconnected(bus.port);
    pass_longer_than_a_hole_is_waited_for();
    bus.port.up = true;
    bus.client.on_connected(bus.port);
    EXPECT_TRUE(bus.port.take(v1::CALL).header.has_resume()) << i;
  }
  EXPECT_EQ(seen->ends, 0);
}

// What the worker that goes on said first was lost, and what it sends again may be.
TEST_F(PendingCallTest, WhatIsMissingIsAskedForAgainAfterALossToo) {
  const Sent call = start_accepted();
  bus.error(call, ErrorCode::kWorkerLost);
  bus.port.take(v1::CALL);
  item(call, 2, "b");
  bus.port.take(v1::CALL);
  bus.accept(call, "worker-2");
  EXPECT_TRUE(bus.run_until([this] { return bus.port.count(v1::CALL) > 0; }));
}

TEST_F(PendingCallTest, AnotherWorkerGoesOnAfterALoss) {
  const auto pending = start();
  const Sent call = bus.port.take(v1::CALL);
  bus.accept(call);
  item(call, 1, std::string(400, 'a'), 400);
  bus.error(call, ErrorCode::kWorkerLost);
  const Sent again = bus.port.take(v1::CALL);
  EXPECT_EQ(again.header.worker_id(), "");
  EXPECT_EQ(again.header.resume().offset(), 400U);
  EXPECT_EQ(again.header.credit(), 600U);  // the observer still has 400 of its window
  pending->consumed(400);
  bus.accept(call, "worker-2");
  EXPECT_EQ(bus.port.take(v1::CREDIT).header.credit(), 1000U);
  item(call, 2, "b", 401);
  say(call, v1::RESULT, 3, "end");
  EXPECT_EQ(seen->items.size(), 2U);
  EXPECT_EQ(seen->result, "end");
}

TEST_F(PendingCallTest, ALossBeforeAnyItemIsResumedToo) {
  start(true, 0);
  const Sent call = bus.port.take(v1::CALL);
  bus.accept(call);
  bus.error(call, ErrorCode::kWorkerLost);
  EXPECT_TRUE(bus.port.take(v1::CALL).header.has_resume());
}

TEST_F(PendingCallTest, WaitsForAWorkerToComeBack) {
  const Sent call = start_accepted();
  bus.error(call, ErrorCode::kWorkerLost);
  bus.port.take(v1::CALL);
  bus.error(call, ErrorCode::kUnavailable);
  EXPECT_EQ(seen->ends, 0);
  ASSERT_TRUE(bus.run_until([this] { return bus.port.count(v1::CALL) > 0; }));
  bus.accept(call, "worker-2");
  say(call, v1::RESULT, 1, "end");
  EXPECT_EQ(seen->result, "end");
}

TEST_F(PendingCallTest, TellsOfTheLossWhenNoWorkerComesBack) {
  const Sent call = start_accepted();
  bus.error(call, ErrorCode::kWorkerLost);
  // Every attempt is answered that nobody is there.
  bus.port.on_send = [&](const Sent& sent) {
    if (sent.header.kind() == v1::CALL) {
      bus.error(sent, ErrorCode::kMethodNotFound);
    }
  };
  bus.error(call, ErrorCode::kMethodNotFound);
  ASSERT_TRUE(ended());
  EXPECT_EQ(seen->error, ErrorCode::kWorkerLost);
}

TEST_F(PendingCallTest, BoundsLossesWithoutAnItemBetweenThem) {
  start();
  const Sent call = bus.port.take(v1::CALL);
  for (int i = 0; i < 5; ++i) {
    bus.accept(call);
    bus.error(call, ErrorCode::kWorkerLost);
    EXPECT_EQ(seen->ends, 0) << i;
  }
  bus.accept(call);
  bus.error(call, ErrorCode::kWorkerLost);
  EXPECT_EQ(seen->error, ErrorCode::kWorkerLost);
}

TEST_F(PendingCallTest, AnItemBetweenLossesStartsTheCountAgain) {
  start();
  const Sent call = bus.port.take(v1::CALL);
  for (std::uint64_t i = 1; i <= 20; ++i) {
    bus.accept(call);
    item(call, i, "x");
    bus.error(call, ErrorCode::kWorkerLost);
  }
  EXPECT_EQ(seen->ends, 0);
}

TEST_F(PendingCallTest, ALossOfACallThatCannotBeResumedIsItsEnd) {
  start(false);
  const Sent call = bus.port.take(v1::CALL);
  bus.accept(call);
  bus.error(call, ErrorCode::kWorkerLost);
  EXPECT_EQ(seen->error, ErrorCode::kWorkerLost);
}

TEST_F(PendingCallTest, UnavailableWithoutALossIsPassedOn) {
  start();
  bus.error(bus.port.take(v1::CALL), ErrorCode::kUnavailable);
  EXPECT_EQ(seen->error, ErrorCode::kUnavailable);
}

}  // namespace
}  // namespace runbus::gateway
