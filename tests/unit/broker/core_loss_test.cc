#include "tests/unit/broker/core_fixture.h"

namespace runbus::broker {
namespace {

using Ids = std::vector<std::string>;

class CoreLoss : public CoreTest {};

TEST_F(CoreLoss, ASilentWorkerIsGoneAfterTheHeartbeatTimeout) {
  attach_gateway("g1");
  attach_worker("w1");
  pass(1900, {"g1"});
  EXPECT_EQ(core->stats(now).workers(), 1U);
  pass(300, {"g1"});
  EXPECT_EQ(core->stats(now).workers(), 0U);
  EXPECT_EQ(core->stats(now).workers_lost(), 1U);
  ASSERT_FALSE(out.published.empty());
  EXPECT_EQ(out.published.back().topic(), "worker.lost");
  EXPECT_EQ(out.published.back().data().fields().at("worker_id").string_value(), "w1");
}

TEST_F(CoreLoss, APauseOfTheBrokerItselfCountsAgainstNobody) {
  attach_worker("w1");
  core->on_tick(now);
  now.steady_ms += 10'000;
  core->on_tick(now);
  EXPECT_EQ(core->stats(now).workers(), 1U);
}

TEST_F(CoreLoss, HeartbeatsGoOutWhenNothingElseDoes) {
  attach_worker("w1");
  pass(2000, {"w1"});
  EXPECT_GE(count_to("w1", v1::HEARTBEAT), 3U);
  EXPECT_LE(count_to("w1", v1::HEARTBEAT), 5U);
}

TEST_F(CoreLoss, ACallThatNobodyAcceptedIsGivenToAnother) {
  attach_gateway("g1");
  attach_worker("w1");
  call("c1");
  attach_worker("w2", "n2");
  pass(2500, {"g1", "w2"});
  ASSERT_EQ(calls_of("w2"), Ids{"c1"});
  EXPECT_EQ(sent_to("w2", v1::CALL).front().body, "request c1");
  EXPECT_EQ(core->stats(now).redispatched(), 1U);
  reply("w2", v1::RESULT, "c1", 1);
  EXPECT_EQ(count_to("g1", v1::RESULT), 1U);
}

TEST_F(CoreLoss, AnAcceptedCallEndsWithWorkerLost) {
  attach_gateway("g1");
  attach_worker("w1");
  call("c1");
  reply("w1", v1::ACCEPTED, "c1");
  attach_worker("w2", "n2");
  say("@w1", header(v1::GOODBYE));
  EXPECT_EQ(error_of("c1").code(), -32010);
  EXPECT_TRUE(calls_of("w2").empty());
}

TEST_F(CoreLoss, ACallIsRedispatchedThreeTimesAtMost) {
  attach_gateway("g1");
  attach_worker("w0");
  call("c1");
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(error_of("c1").code(), 0);
    attach_worker("w" + std::to_string(i + 1));
    say("@w" + std::to_string(i), header(v1::GOODBYE));
  }
  EXPECT_EQ(error_of("c1").code(), -32010);
  EXPECT_EQ(calls_of("w3"), Ids{"c1"});
  EXPECT_TRUE(calls_of("w4").empty());
}

TEST_F(CoreLoss, ACancelledCallOfALostWorkerEndsAsCancelled) {
  attach_gateway("g1");
  attach_worker("w1");
  call("c1");
  say("@g1", header(v1::CANCEL, "c1"));
  attach_worker("w2", "n2");
  say("@w1", header(v1::GOODBYE));
  EXPECT_EQ(error_of("c1").code(), -32011);
  EXPECT_TRUE(calls_of("w2").empty());
}

TEST_F(CoreLoss, AnUnreachableWorkersCallsGoElsewhereAtOnceAndItsAcceptedOnesWaitForIt) {
  attach_gateway("g1");
  attach_worker("w1", "n1", 4);
  call("c1");
  call("c2");
  reply("w1", v1::ACCEPTED, "c1");
  attach_worker("w2", "n2", 4);
  core->on_unreachable("@w1", now);
  EXPECT_EQ(calls_of("w2"), Ids{"c2"});
  EXPECT_EQ(error_of("c1").code(), 0);
  call("c3");
  EXPECT_EQ(calls_of("w2"), (Ids{"c2", "c3"})) << "nothing new for it";
  pass(2500, {"g1", "w2"});
  EXPECT_EQ(error_of("c1").code(), -32010);
}

TEST_F(CoreLoss, AReconnectedWorkerKeepsTheCallsItSpeaksOf) {
  attach_gateway("g1");
  attach_worker("w1", "n1", 4);
  call("c1");
  call("c2");
  reply("w1", v1::ACCEPTED, "c1");
  reply("w1", v1::ACCEPTED, "c2");
  v1::Ready ready = worker_ready("w1", "n1", 4);
  ready.add_calls("c1");
  say("@w1-again", header(v1::READY), ready.SerializeAsString());
  ASSERT_EQ(out.moves.size(), 1U);
  EXPECT_EQ(core->stats(now).workers(), 1U);
  // What the old connection still delivers counts.
  reply("w1", v1::ITEM, "c1", 1);
  EXPECT_EQ(count_to("g1", v1::ITEM), 1U);
  for (int i = 0; i < 30; ++i) {
    say("@w1-again", header(v1::HEARTBEAT));
    pass(100, {"g1"});
  }
  EXPECT_EQ(error_of("c1").code(), 0);
  EXPECT_EQ(error_of("c2").code(), -32010) << "it never spoke of it again";
}

TEST_F(CoreLoss, AReconnectedWorkerMaySendALostResultAgain) {
  attach_gateway("g1");
  attach_worker("w1");
  call("c1");
  reply("w1", v1::ACCEPTED, "c1");
  say("@w1-again", header(v1::READY), worker_ready("w1").SerializeAsString());
  v1::Header result = header(v1::RESULT, "c1");
  result.set_origin("g1");
  say("@w1-again", result, "late");
  ASSERT_EQ(count_to("g1", v1::RESULT), 1U);
  for (int i = 0; i < 30; ++i) {
    say("@w1-again", header(v1::HEARTBEAT));
    pass(100, {"g1"});
  }
  EXPECT_EQ(error_of("c1").code(), 0);
}

TEST_F(CoreLoss, AGoodbyeOfTheOldConnectionDoesNotEndTheNew) {
  attach_worker("w1");
  say("@w1-again", header(v1::READY), worker_ready("w1").SerializeAsString());
  say("@w1", header(v1::GOODBYE));
  core->on_unreachable("@w1", now);
  EXPECT_EQ(core->stats(now).workers(), 1U);
}

TEST_F(CoreLoss, AReturnedWorkerIsToldWhatWasGivenToAnother) {
  attach_gateway("g1");
  attach_worker("w1");
  call("c1");
  attach_worker("w2", "n2");
  pass(2500, {"g1", "w2"});
  ASSERT_EQ(calls_of("w2"), Ids{"c1"});
  v1::Ready ready = worker_ready("w1");
  ready.add_calls("c1");
  say("@w1", header(v1::READY), ready.SerializeAsString());
  EXPECT_EQ(count_to("w1", v1::CANCEL), 1U);
  reply("w1", v1::RESULT, "c1", 1);
  EXPECT_EQ(count_to("g1", v1::RESULT), 0U);
  EXPECT_EQ(dropped("not_its_call"), 1U);
}

TEST_F(CoreLoss, AnswersOutliveARestartOfTheBroker) {
  v1::Ready ready = worker_ready("w1", "n1", 2);
  ready.add_calls("old");
  say("@w1", header(v1::READY), ready.SerializeAsString());
  EXPECT_EQ(core->stats(now).calls_in_flight(), 1U);
  // The worker is back before the gateway.
  reply("w1", v1::ITEM, "old", 7);
  reply("w1", v1::RESULT, "old", 8);
  EXPECT_EQ(core->stats(now).calls_in_flight(), 0U);
  attach_gateway("g1");
  ASSERT_EQ(count_to("g1", v1::ITEM), 1U);
  ASSERT_EQ(count_to("g1", v1::RESULT), 1U);
  EXPECT_EQ(out.sent.back().header.sequence(), 8U) << "in order";
  reply("w1", v1::RESULT, "old", 8);
  EXPECT_EQ(count_to("g1", v1::RESULT), 1U) << "a second terminal reply";
  EXPECT_EQ(dropped("late_reply"), 1U);
}

TEST_F(CoreLoss, AnAnswerForAnOriginThatNeverComesIsDroppedAndCounted) {
  attach_worker("w1");
  reply("w1", v1::RESULT, "c1", 1, "nobody");
  pass(2500, {"w1"});
  EXPECT_EQ(dropped("unknown_origin"), 1U);
  attach_gateway("nobody");
  EXPECT_EQ(count_to("nobody", v1::RESULT), 0U);
}

TEST_F(CoreLoss, WhatAGoneGatewayAskedForIsCalledOff) {
  attach_gateway("g1");
  attach_worker("w1");
  call("c1");
  call("c2");
  pass(2200, {"w1"});
  EXPECT_EQ(core->stats(now).gateways(), 0U);
  EXPECT_EQ(count_to("w1", v1::CANCEL), 0U) << "it may come back";
  pass(2200, {"w1"});
  ASSERT_EQ(count_to("w1", v1::CANCEL), 1U);
  EXPECT_EQ(sent_to("w1", v1::CANCEL).front().header.method(), "$/gone");
  EXPECT_EQ(core->stats(now).queued_calls(), 0U);
  reply("w1", v1::ERROR, "c1", 1);
  EXPECT_EQ(core->stats(now).calls_in_flight(), 0U);
  EXPECT_EQ(calls_of("w1"), Ids{"c1"});
}

TEST_F(CoreLoss, AGatewayThatComesBackInTimeKeepsItsCallsAndGetsWhatItMissed) {
  attach_gateway("g1");
  attach_worker("w1");
  call("c1");
  call("c2");
  pass(2200, {"w1"});
  reply("w1", v1::RESULT, "c1", 1);
  EXPECT_EQ(calls_of("w1"), Ids{"c1"}) << "nothing begins for an absent gateway";
  EXPECT_EQ(count_to("g1", v1::RESULT), 0U);
  attach_gateway("g1");
  EXPECT_EQ(count_to("g1", v1::RESULT), 1U);
  pass(2500, {"w1", "g1"});
  EXPECT_EQ(calls_of("w1"), (Ids{"c1", "c2"}));
  EXPECT_EQ(count_to("w1", v1::CANCEL), 0U);
}

TEST_F(CoreLoss, AGatewaysGoodbyeCallsOffAtOnce) {
  attach_gateway("g1");
  attach_worker("w1");
  call("c1");
  say("@g1", header(v1::GOODBYE));
  EXPECT_EQ(count_to("w1", v1::CANCEL), 1U);
}

TEST_F(CoreLoss, APeerThatDoesNotReadIsSentAway) {
  attach_gateway("g1");
  attach_worker("w1");
  call("c1");
  core->on_overflow("@w1", now);
  EXPECT_EQ(count_to("w1", v1::GOODBYE), 1U);
  EXPECT_EQ(core->stats(now).workers(), 0U);
  attach_worker("w2");
  pass(2500, {"g1", "w2"});
  EXPECT_EQ(calls_of("w2"), Ids{"c1"});
}

TEST_F(CoreLoss, AWorkerThatOffersAnewKeepsItsCalls) {
  attach_gateway("g1");
  attach_worker("w1", "n1", 2);
  call("c1");
  reply("w1", v1::ACCEPTED, "c1");
  attach_worker("w1", "n1", 8);
  reply("w1", v1::RESULT, "c1", 1);
  EXPECT_EQ(count_to("g1", v1::RESULT), 1U);
  const auto workers = ask<v1::WorkersResponse>("bus.workers", v1::WorkersRequest());
  ASSERT_EQ(workers.workers_size(), 1);
  EXPECT_EQ(workers.workers(0).capacity(), 8U);
  EXPECT_EQ(workers.workers(0).calls(), 0U);
}

}  // namespace
}  // namespace runbus::broker
