#include "gateway/bus/pending_call.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>

#include "tests/unit/gateway/fake_bus.h"

namespace runbus::gateway {
namespace {

using test::FakeBus;
using test::Sent;
using testing::ElementsAre;
using testing::IsEmpty;

CallPatience quick() {
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
  // An accepted call whose broker is lost: its CALL there, and the one at the second broker.
  std::pair<Sent, Sent> start_and_move() {
    start();
    Sent call = bus.port.take(v1::CALL);
    bus.accept(call);
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
  start();
  const Sent call = bus.port.take(v1::CALL);
  bus.accept(call);
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

TEST_F(PendingCallTest, AsksAgainForWhatIsMissing) {
  start();
  const Sent call = bus.port.take(v1::CALL);
  bus.accept(call);
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
  start();
  const Sent call = bus.port.take(v1::CALL);
  bus.accept(call);
  item(call, 2, "b");
  ASSERT_TRUE(ended());
  EXPECT_EQ(seen->error, ErrorCode::kWorkerLost);
  EXPECT_EQ(bus.port.count(v1::CALL), 5U);
}

TEST_F(PendingCallTest, WhatIsMissingComesFromAnotherWorkerWhenItsOwnIsGone) {
  start();
  const Sent call = bus.port.take(v1::CALL);
  bus.accept(call);
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
  start();
  const Sent call = bus.port.take(v1::CALL);
  bus.accept(call);
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
  start();
  const Sent call = bus.port.take(v1::CALL);
  bus.accept(call);
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
  start();
  const Sent call = bus.port.take(v1::CALL);
  bus.accept(call);
  bus.error(call, ErrorCode::kWorkerLost);
  bus.port.take(v1::CALL);
  item(call, 2, "b");
  bus.port.take(v1::CALL);
  bus.accept(call, "worker-2");
  EXPECT_TRUE(bus.run_until([this] { return bus.port.count(v1::CALL) > 0; }));
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
  start();
  const Sent call = bus.port.take(v1::CALL);
  bus.accept(call);
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
  start();
  const Sent call = bus.port.take(v1::CALL);
  bus.accept(call);
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
