#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/gateway/pending_call_fixture.h"

namespace runbus::gateway {
namespace {

using test::PendingCallTest;
using test::Sent;
using testing::ElementsAre;

TEST_F(PendingCallTest, ACallSaysWhatTheWorkerNeeds) {
  start();
  const Sent call = bus.port.take(v1::CALL);
  EXPECT_EQ(call.header.origin(), "gateway-1");
  EXPECT_EQ(call.header.credit(), 1000U);
  EXPECT_GT(call.header.deadline_ms(), 0U);
  EXPECT_FALSE(call.header.has_resume());
  EXPECT_EQ(call.body, "body");
}

TEST_F(PendingCallTest, DropsWhatItHasSeenAndEndsOnce) {
  const Sent call = start_accepted();
  item(call, 1, "a");
  item(call, 1, "a");
  item(call, 2, "b");
  say(call, v1::RESULT, 3, "end");
  say(call, v1::RESULT, 3, "end");
  item(call, 4, "late");
  bus.error(call, ErrorCode::kInternal, 5);
  EXPECT_THAT(seen->items, ElementsAre("a", "b"));
  EXPECT_EQ(seen->result, "end");
  EXPECT_EQ(seen->ends, 1);
  EXPECT_EQ(bus.client.calls_in_flight(), 0U);
}

TEST_F(PendingCallTest, GrantsCreditInQuartersOfTheWindow) {
  const auto call = start();
  const Sent sent = bus.port.take(v1::CALL);
  bus.accept(sent);
  item(sent, 1, std::string(200, 'x'));
  call->consumed(200);
  EXPECT_EQ(bus.port.count(v1::CREDIT), 0U);
  item(sent, 2, std::string(200, 'x'));
  EXPECT_EQ(bus.port.count(v1::CREDIT), 0U);  // not consumed: nothing is granted
  call->consumed(200);
  const Sent credit = bus.port.take(v1::CREDIT);
  EXPECT_EQ(credit.header.credit(), 1400U);
  EXPECT_EQ(credit.header.sequence(), 2U);
}

TEST_F(PendingCallTest, AcknowledgesManySmallItems) {
  const auto call = start(true, 1U << 20U);
  const Sent sent = bus.port.take(v1::CALL);
  bus.accept(sent);
  for (std::uint64_t i = 1; i <= 300; ++i) {
    item(sent, i, "x");
    call->consumed(1);
  }
  EXPECT_GE(bus.port.take(v1::CREDIT).header.sequence(), 256U);
}

TEST_F(PendingCallTest, EndsAStreamWhoseWorkerIgnoresCredit) {
  start(true, 1000);
  const Sent sent = bus.port.take(v1::CALL);
  bus.accept(sent);
  for (std::uint64_t i = 1; i <= 100 && seen->ends == 0; ++i) {
    item(sent, i, std::string(100'000, 'x'));
  }
  EXPECT_EQ(seen->error, ErrorCode::kInternal);
  EXPECT_EQ(bus.port.count(v1::CANCEL), 1U);
}

TEST_F(PendingCallTest, ANewBrokerHearsOfItAgain) {
  start();
  const Sent call = bus.port.take(v1::CALL);
  bus.client.on_connected(bus.port);
  const Sent unaccepted = bus.port.take(v1::CALL);
  EXPECT_FALSE(unaccepted.header.has_resume());
  EXPECT_EQ(unaccepted.header.worker_id(), "");
  bus.accept(call);
  item(call, 1, "a", 7);
  bus.client.on_connected(bus.port);
  const Sent accepted = bus.port.take(v1::CALL);
  EXPECT_EQ(accepted.header.call_id(), call.header.call_id());
  EXPECT_EQ(accepted.header.worker_id(), "worker-1");
  EXPECT_EQ(accepted.header.resume().sequence(), 1U);
  EXPECT_EQ(accepted.header.resume().offset(), 7U);
}

// Another worker must not begin what one may have begun, unless it does not matter.
TEST_F(PendingCallTest, ACallThatNobodyAcceptedIsMarkedWhenItIsSaidAgain) {
  CallRequest request;
  request.method = "count";
  for (const auto& [resumable, idempotent, marked] :
       {std::tuple(false, false, true), std::tuple(true, false, false),
        std::tuple(false, true, false)}) {
    request.resumable = resumable;
    request.idempotent = idempotent;
    const auto call = bus.client.call(request, seen);
    EXPECT_FALSE(bus.port.take(v1::CALL).header.again());
    bus.client.on_connected(bus.port);
    EXPECT_EQ(bus.port.take(v1::CALL).header.again(), marked);
    call->abandon();
    bus.port.take(v1::CANCEL);
  }
}

TEST_F(PendingCallTest, GoesThroughAnotherBrokerWhenItsOwnIsLost) {
  const auto [call, moved] = start_and_move();
  EXPECT_EQ(moved.header.worker_id(), "worker-1");
  EXPECT_TRUE(moved.header.has_resume());
}

TEST_F(PendingCallTest, WhatAnEarlierBrokerSaysOfACallThatWentOnElsewhereIsOutOfDate) {
  const auto [call, moved] = start_and_move();
  bus.port.up = true;
  bus.client.on_connected(bus.port);
  bus.error(call, ErrorCode::kWorkerLost);
  bus.error(call, ErrorCode::kUnavailable);
  EXPECT_EQ(seen->ends, 0);
  EXPECT_EQ(bus.port.count(v1::CALL), 0U) << "it stays where it is";
  EXPECT_EQ(bus.second.count(v1::CALL), 0U) << "and is not begun again";
  // What a worker had sent by the old way is an answer all the same.
  item(call, 1, "one");
  EXPECT_THAT(seen->items, ElementsAre("one"));
}

TEST_F(PendingCallTest, ANewCallPassesOverABrokerWhoseConnectionIsGone) {
  bus.second.up = true;
  bus.port.stalled = true;
  start();
  EXPECT_EQ(bus.second.count(v1::CALL), 1U);
  bus.second.up = false;
  start();
  EXPECT_EQ(bus.port.count(v1::CALL), 1U) << "better than none";
  bus.second.up = true;
  bus.client.on_connected(bus.second);
  EXPECT_EQ(bus.second.count(v1::CALL), 3U) << "but only until there is one, which hears of both";
}

TEST_F(PendingCallTest, WithoutABrokerANewCallWaitsAWhile) {
  bus.port.up = false;
  start();
  EXPECT_EQ(seen->ends, 0);
  ASSERT_TRUE(ended());
  EXPECT_EQ(seen->error, ErrorCode::kUnavailable);
}

TEST_F(PendingCallTest, ACallThatWaitsGoesOutWhenABrokerComes) {
  bus.port.up = false;
  start();
  bus.port.up = true;
  bus.client.on_connected(bus.port);
  EXPECT_EQ(bus.port.count(v1::CALL), 1U);
}

TEST_F(PendingCallTest, ACallThatWasSentOutlivesAShortAbsenceOfTheBroker) {
  start();
  const Sent call = bus.port.take(v1::CALL);
  bus.port.up = false;
  bus.client.on_disconnected(bus.port);
  bus.port.up = true;
  bus.client.on_connected(bus.port);
  bus.port.take(v1::CALL);
  say(call, v1::RESULT, 1, "end");
  EXPECT_EQ(seen->result, "end");
}

TEST_F(PendingCallTest, EndsWhenTheBrokerStaysAway) {
  start();
  bus.port.up = false;
  bus.client.on_disconnected(bus.port);
  ASSERT_TRUE(ended());
  EXPECT_EQ(seen->error, ErrorCode::kConnection);
}

TEST_F(PendingCallTest, ACancelledCallEndsEvenWhenTheWorkerSaysNothing) {
  const auto call = start();
  bus.accept(bus.port.take(v1::CALL));
  call->cancel();
  call->cancel();
  EXPECT_EQ(bus.port.count(v1::CANCEL), 1U);
  ASSERT_TRUE(ended());
  EXPECT_EQ(seen->error, ErrorCode::kCancelled);
}

TEST_F(PendingCallTest, AResultBeatsTheCancellation) {
  const auto call = start();
  const Sent sent = bus.port.take(v1::CALL);
  bus.accept(sent);
  call->cancel();
  say(sent, v1::RESULT, 1, "end");
  EXPECT_EQ(seen->result, "end");
  EXPECT_EQ(seen->ends, 1);
}

TEST_F(PendingCallTest, AnAbandonedCallIsToldSoOnceABrokerIsThere) {
  const auto call = start();
  bus.port.take(v1::CALL);
  bus.port.up = false;
  bus.client.on_disconnected(bus.port);
  call->abandon();
  EXPECT_EQ(seen->ends, 0);
  EXPECT_EQ(bus.client.calls_in_flight(), 0U);
  bus.port.up = true;
  bus.client.on_connected(bus.port);
  EXPECT_EQ(bus.port.take(v1::CANCEL).header.method(), "$/gone");
  EXPECT_EQ(bus.port.count(v1::CALL), 0U);
}

TEST_F(PendingCallTest, TheBackstopEndsACallPastItsDeadline) {
  start(true, 0, std::chrono::milliseconds(10));
  bus.accept(bus.port.take(v1::CALL));
  ASSERT_TRUE(ended());
  EXPECT_EQ(seen->error, ErrorCode::kTimeout);
  EXPECT_EQ(bus.port.count(v1::CANCEL), 1U);
}

TEST_F(PendingCallTest, AFullOutboxIsBusy) {
  bus.port.refusal = make_error(ErrorCode::kBusy);
  start();
  EXPECT_EQ(seen->error, ErrorCode::kBusy);
}

}  // namespace
}  // namespace runbus::gateway
