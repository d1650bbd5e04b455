#include "tests/unit/broker/core_fixture.h"

namespace runbus::broker {
namespace {

using ::testing::Test;
using Ids = std::vector<std::string>;

class CoreDispatch : public CoreTest {};

TEST_F(CoreDispatch, WelcomesAPeerWithItsLimitsAndAGatewayWithTheServices) {
  attach_worker("w1");
  attach_gateway("g1");
  v1::Welcome welcome;
  ASSERT_EQ(count_to("g1", v1::READY), 1U);
  ASSERT_TRUE(welcome.ParseFromString(sent_to("g1", v1::READY).front().body));
  EXPECT_EQ(welcome.epoch(), "epoch1");
  EXPECT_EQ(welcome.heartbeat_timeout_ms(), 2000U);
  v1::Services services;
  ASSERT_EQ(count_to("g1", v1::SERVICES), 1U);
  ASSERT_TRUE(services.ParseFromString(sent_to("g1", v1::SERVICES).front().body));
  ASSERT_EQ(services.services_size(), 1);
  EXPECT_EQ(services.services(0).service(), "test.Echo");
}

TEST_F(CoreDispatch, TellsGatewaysOfNewOffersOncePerTickAndNotOfEqualOnes) {
  attach_gateway("g1");
  core->on_tick(now);
  const std::size_t before = count_to("g1", v1::SERVICES);
  attach_worker("w1");
  attach_worker("w2", "n2");
  EXPECT_TRUE(core->busy());
  core->on_tick(now);
  ASSERT_EQ(count_to("g1", v1::SERVICES), before + 1);
  v1::Services services;
  ASSERT_TRUE(services.ParseFromString(sent_to("g1", v1::SERVICES).back().body));
  EXPECT_EQ(services.services_size(), 1);
}

TEST_F(CoreDispatch, CarriesACallAndItsAnswersWithBodiesAndHeadersUntouched) {
  attach_gateway("g1");
  attach_worker("w1");
  v1::Header header = call_header("c1", "s1");
  header.set_principal("ann");
  header.set_traceparent("00-1-2-00");
  header.set_credit(77);
  say("@g1", header, "request");
  ASSERT_EQ(calls_of("w1"), Ids{"c1"});
  const Sent given = sent_to("w1", v1::CALL).front();
  EXPECT_EQ(given.body, "request");
  EXPECT_EQ(given.header.SerializeAsString(), header.SerializeAsString());
  reply("w1", v1::ACCEPTED, "c1");
  reply("w1", v1::ITEM, "c1", 1);
  reply("w1", v1::RESULT, "c1", 2);
  EXPECT_EQ(count_to("g1", v1::ACCEPTED), 1U);
  EXPECT_EQ(count_to("g1", v1::ITEM), 1U);
  ASSERT_EQ(count_to("g1", v1::RESULT), 1U);
  EXPECT_EQ(sent_to("g1", v1::RESULT).front().body, "reply c1");
  EXPECT_EQ(core->stats(now).calls_in_flight(), 0U);
}

TEST_F(CoreDispatch, AnswersAnUnknownMethodWithItsName) {
  attach_gateway("g1");
  call("c1", {}, "no.such");
  EXPECT_EQ(error_of("c1").code(), -32601);
  EXPECT_NE(error_of("c1").detail().find("no.such"), std::string::npos);
}

TEST_F(CoreDispatch, GivesCallsToTheLeastLoadedWorkerForItsCapacity) {
  attach_gateway("g1");
  attach_worker("w1", "n1", 1);
  attach_worker("w2", "n2", 3);
  for (int i = 0; i < 4; ++i) {
    call("c" + std::to_string(i));
  }
  EXPECT_EQ(calls_of("w1").size(), 1U);
  EXPECT_EQ(calls_of("w2").size(), 3U);
}

TEST_F(CoreDispatch, TakesTurnsBetweenEquallyLoadedWorkers) {
  attach_gateway("g1");
  attach_worker("w1", "n1", 8);
  attach_worker("w2", "n2", 8);
  for (int i = 0; i < 6; ++i) {
    const std::string id = "c" + std::to_string(i);
    call(id);
    reply(calls_of("w1").size() + calls_of("w2").size() > 0 && !calls_of("w1").empty() &&
                  calls_of("w1").back() == id
              ? "w1"
              : "w2",
          v1::RESULT, id, 1);
  }
  EXPECT_EQ(calls_of("w1").size(), 3U);
  EXPECT_EQ(calls_of("w2").size(), 3U);
}

TEST_F(CoreDispatch, KeepsASessionOnItsNodeThoughAnotherIsIdle) {
  attach_gateway("g1");
  attach_worker("w1", "n1", 4);
  call("c0", "s1");
  attach_worker("w2", "n2", 4);
  call("c1", "s1");
  call("c2", "s1");
  call("c3", "other");
  EXPECT_EQ(calls_of("w1"), (Ids{"c0", "c1", "c2"}));
  EXPECT_EQ(calls_of("w2"), Ids{"c3"});
  call("c4", "s1");
  call("c5", "s1");  // the node is full: waits for it
  EXPECT_EQ(calls_of("w2").size(), 1U);
  reply("w1", v1::RESULT, "c0", 1);
  EXPECT_EQ(calls_of("w1").back(), "c5");
}

TEST_F(CoreDispatch, KeepsASessionOnTheSameNodeForEveryServiceThatTheNodeHas) {
  attach_gateway("g1");
  attach_worker("store", "n0", 4, "test.Store");
  attach_worker("w1", "n1", 4);
  attach_worker("f1", "n1", 4, "test.Files");
  attach_worker("f2", "n2", 4, "test.Files");
  call("c1", "s1", "test.Store.call");
  call("c2", "s1");
  call("c3", "s1", "test.Files.call");
  call("c4", "s1", "test.Files.call");
  call("c5", "s1", "test.Store.call");
  EXPECT_EQ(calls_of("store"), (Ids{"c1", "c5"}));
  EXPECT_EQ(calls_of("w1"), Ids{"c2"});
  EXPECT_EQ(calls_of("f1"), (Ids{"c3", "c4"}));
}

TEST_F(CoreDispatch, PlacesASessionAnewOnceItsNodeIsGoneForTheHeartbeatTimeout) {
  attach_gateway("g1");
  attach_worker("w1", "n1", 4);
  call("c1", "s1");
  attach_worker("w2", "n2", 4);
  say("@w1", header(v1::GOODBYE));
  call("c2", "s1");
  EXPECT_TRUE(calls_of("w2").empty()) << "the node may come back";
  pass(2500, {"g1", "w2"});
  EXPECT_EQ(calls_of("w2"), (Ids{"c1", "c2"})) << "neither had been accepted";
}

TEST_F(CoreDispatch, WaitingCallsGoOutInOrderAsPlacesBecomeFree) {
  attach_gateway("g1");
  attach_worker("w1");
  call("c1");
  call("c2");
  call("c3");
  EXPECT_EQ(core->stats(now).queued_calls(), 2U);
  reply("w1", v1::RESULT, "c1", 1);
  reply("w1", v1::ERROR, "c2", 1);
  EXPECT_EQ(calls_of("w1"), (Ids{"c1", "c2", "c3"}));
  EXPECT_EQ(core->stats(now).queued_calls(), 0U);
  EXPECT_EQ(core->stats(now).queued_bytes(), 0U);
}

TEST_F(CoreDispatch, RefusesACallBeyondTheQueueAtOnce) {
  CoreOptions options;
  options.queue_calls = 2;
  start(options);
  attach_gateway("g1");
  attach_worker("w1");
  for (const char* id : {"c1", "c2", "c3", "c4"}) {
    call(id);
  }
  EXPECT_EQ(error_of("c3").code(), 0);
  EXPECT_EQ(error_of("c4").code(), -32012);
  EXPECT_EQ(error_of("c4").limit(), "queue");
}

TEST_F(CoreDispatch, BoundsTheQueueInBytes) {
  CoreOptions options;
  options.queue_bytes = 10'000;
  start(options);
  attach_gateway("g1");
  attach_worker("w1");
  call("c1");
  say("@g1", call_header("c2"), std::string(8000, 'x'));
  say("@g1", call_header("c3"), std::string(8000, 'x'));
  EXPECT_EQ(error_of("c2").code(), 0);
  EXPECT_EQ(error_of("c3").code(), -32012);
}

TEST_F(CoreDispatch, EndsAWaitingCallAtItsDeadline) {
  attach_gateway("g1");
  attach_worker("w1");
  call("c1");
  v1::Header header = call_header("c2");
  header.set_deadline_ms(now.wall_ms + 1000);
  say("@g1", header);
  pass(900, {"g1", "w1"});
  EXPECT_EQ(error_of("c2").code(), 0);
  pass(200, {"g1", "w1"});
  EXPECT_EQ(error_of("c2").code(), -32006);
  header.set_call_id("c3");
  say("@g1", header);
  EXPECT_EQ(error_of("c3").code(), -32006) << "the deadline had passed already";
}

TEST_F(CoreDispatch, ACallForAServiceThatIsGoneWaitsAndThenIsUnavailable) {
  attach_gateway("g1");
  attach_worker("w1");
  say("@w1", header(v1::GOODBYE));
  call("c1");
  pass(2900, {"g1"});
  EXPECT_EQ(error_of("c1").code(), 0);
  pass(300, {"g1"});
  EXPECT_EQ(error_of("c1").code(), -32003);
  call("c2");
  attach_worker("w2");
  EXPECT_EQ(calls_of("w2"), Ids{"c2"}) << "a new worker takes what waits";
}

TEST_F(CoreDispatch, ForgetsAServiceThatHasBeenGoneForLong) {
  attach_gateway("g1");
  attach_worker("w1");
  say("@w1", header(v1::GOODBYE));
  pass(700'000, {"g1"});
  call("c1");
  EXPECT_EQ(error_of("c1").code(), -32601);
  v1::Services services;
  ASSERT_TRUE(services.ParseFromString(sent_to("g1", v1::SERVICES).back().body));
  EXPECT_EQ(services.services_size(), 0);
}

TEST_F(CoreDispatch, APinnedCallGoesToItsWorkerAlone) {
  attach_gateway("g1");
  attach_worker("w1", "n1", 4);
  attach_worker("w2", "n2", 4);
  for (const char* id : {"c1", "c2", "c3"}) {
    v1::Header header = call_header(id);
    header.set_worker_id("w2");
    say("@g1", header);
  }
  EXPECT_EQ(calls_of("w2").size(), 3U);
  EXPECT_TRUE(calls_of("w1").empty());
}

TEST_F(CoreDispatch, APinnedCallWaitsForItsWorkerUntilTheHeartbeatTimeout) {
  attach_gateway("g1");
  attach_worker("w1", "n1", 4);
  v1::Header header = call_header("c1");
  header.set_worker_id("w2");
  say("@g1", header);
  header.set_call_id("c2");
  header.set_worker_id("w3");
  say("@g1", header);
  pass(1000, {"g1", "w1"});
  attach_worker("w2", "n2", 4);
  EXPECT_EQ(calls_of("w2"), Ids{"c1"});
  pass(1500, {"g1", "w1", "w2"});
  EXPECT_EQ(error_of("c2").code(), -32010);
  EXPECT_TRUE(calls_of("w1").empty());
}

TEST_F(CoreDispatch, ADrainingWorkerGetsNothingNewAndEndsWhatItHas) {
  attach_gateway("g1");
  attach_worker("w1", "n1", 4);
  call("c1", "s1");
  attach_worker("w2", "n2", 4);
  say("@w1", header(v1::DRAIN));
  call("c2");
  call("c3", "s1");  // no other worker of its node is left
  EXPECT_EQ(calls_of("w1"), Ids{"c1"});
  EXPECT_EQ(calls_of("w2"), (Ids{"c2", "c3"}));
  reply("w1", v1::RESULT, "c1", 1);
  EXPECT_EQ(count_to("g1", v1::RESULT), 1U);
}

TEST_F(CoreDispatch, SessionsOfADrainingWorkerStayOnTheNodeWithItsOtherWorkers) {
  attach_gateway("g1");
  attach_worker("w1", "n1", 4);
  call("c1", "s1");
  attach_worker("w2", "n2", 4);
  attach_worker("w1b", "n1", 4);
  say("@w1", header(v1::DRAIN));
  call("c2", "s1");
  EXPECT_EQ(calls_of("w1b"), Ids{"c2"});
}

TEST_F(CoreDispatch, CancelsAWaitingCallItselfAndForwardsTheRest) {
  attach_gateway("g1");
  attach_worker("w1");
  call("c1");
  call("c2");
  say("@g1", header(v1::CANCEL, "c2"));
  EXPECT_EQ(error_of("c2").code(), -32011);
  EXPECT_EQ(count_to("w1", v1::CANCEL), 0U);
  say("@g1", header(v1::CANCEL, "c1"));
  EXPECT_EQ(count_to("w1", v1::CANCEL), 1U);
  reply("w1", v1::ERROR, "c1", 1);
  EXPECT_EQ(calls_of("w1"), Ids{"c1"}) << "a cancelled call is given to nobody";
}

TEST_F(CoreDispatch, ForwardsCreditAndInputToTheCallsWorker) {
  attach_gateway("g1");
  attach_worker("w1");
  call("c1");
  reply("w1", v1::ACCEPTED, "c1");
  v1::Header credit = header(v1::CREDIT, "c1");
  credit.set_credit(1000);
  say("@g1", credit);
  say("@g1", header(v1::INPUT, "c1"), "typed");
  ASSERT_EQ(count_to("w1", v1::CREDIT), 1U);
  EXPECT_EQ(sent_to("w1", v1::CREDIT).front().header.credit(), 1000U);
  EXPECT_EQ(sent_to("w1", v1::INPUT).front().body, "typed");
}

TEST_F(CoreDispatch, KeepsInputForACallThatWaits) {
  attach_gateway("g1");
  attach_worker("w1");
  call("c1");
  call("c2");
  say("@g1", header(v1::INPUT, "c2"), "early");
  EXPECT_EQ(count_to("w1", v1::INPUT), 0U);
  reply("w1", v1::RESULT, "c1", 1);
  ASSERT_EQ(count_to("w1", v1::INPUT), 1U);
  EXPECT_EQ(out.sent.back().body, "early") << "after the CALL";
}

TEST_F(CoreDispatch, FollowsTheHeadersWorkerForACallOfATimeBeforeThisBroker) {
  attach_gateway("g1");
  attach_worker("w1");
  v1::Header credit = header(v1::CREDIT, "old");
  say("@g1", credit);
  EXPECT_EQ(dropped("unknown_call"), 1U);
  credit.set_worker_id("w1");
  say("@g1", credit);
  EXPECT_EQ(count_to("w1", v1::CREDIT), 1U);
}

TEST_F(CoreDispatch, IgnoresARepeatedCallUnlessItResumes) {
  attach_gateway("g1");
  attach_worker("w1", "n1", 4);
  call("c1");
  call("c1");
  EXPECT_EQ(calls_of("w1"), Ids{"c1"});
  v1::Header again = call_header("c1");
  again.mutable_resume()->set_sequence(3);
  again.set_worker_id("w1");
  say("@g1", again);
  ASSERT_EQ(calls_of("w1"), (Ids{"c1", "c1"}));
  EXPECT_EQ(sent_to("w1", v1::CALL).back().header.resume().sequence(), 3U);
  EXPECT_EQ(core->stats(now).calls_in_flight(), 1U);
}

TEST_F(CoreDispatch, DoesNotRunACallAgainWhoseAnswerWasLost) {
  attach_gateway("g1");
  attach_worker("w1", "n1", 4);
  call("c1");
  reply("w1", v1::RESULT, "c1", 1);
  call("c1");
  EXPECT_EQ(calls_of("w1"), Ids{"c1"});
  EXPECT_EQ(error_of("c1").code(), -32010);
}

TEST_F(CoreDispatch, ABusyServiceDoesNotDelayAnother) {
  attach_gateway("g1");
  attach_worker("w1");
  attach_worker("w2", "n1", 1, "test.Files");
  for (int i = 0; i < 10; ++i) {
    call("c" + std::to_string(i));
  }
  call("f1", {}, "test.Files.call");
  EXPECT_EQ(calls_of("w2"), Ids{"f1"});
}

}  // namespace
}  // namespace runbus::broker
