#include <algorithm>

#include "tests/unit/worker/worker_fixture.h"

// The worker on its bus: attaching, resends, lost brokers, leaving.
namespace runbus::worker {
namespace {

using WorkerTest = WorkerFixture;

TEST_F(WorkerTest, AnnouncesItselfAndItsServices) {
  start_scripted(7);
  const v1::Ready& ready = broker_->ready();
  EXPECT_EQ(ready.role(), v1::WORKER);
  EXPECT_EQ(ready.peer_id(), worker_->id());
  EXPECT_EQ(ready.node(), "node-1");
  EXPECT_EQ(ready.name(), "test");
  ASSERT_EQ(ready.services_size(), 1);
  EXPECT_EQ(ready.services(0).service(), "example.echo.v1.EchoService");
  EXPECT_EQ(ready.services(0).capacity(), 7U);
  EXPECT_EQ(ready.services(0).methods_size(), 3);
  EXPECT_FALSE(ready.services(0).descriptor_set().empty());
}

TEST_F(WorkerTest, RefusesToStartWithoutAHandlerForEachRpc) {
  class Half : public Service {
   public:
    Half()
        : Service(*echo::SayRequest::descriptor()->file()->FindServiceByName("EchoService"), 1) {}
  };
  WorkerOptions options;
  options.brokers = {endpoint_};
  Worker worker(io_, options);
  worker.add(std::make_unique<Half>());
  EXPECT_THROW(worker.start(), std::logic_error);
}

TEST_F(WorkerTest, CallThatComesTwiceWhileItRunsIsRunOnce) {
  ScriptedService& service = start_scripted();
  CallPtr kept;
  service.say = [&](const CallPtr& call, const echo::SayRequest&) { kept = call; };
  broker_->call("c1", "echo.say", say(""));
  broker_->call("c1", "echo.say", say(""));
  ASSERT_TRUE(until_received(v1::ACCEPTED, "c1", 2));
  kept->finish(echo::SayResponse());
  ASSERT_TRUE(until_received(v1::RESULT, "c1"));
  settle();
  EXPECT_EQ(broker_->count(v1::RESULT, "c1"), 1U);
  EXPECT_EQ(service.runs, 1);
}

TEST_F(WorkerTest, CallThatComesAgainAfterItsEndIsAnsweredAgain) {
  ScriptedService& service = start_scripted();
  broker_->call("c1", "echo.say", say("x"));
  ASSERT_TRUE(until_received(v1::RESULT, "c1"));
  broker_->call("c1", "echo.say", say("x"));
  ASSERT_TRUE(until_received(v1::RESULT, "c1", 2));
  const auto results = broker_->of(v1::RESULT, "c1");
  EXPECT_EQ(results[0].body, results[1].body);
  EXPECT_EQ(results[1].header.sequence(), 1U);
  EXPECT_EQ(service.runs, 1);
}

// Others have to be remembered for long: to run them twice would do harm.
TEST_F(WorkerTest, OfCallsThatMayBeRunAgainItRemembersFew) {
  ScriptedService& service = start_scripted();
  service.chat = [](const CallPtr& call, const echo::ChatRequest&) {
    call->finish(echo::ChatItem());
  };
  broker_->call("chat", "echo.chat", echo::ChatRequest());
  ASSERT_TRUE(until_received(v1::RESULT, "chat"));
  constexpr int kMany = 300;
  for (int i = 0; i < kMany; ++i) {
    broker_->call("say" + std::to_string(i), "echo.say", say("x"));
    ASSERT_TRUE(until_received(v1::RESULT, "say" + std::to_string(i)));
  }
  EXPECT_EQ(service.runs, 1 + kMany);
  const std::string last = "say" + std::to_string(kMany - 1);
  for (const std::string& again : {std::string("chat"), last}) {
    broker_->call(again, again == "chat" ? "echo.chat" : "echo.say", say("x"));
    ASSERT_TRUE(until_received(v1::RESULT, again, 2));
  }
  EXPECT_EQ(service.runs, 1 + kMany);
  broker_->call("say0", "echo.say", say("x"));
  ASSERT_TRUE(until_received(v1::RESULT, "say0", 2));
  EXPECT_EQ(service.runs, 2 + kMany);
}

TEST_F(WorkerTest, ACallThatMayBeRunAgainIsWhenItsAnswerIsNoLongerKept) {
  ScriptedService& service = start_scripted();
  const std::string large(1000 * 1000, 'x');
  for (int i = 0; i < 10; ++i) {
    broker_->call("say" + std::to_string(i), "echo.say", say(large));
    ASSERT_TRUE(until_received(v1::RESULT, "say" + std::to_string(i)));
  }
  broker_->call("say0", "echo.say", say(large));
  ASSERT_TRUE(until_received(v1::RESULT, "say0", 2));
  EXPECT_EQ(service.runs, 11);
  EXPECT_EQ(broker_->count(v1::ERROR, "say0"), 0U);
}

TEST_F(WorkerTest, ResendGoesOnAfterWhatTheCallerHas) {
  ScriptedService& service = start_scripted();
  CallPtr kept;
  service.count = [&](const CallPtr& call, const echo::CountRequest&) {
    kept = call;
    for (std::uint32_t i = 1; i <= 5; ++i) {
      call->send(counted(i));
    }
  };
  broker_->call("c1", "echo.count", echo::CountRequest());
  ASSERT_TRUE(until_received(v1::ITEM, "c1", 5));
  broker_->forget();
  broker_->call("c1", "echo.count", echo::CountRequest(),
                [](v1::Header& header) { header.mutable_resume()->set_sequence(3); });
  ASSERT_TRUE(until_received(v1::ITEM, "c1", 2));
  kept->finish(count_result(5));
  ASSERT_TRUE(until_received(v1::RESULT, "c1"));
  const auto answer = broker_->of_call("c1");
  ASSERT_EQ(answer.size(), 4U);
  EXPECT_EQ(answer[0].header.kind(), v1::ACCEPTED);
  EXPECT_EQ(answer[1].header.sequence(), 4U);
  EXPECT_EQ(answer[2].header.sequence(), 5U);
  EXPECT_EQ(answer[3].header.sequence(), 6U);
  EXPECT_EQ(service.runs, 1);
}

TEST_F(WorkerTest, AcknowledgedItemsAreNotSentAgain) {
  ScriptedService& service = start_scripted();
  CallPtr kept;
  service.count = [&](const CallPtr& call, const echo::CountRequest&) {
    kept = call;
    call->send(counted(1));
    call->send(counted(2));
  };
  broker_->call("c1", "echo.count", echo::CountRequest());
  ASSERT_TRUE(until_received(v1::ITEM, "c1", 2));
  broker_->credit("c1", 2U << 20U, 1);
  settle();
  broker_->forget();
  broker_->call("c1", "echo.count", echo::CountRequest());
  ASSERT_TRUE(until_received(v1::ITEM, "c1"));
  settle();
  const auto items = broker_->of(v1::ITEM, "c1");
  ASSERT_EQ(items.size(), 1U);
  EXPECT_EQ(items.front().header.sequence(), 2U);
}

TEST_F(WorkerTest, AHandlerHearsOfCreditThatComesWithTheCallAgain) {
  ScriptedService& service = start_scripted();
  CallPtr kept;
  const std::size_t size = counted(1, 100).ByteSizeLong();
  service.count = [&](const CallPtr& call, const echo::CountRequest&) {
    kept = call;
    call->on_credit([&kept] { kept->send(counted(2, 100)); });
    call->send(counted(1, 100));
  };
  broker_->call("c1", "echo.count", echo::CountRequest(),
                [&](v1::Header& header) { header.set_credit(size); });
  ASSERT_TRUE(until_received(v1::ITEM, "c1", 1));
  ASSERT_EQ(kept->credit(), 0U);
  broker_->call("c1", "echo.count", echo::CountRequest(), [&](v1::Header& header) {
    header.set_credit(2 * size);
    header.mutable_resume()->set_sequence(1);
    header.mutable_resume()->set_bytes(size);
  });
  ASSERT_TRUE(until_received(v1::ITEM, "c1", 2));
  EXPECT_EQ(broker_->of(v1::ITEM, "c1").back().header.sequence(), 2U);
}

TEST_F(WorkerTest, CountsCreditAnewWhenTheCallerHasTakenItForLost) {
  ScriptedService& service = start_scripted();
  CallPtr kept;
  service.count = [&](const CallPtr& call, const echo::CountRequest&) {
    kept = call;
    for (std::uint32_t i = 1; i <= 3; ++i) {
      call->send(counted(i, 100));
    }
  };
  const std::size_t size = counted(1, 100).ByteSizeLong();
  broker_->call("c1", "echo.count", echo::CountRequest(),
                [&](v1::Header& header) { header.set_credit(3 * size); });
  ASSERT_TRUE(until_received(v1::ITEM, "c1", 3));
  broker_->forget();
  // The caller has two and counts from 0: room for the third and one more.
  broker_->call("c1", "echo.count", echo::CountRequest(), [&](v1::Header& header) {
    header.set_credit(2 * size);
    header.mutable_resume()->set_sequence(2);
  });
  ASSERT_TRUE(until_received(v1::ITEM, "c1", 1));
  EXPECT_EQ(kept->credit(), size);
  kept->send(counted(4, 100));
  kept->send(counted(5, 100));
  ASSERT_TRUE(until_received(v1::ITEM, "c1", 2));
  settle();
  EXPECT_EQ(broker_->count(v1::ITEM, "c1"), 2U);
  broker_->credit("c1", 3 * size, 4);
  ASSERT_TRUE(until_received(v1::ITEM, "c1", 3));
  EXPECT_EQ(broker_->of(v1::ITEM, "c1").back().header.sequence(), 5U);
}

TEST_F(WorkerTest, CallOfALostWorkerIsNumberedOn) {
  ScriptedService& service = start_scripted();
  service.count = [&](const CallPtr& call, const echo::CountRequest&) {
    ASSERT_NE(call->resume(), nullptr);
    EXPECT_EQ(call->resume()->offset(), 400U);
    EXPECT_EQ(call->credit(), 500U);
    call->send(counted(5));
    call->finish(count_result(5));
  };
  broker_->call("c1", "echo.count", echo::CountRequest(), [](v1::Header& header) {
    header.set_credit(1500);
    header.mutable_resume()->set_sequence(4);
    header.mutable_resume()->set_offset(400);
    header.mutable_resume()->set_bytes(1000);
  });
  ASSERT_TRUE(until_received(v1::RESULT, "c1"));
  EXPECT_EQ(broker_->of(v1::ITEM, "c1").front().header.sequence(), 5U);
  EXPECT_EQ(broker_->of(v1::RESULT, "c1").front().header.sequence(), 6U);
}

TEST_F(WorkerTest, CallBeyondTwiceTheCapacityIsBusyAndMayBeTriedAgain) {
  ScriptedService& service = start_scripted(1);
  std::vector<CallPtr> kept;
  service.say = [&](const CallPtr& call, const echo::SayRequest&) { kept.push_back(call); };
  broker_->call("c1", "echo.say", say(""));
  broker_->call("c2", "echo.say", say(""));
  broker_->call("c3", "echo.say", say(""));
  EXPECT_EQ(only_error("c3").code(), -32012);
  EXPECT_EQ(kept.size(), 2U);
  kept[0]->finish(echo::SayResponse());
  ASSERT_TRUE(until_received(v1::RESULT, "c1"));
  broker_->call("c3", "echo.say", say(""));
  ASSERT_TRUE(until_received(v1::ACCEPTED, "c3"));
  EXPECT_EQ(kept.size(), 3U);
}

TEST_F(WorkerTest, AttachesAgainToANewBrokerAndDeliversWhatItHad) {
  auto owned = std::make_unique<ScriptedService>(16);
  ScriptedService& service = *owned;
  const std::chrono::milliseconds heartbeat_timeout(2000);
  start(std::move(owned), std::chrono::seconds(60), heartbeat_timeout);
  CallPtr unary;
  CallPtr stream;
  service.say = [&](const CallPtr& call, const echo::SayRequest&) { unary = call; };
  service.count = [&](const CallPtr& call, const echo::CountRequest&) {
    stream = call;
    call->send(counted(1));
  };
  broker_->call("c1", "echo.say", say(""));
  broker_->call("c2", "echo.count", echo::CountRequest());
  ASSERT_TRUE(until([&] { return unary && broker_->count(v1::ITEM, "c2") == 1; }));

  broker_.reset();
  stream->send(counted(2));
  unary->finish(echo::SayResponse());
  for (int i = 0; i < 20; ++i) {
    turn();
  }
  broker_ = std::make_unique<FakeBroker>(endpoint_, heartbeat_timeout);
  ASSERT_TRUE(until([&] { return broker_->attached(); }));
  const auto& calls = broker_->ready().calls();
  EXPECT_NE(std::find(calls.begin(), calls.end(), "c2"), calls.end());
  stream->finish(count_result(2));
  ASSERT_TRUE(until_received(v1::RESULT, "c2"));

  // c1 had ended, with an answer that was given to the old connection: it comes unasked too.
  ASSERT_TRUE(until_received(v1::RESULT, "c1"));
  broker_->call("c2", "echo.count", echo::CountRequest(),
                [](v1::Header& header) { header.mutable_resume()->set_sequence(1); });
  ASSERT_TRUE(until_received(v1::ACCEPTED, "c2"));
  settle();
  std::vector<std::uint64_t> sequences;
  for (const Received& received : broker_->of_call("c2")) {
    if (received.header.sequence() != 0) {
      sequences.push_back(received.header.sequence());
    }
  }
  ASSERT_GE(sequences.size(), 2U);
  EXPECT_EQ(sequences[sequences.size() - 2], 2U);
  EXPECT_EQ(sequences.back(), 3U);
  EXPECT_EQ(service.runs, 2);
}

TEST_F(WorkerTest, DrainLetsCallsFinishAndThenLeaves) {
  ScriptedService& service = start_scripted();
  CallPtr kept;
  service.say = [&](const CallPtr& call, const echo::SayRequest&) { kept = call; };
  broker_->call("c1", "echo.say", say(""));
  ASSERT_TRUE(until([&] { return kept != nullptr; }));
  int done = 0;
  worker_->drain([&] { ++done; });
  ASSERT_TRUE(until([&] { return broker_->count(v1::DRAIN) == 1; }));
  for (int i = 0; i < 50; ++i) {
    turn();
  }
  EXPECT_EQ(done, 0);
  kept->finish(echo::SayResponse());
  ASSERT_TRUE(until([&] { return done == 1 && broker_->count(v1::GOODBYE) == 1; }));
  EXPECT_EQ(broker_->count(v1::RESULT, "c1"), 1U);
}

TEST_F(WorkerTest, DrainFailsWhatIsLeftAfterItsTimeout) {
  ScriptedService& service = start_scripted(16, std::chrono::seconds(0));
  CallPtr kept;
  service.say = [&](const CallPtr& call, const echo::SayRequest&) { kept = call; };
  broker_->call("c1", "echo.say", say(""));
  ASSERT_TRUE(until([&] { return kept != nullptr; }));
  bool done = false;
  worker_->drain([&] { done = true; });
  EXPECT_EQ(only_error("c1").code(), -32010);
  EXPECT_TRUE(until([&] { return done; }));
}

TEST_F(WorkerTest, LeavesWhenABrokerAsks) {
  start_scripted();
  v1::Header header;
  header.set_kind(v1::DRAIN);
  broker_->send(header);
  EXPECT_TRUE(
      until([&] { return broker_->count(v1::DRAIN) == 1 && broker_->count(v1::GOODBYE) == 1; }));
}

TEST_F(WorkerTest, PublishesEvents) {
  start_scripted();
  google::protobuf::Struct data;
  (*data.mutable_fields())["who"].set_string_value("alice");
  ASSERT_TRUE(until([&] {
    worker_->publish("echo.said", data);  // until the worker knows that it is attached
    return broker_->count(v1::EVENT) > 0;
  }));
  v1::Event event;
  ASSERT_TRUE(event.ParseFromString(broker_->of(v1::EVENT).front().body));
  EXPECT_EQ(event.topic(), "echo.said");
  EXPECT_EQ(event.data().fields().at("who").string_value(), "alice");
  EXPECT_GT(event.timestamp().seconds(), 0);
}

TEST_F(WorkerTest, MayBeDestroyedWithCallsInProgress) {
  ScriptedService& service = start_scripted();
  CallPtr kept;
  service.say = [&](const CallPtr& call, const echo::SayRequest&) {
    kept = call;
    call->on_cancel([call](const Error&) {});
  };
  broker_->call("c1", "echo.say", say(""));
  ASSERT_TRUE(until([&] { return kept != nullptr; }));
  worker_.reset();
  EXPECT_TRUE(kept->ended());
  kept->finish(echo::SayResponse());
  EXPECT_EQ(kept.use_count(), 1);
}

}  // namespace
}  // namespace runbus::worker
