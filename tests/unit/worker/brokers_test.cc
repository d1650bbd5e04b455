// One worker at two brokers.
#include "proto/support/error.h"
#include "tests/unit/worker/worker_fixture.h"

namespace runbus::worker {
namespace {

class BrokersTest : public WorkerFixture {
 protected:
  ScriptedService& start_with_two() {
    start_second(std::chrono::seconds(2));
    return start_quick();
  }
  // Misses a broker soon.
  ScriptedService& start_quick() {
    auto service = std::make_unique<ScriptedService>(16);
    ScriptedService& scripted = *service;
    start(std::move(service), std::chrono::seconds(60), std::chrono::seconds(2));
    return scripted;
  }
  void restart_broker() {
    broker_.reset();
    broker_ = std::make_unique<FakeBroker>(endpoint_, std::chrono::seconds(2));
    ASSERT_TRUE(until([&] { return broker_->attached(); }));
  }
  static std::function<void(v1::Header&)> in_session(const std::string& id) {
    return [id](v1::Header& header) { header.set_session_id(id); };
  }
  static std::function<void(v1::Header&)> resuming(std::uint64_t sequence) {
    return [sequence](v1::Header& header) { header.mutable_resume()->set_sequence(sequence); };
  }
};

TEST_F(BrokersTest, TellsTheOtherBrokerOfASessionOnce) {
  start_with_two();
  broker_->call("c1", "echo.say", say(""), in_session("s1"));
  broker_->call("c2", "echo.say", say(""), in_session("s1"));
  ASSERT_TRUE(until([&] { return !second_->told_sessions().empty(); }));
  second_->call("c3", "echo.say", say(""), in_session("s2"));
  ASSERT_TRUE(until([&] { return !broker_->told_sessions().empty(); }));
  EXPECT_EQ(second_->told_sessions(), std::vector<std::string>{"s1"});
  EXPECT_EQ(broker_->told_sessions(), std::vector<std::string>{"s2"});
}

TEST_F(BrokersTest, NamesItsSessionsToANewBrokerTheOneUsedLastFirst) {
  start_quick();
  for (const char* id : {"s1", "s2", "s3"}) {
    broker_->call(std::string("c-") + id, "echo.say", say(""), in_session(id));
  }
  broker_->call("c4", "echo.say", say(""), in_session("s1"));
  ASSERT_TRUE(until_received(v1::RESULT, "c4"));
  worker_->hold_session("s0");
  worker_->let_go_of_session("s2");
  restart_broker();
  const auto& named = broker_->ready().sessions();
  EXPECT_EQ(std::vector<std::string>(named.begin(), named.end()),
            (std::vector<std::string>{"s0", "s1", "s3"}));
}

TEST_F(BrokersTest, ACallGoesOverWithTheCallerAndItsFirstBrokerHearsOfIt) {
  ScriptedService& service = start_with_two();
  CallPtr stream;
  int cancelled = 0;
  service.count = [&](const CallPtr& call, const echo::CountRequest&) {
    stream = call;
    call->on_cancel([&](const Error&) { ++cancelled; });
    call->send(counted(1));
    call->send(counted(2));
  };
  broker_->call("c1", "echo.count", echo::CountRequest());
  ASSERT_TRUE(until([&] { return broker_->count(v1::ITEM, "c1") == 2; }));

  second_->call("c1", "echo.count", echo::CountRequest(), resuming(1));
  ASSERT_TRUE(until([&] { return second_->count(v1::ITEM, "c1") == 1; }));
  const v1::ErrorBody moved = only_error("c1");
  EXPECT_EQ(moved.code(), static_cast<int>(ErrorCode::kWorkerLost));
  EXPECT_EQ(broker_->of(v1::ERROR, "c1").front().header.sequence(), 0U);

  // The first one misses its caller, who is elsewhere.
  broker_->cancel("c1", "$/gone");
  settle();
  EXPECT_EQ(cancelled, 0);
  stream->finish(count_result(2));
  ASSERT_TRUE(until([&] { return second_->count(v1::RESULT, "c1") == 1; }));
  EXPECT_EQ(broker_->count(v1::RESULT, "c1"), 0U);
  EXPECT_EQ(service.runs, 1);
}

TEST_F(BrokersTest, ACancelComesThroughByAnyBrokerOnceItsOwnIsGone) {
  ScriptedService& service = start_with_two();
  CallPtr unary;
  bool cancelled = false;
  service.say = [&](const CallPtr& call, const echo::SayRequest&) {
    unary = call;
    call->on_cancel([&](const Error&) { cancelled = true; });
  };
  second_->call("c1", "echo.say", say(""));
  ASSERT_TRUE(until([&] { return unary != nullptr; }));
  broker_->cancel("c1");
  settle();
  EXPECT_FALSE(cancelled);
  second_.reset();
  ASSERT_TRUE(until([&] {
    broker_->cancel("c1");
    return cancelled;
  }));
}

TEST_F(BrokersTest, ABrokerThatComesBackHearsOnlyOfItsOwnCalls) {
  ScriptedService& service = start_with_two();
  std::vector<CallPtr> kept;
  service.say = [&](const CallPtr& call, const echo::SayRequest&) { kept.push_back(call); };
  broker_->call("c1", "echo.say", say(""));
  second_->call("c2", "echo.say", say(""));
  ASSERT_TRUE(until([&] { return kept.size() == 2; }));
  restart_broker();
  const auto& named = broker_->ready().calls();
  EXPECT_EQ(std::vector<std::string>(named.begin(), named.end()), std::vector<std::string>{"c1"});
}

// What it is working on, and the answers that may not have arrived.
TEST_F(BrokersTest, TheOtherBrokerHearsOfTheCallsOfOneThatIsGone) {
  ScriptedService& service = start_with_two();
  std::vector<CallPtr> kept;
  service.say = [&](const CallPtr& call, const echo::SayRequest& request) {
    if (request.text() == "keep") {
      kept.push_back(call);
    } else {
      call->finish(echo::SayResponse());
    }
  };
  broker_->call("running", "echo.say", say("keep"));
  broker_->call("ended", "echo.say", say(""));
  second_->call("c3", "echo.say", say("keep"));
  ASSERT_TRUE(until([&] { return kept.size() == 2 && broker_->count(v1::RESULT, "ended") == 1; }));
  broker_.reset();
  ASSERT_TRUE(until([&] { return second_->told_calls().size() == 2; }));
  EXPECT_THAT(second_->told_calls(), testing::UnorderedElementsAre("running", "ended"));
  // The caller says it again, there: it is answered, not run.
  second_->call("ended", "echo.say", say(""));
  EXPECT_TRUE(until([&] { return second_->count(v1::RESULT, "ended") == 1; }));
  EXPECT_EQ(service.runs, 3);
}

// They would stay in the table of calls for ever.
TEST_F(BrokersTest, ABrokersReturnLeavesTheOthersEndedCallsAlone) {
  start_with_two();
  second_->call("c2", "echo.say", say("once"));
  ASSERT_TRUE(until([&] { return second_->count(v1::RESULT, "c2") == 1; }));
  restart_broker();
  settle();
  EXPECT_EQ(broker_->count(v1::RESULT, "c2"), 0U);
  second_->call("c2", "echo.say", say("once"));
  ASSERT_TRUE(until([&] { return second_->count(v1::RESULT, "c2") == 2; }));
  bool drained = false;
  worker_->drain([&] { drained = true; });
  EXPECT_TRUE(until([&] { return drained; }));
}

}  // namespace
}  // namespace runbus::worker
