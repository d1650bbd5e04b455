// A broker that has just started, or that runs beside another: what it does not know yet.
#include "tests/unit/broker/core_fixture.h"

namespace runbus::broker {
namespace {

using Ids = std::vector<std::string>;

// Made 1000 ms before the fixture's clock begins, and in the same millisecond.
constexpr const char* kOldSession = "018bcfe5-6418-7000-8000-000000000001";
constexpr const char* kNewSession = "018bcfe5-6800-7000-8000-000000000001";

class CoreRestart : public CoreTest {
 protected:
  CoreRestart() {
    start_fresh(CoreOptions{});
    attach_gateway("g1");
  }

  void attach_holder(const std::string& id, const std::string& node, const Ids& sessions,
                     std::uint32_t capacity = 4) {
    v1::Ready ready = worker_ready(id, node, capacity);
    ready.mutable_sessions()->Assign(sessions.begin(), sessions.end());
    say(key_of(id), header(v1::READY), ready.SerializeAsString());
  }

  void tell(const std::string& worker, const Ids& sessions) {
    v1::Heartbeat heartbeat;
    heartbeat.mutable_sessions()->Assign(sessions.begin(), sessions.end());
    say(key_of(worker), header(v1::HEARTBEAT), heartbeat.SerializeAsString());
  }
};

TEST_F(CoreRestart, ACallOfAKnownSessionWaitsForItsNodeThoughAnotherIsBackFirst) {
  attach_holder("w2", "n2", {});
  call("c1", "s1");
  call("c2", kOldSession);
  pass(1000, {"g1", "w2"});
  EXPECT_EQ(calls_of("w2"), Ids{});
  attach_holder("w1", "n1", {"s1", kOldSession});
  EXPECT_EQ(calls_of("w1"), (Ids{"c1", "c2"}));
  EXPECT_EQ(calls_of("w2"), Ids{});
}

// A broker that has been there for a while, beside another one that is gone now.
class CoreOther : public CoreTest {
 protected:
  CoreOther() {
    attach_gateway("g1");
    attach_worker("w1", "n1", 4);
    attach_worker("w2", "n1", 4);
  }
  void call_again(const std::string& id) {
    v1::Header request = call_header(id);
    request.set_again(true);
    say("@g1", request, "request " + id);
  }
  void claim(const std::string& worker, const std::string& call) {
    v1::Heartbeat heartbeat;
    heartbeat.add_calls(call);
    say(key_of(worker), header(v1::HEARTBEAT), heartbeat.SerializeAsString());
  }
};

TEST_F(CoreOther, ACallThatAWorkerMayHaveWaitsForItToSaySo) {
  call_again("c1");
  call("c2");
  EXPECT_EQ(calls_of("w1").size() + calls_of("w2").size(), 1U) << "a new one does not wait";
  pass(3000, {"g1", "w1", "w2"});
  EXPECT_EQ(calls_of("w1").size() + calls_of("w2").size(), 1U);
  claim("w2", "c1");
  EXPECT_EQ(calls_of("w2").back(), "c1");
  reply("w2", v1::RESULT, "c1", 1);
  EXPECT_EQ(count_to("g1", v1::RESULT), 1U);
  pass(5000, {"g1", "w1", "w2"});
  EXPECT_EQ(calls_of("w1").size() + calls_of("w2").size(), 2U);
}

TEST_F(CoreOther, AClaimMayComeBeforeTheCall) {
  claim("w2", "c1");
  claim("w1", "nobody-asks");
  call_again("c1");
  EXPECT_EQ(calls_of("w2"), Ids{"c1"});
  EXPECT_EQ(calls_of("w1"), Ids{});
}

TEST_F(CoreOther, ACallThatNobodyHasIsBegunInTheEnd) {
  call_again("c1");
  pass(3900, {"g1", "w1", "w2"});
  EXPECT_EQ(calls_of("w1").size() + calls_of("w2").size(), 0U);
  pass(200, {"g1", "w1", "w2"});
  EXPECT_EQ(calls_of("w1").size() + calls_of("w2").size(), 1U);
}

TEST_F(CoreOther, AClaimOfACallThatAnotherHasChangesNothing) {
  call("c1");
  const std::string has = calls_of("w1").empty() ? "w2" : "w1";
  claim(has == "w1" ? "w2" : "w1", "c1");
  reply(has, v1::RESULT, "c1", 1);
  EXPECT_EQ(count_to("g1", v1::RESULT), 1U);
}

TEST_F(CoreOther, AHeartbeatThatNamesTooMuchIsDropped) {
  v1::Heartbeat heartbeat;
  for (int i = 0; i < 1025; ++i) {
    heartbeat.add_calls("c" + std::to_string(i));
  }
  say(key_of("w1"), header(v1::HEARTBEAT), heartbeat.SerializeAsString());
  EXPECT_EQ(dropped("heartbeat"), 1U);
}

TEST_F(CoreRestart, ASessionThatNobodySpeaksOfIsPlacedOnceAllCouldBeBack) {
  attach_holder("w1", "n1", {});
  call("c1", "s1");
  pass(2900, {"g1", "w1"});
  EXPECT_EQ(calls_of("w1"), Ids{});
  pass(200, {"g1", "w1"});
  EXPECT_EQ(calls_of("w1"), Ids{"c1"});
  call("c2", "s2");
  EXPECT_EQ(calls_of("w1"), (Ids{"c1", "c2"})) << "from then on at once";
}

TEST_F(CoreRestart, ASessionThatIsYoungerThanTheBrokerIsPlacedAtOnce) {
  attach_holder("w1", "n1", {});
  call("c1", kNewSession);
  call("c2");
  EXPECT_EQ(calls_of("w1"), (Ids{"c1", "c2"}));
}

TEST_F(CoreRestart, ACallThatWaitsForItsSessionEndsAtItsDeadline) {
  attach_holder("w1", "n1", {});
  v1::Header request = call_header("c1", "s1");
  request.set_deadline_ms(now.wall_ms + 500);
  say("@g1", request);
  pass(700, {"g1", "w1"});
  EXPECT_EQ(error_of("c1").code(), -32006);
}

TEST_F(CoreRestart, ASessionThatCameByAnotherBrokerIsKnownByItsWorkersHeartbeat) {
  attach_holder("w1", "n1", {});
  attach_holder("w2", "n2", {});
  pass(3000, {"g1", "w1", "w2"});
  tell("w2", {"s1", "s2"});
  for (const char* id : {"c1", "c2", "c3"}) {
    call(id, "s1");
  }
  call("c4", "s2");
  EXPECT_EQ(calls_of("w2"), (Ids{"c1", "c2", "c3", "c4"}));
  // What this broker placed itself is not moved by what another worker says.
  tell("w1", {"s1"});
  reply("w2", v1::RESULT, "c1", 1);
  call("c5", "s1");
  EXPECT_EQ(calls_of("w2").back(), "c5");
}

TEST_F(CoreRestart, AHeartbeatThatIsNotSoundIsCountedAndChangesNothing) {
  attach_holder("w1", "n1", {});
  tell("w1", {"not an id"});
  tell("w1", Ids(1025, "s1"));
  say("@w1", header(v1::HEARTBEAT), "\xff\xff");
  say("@g1", header(v1::HEARTBEAT), "body");
  EXPECT_EQ(dropped("heartbeat"), 4U);
  call("c1", kNewSession);
  EXPECT_EQ(calls_of("w1"), Ids{"c1"});
}

TEST_F(CoreRestart, TwoBrokersPutANewSessionOnTheSameNode) {
  const auto place = [this](const Ids& order) {
    start(CoreOptions{});
    attach_gateway("g1");
    out.sent.clear();
    for (const std::string& worker : order) {
      attach_worker(worker, "node-" + worker, 64);
    }
    for (int i = 0; i < 40; ++i) {
      const std::string id = "c" + std::to_string(i);
      call(id, "session-" + std::to_string(i));
      for (const std::string& worker : order) {
        reply(worker, v1::RESULT, id, 1);
      }
    }
    return calls_of("w1");
  };
  const Ids first = place({"w1", "w2"});
  EXPECT_EQ(first, place({"w2", "w1"}));
  EXPECT_GT(first.size(), 5U);
  EXPECT_LT(first.size(), 35U) << "and both nodes get some";
}

TEST_F(CoreRestart, ACallOfAServiceThatIsNotBackYetWaitsForIt) {
  call("c1");
  call("c2", kNewSession);
  EXPECT_EQ(count_to("g1", v1::ERROR), 0U);
  EXPECT_EQ(core->stats(now).queued_calls(), 2U);
  attach_worker("w1", "n1", 1);
  EXPECT_EQ(calls_of("w1"), Ids{"c1"});
  reply("w1", v1::RESULT, "c1", 1);
  EXPECT_EQ(calls_of("w1"), (Ids{"c1", "c2"}));
  EXPECT_EQ(core->stats(now).queued_calls(), 0U);
}

TEST_F(CoreRestart, AServiceThatDoesNotComeBackIsUnavailableAndThenUnknown) {
  call("c1");
  pass(2900, {"g1"});
  EXPECT_EQ(error_of("c1").code(), 0);
  pass(200, {"g1"});
  EXPECT_EQ(error_of("c1").code(), -32003);
  call("c2");
  EXPECT_EQ(error_of("c2").code(), -32601);
}

TEST_F(CoreRestart, ACallThatWaitsForItsServiceCanBeCancelledAndTakenUpByItsWorker) {
  call("c1");
  say("@g1", header(v1::CANCEL, "c1"));
  EXPECT_EQ(error_of("c1").code(), -32011);
  // The worker had it all along.
  call("c2");
  v1::Ready ready = worker_ready("w1");
  ready.add_calls("c2");
  say("@w1", header(v1::READY), ready.SerializeAsString());
  EXPECT_EQ(calls_of("w1"), Ids{"c2"}) << "which it knows for a repetition";
  reply("w1", v1::RESULT, "c2", 1);
  EXPECT_EQ(count_to("g1", v1::RESULT), 1U);
  EXPECT_EQ(core->stats(now).queued_calls(), 0U);
}

TEST_F(CoreRestart, AWorkerHearsWhatTheCallerSaidBeforeItWasBack) {
  v1::Header resumed = call_header("c1");
  resumed.set_worker_id("w1");
  resumed.mutable_resume()->set_sequence(7);
  resumed.set_credit(1000);
  say("@g1", resumed);
  v1::Header credit = header(v1::CREDIT, "c1");
  credit.set_credit(2000);
  say("@g1", credit);
  v1::Ready ready = worker_ready("w1");
  ready.add_calls("c1");
  say("@w1", header(v1::READY), ready.SerializeAsString());
  EXPECT_EQ(calls_of("w1"), Ids{"c1"});
  EXPECT_EQ(count_to("w1", v1::CREDIT), 1U);
  EXPECT_EQ(out.sent.back().header.credit(), 2000U) << "after the call";
  EXPECT_EQ(core->stats(now).queued_calls(), 0U);
  EXPECT_EQ(core->stats(now).calls_in_flight(), 1U);
}

TEST_F(CoreRestart, ACallThatWentOnByAnotherBrokerTakesNoPlaceHere) {
  attach_worker("w1");
  call("c1");
  reply("w1", v1::ACCEPTED, "c1");
  v1::ErrorBody moved;
  moved.set_code(-32010);
  v1::Header error = header(v1::ERROR, "c1");
  error.set_origin("g1");
  say("@w1", error, moved.SerializeAsString());
  EXPECT_EQ(core->stats(now).calls_in_flight(), 0U);
  call("c2");
  EXPECT_EQ(calls_of("w1"), (Ids{"c1", "c2"}));
}

}  // namespace
}  // namespace runbus::broker
