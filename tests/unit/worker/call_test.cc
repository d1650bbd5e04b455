#include <stdexcept>

#include "tests/unit/worker/worker_fixture.h"
#include "tools/examples/echo_cpp/echo_service.h"

// One call as its caller sees it on the bus.
namespace runbus::worker {
namespace {

using CallTest = WorkerFixture;

std::uint64_t now_ms() {
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(
                                        std::chrono::system_clock::now().time_since_epoch())
                                        .count());
}

TEST_F(CallTest, AnAnswerAtOnceSaysThatAHarmlessCallWasAccepted) {
  start_scripted();
  broker_->call("c1", "echo.say", say("hello"));
  ASSERT_TRUE(until_received(v1::RESULT, "c1"));
  settle();
  const auto answer = broker_->of_call("c1");
  ASSERT_EQ(answer.size(), 1U);
  EXPECT_EQ(answer[0].header.origin(), "gateway-1");
  EXPECT_EQ(answer[0].header.sequence(), 1U);
}

TEST_F(CallTest, UnaryCallIsAcceptedThenAnswered) {
  ScriptedService& service = start_scripted();
  CallPtr waiting;
  service.say = [&](const CallPtr& call, const echo::SayRequest&) { waiting = call; };
  broker_->call("c1", "echo.say", say("hello"));
  ASSERT_TRUE(until_received(v1::ACCEPTED, "c1"));
  echo::SayResponse reply;
  reply.set_text("hello");
  waiting->finish(reply);
  waiting.reset();
  ASSERT_TRUE(until_received(v1::RESULT, "c1"));
  const auto answer = broker_->of_call("c1");
  ASSERT_EQ(answer.size(), 2U);
  EXPECT_EQ(answer[0].header.kind(), v1::ACCEPTED);
  EXPECT_EQ(answer[0].header.worker_id(), worker_->id());
  EXPECT_EQ(answer[0].header.origin(), "gateway-1");
  EXPECT_EQ(answer[1].header.origin(), "gateway-1");
  EXPECT_EQ(answer[1].header.sequence(), 1U);
  echo::SayResponse response;
  ASSERT_TRUE(response.ParseFromString(answer[1].body));
  EXPECT_EQ(response.text(), "hello");
}

TEST_F(CallTest, HandlerSeesWhoCallsAndInWhichSession) {
  ScriptedService& service = start_scripted();
  std::string seen;
  service.say = [&](const CallPtr& call, const echo::SayRequest&) {
    seen = call->id() + " " + call->method() + " " + call->session_id() + " " + call->principal();
    EXPECT_EQ(call->deadline(), std::chrono::system_clock::time_point::max());
    EXPECT_EQ(call->resume(), nullptr);
    call->finish(echo::SayResponse());
  };
  broker_->call("c1", "echo.say", say(""), [](v1::Header& header) {
    header.set_session_id("s1");
    header.set_principal("alice");
  });
  ASSERT_TRUE(until_received(v1::RESULT, "c1"));
  EXPECT_EQ(seen, "c1 echo.say s1 alice");
}

TEST_F(CallTest, UnreadableBodyIsInvalidParamsAndNotAccepted) {
  ScriptedService& service = start_scripted();
  v1::Header header;
  header.set_kind(v1::CALL);
  header.set_call_id("c1");
  header.set_method("echo.say");
  broker_->send(header, "\xff\xff\xff");
  const v1::ErrorBody error = only_error("c1");
  EXPECT_EQ(error.code(), -32602);
  EXPECT_NE(error.detail().find("example.echo.v1.SayRequest"), std::string::npos);
  EXPECT_EQ(broker_->count(v1::ACCEPTED, "c1"), 0U);
  EXPECT_EQ(service.runs, 0);
}

TEST_F(CallTest, UnknownMethodIsNotFound) {
  start_scripted();
  broker_->call("c1", "echo.shout", say(""));
  EXPECT_EQ(only_error("c1").code(), -32601);
}

TEST_F(CallTest, ExceptionOfAHandlerIsInternalAndStaysPrivate) {
  ScriptedService& service = start_scripted();
  service.say = [](const CallPtr&, const echo::SayRequest&) { throw std::runtime_error("secret"); };
  broker_->call("c1", "echo.say", say(""));
  const v1::ErrorBody error = only_error("c1");
  EXPECT_EQ(error.code(), -32603);
  EXPECT_EQ(error.detail().find("secret"), std::string::npos);
}

TEST_F(CallTest, CallThatIsLetGoWithoutAnEndIsInternal) {
  ScriptedService& service = start_scripted();
  service.say = [](const CallPtr&, const echo::SayRequest&) {};
  broker_->call("c1", "echo.say", say(""));
  EXPECT_EQ(only_error("c1").code(), -32603);
}

TEST_F(CallTest, OnlyTheFirstEndCounts) {
  ScriptedService& service = start_scripted();
  service.say = [](const CallPtr& call, const echo::SayRequest&) {
    call->finish(echo::SayResponse());
    EXPECT_TRUE(call->ended());
    call->fail(make_error(ErrorCode::kConflict));
    call->finish(echo::SayResponse());
  };
  broker_->call("c1", "echo.say", say(""));
  ASSERT_TRUE(until_received(v1::RESULT, "c1"));
  settle();
  EXPECT_EQ(broker_->of_call("c1").size(), 1U);
}

TEST_F(CallTest, AnswerLargerThanTheBusIsAnErrorThatSaysSo) {
  ScriptedService& service = start_scripted();
  service.say = [](const CallPtr& call, const echo::SayRequest&) {
    echo::SayResponse response;
    response.set_text(std::string(2U << 20U, 'x'));
    call->finish(response);
  };
  broker_->call("c1", "echo.say", say(""));
  const v1::ErrorBody error = only_error("c1");
  EXPECT_EQ(error.code(), -32009);
  EXPECT_EQ(error.limit(), "body_size");
}

TEST_F(CallTest, DetailThatIsNotUtf8StillArrives) {
  ScriptedService& service = start_scripted();
  service.say = [](const CallPtr& call, const echo::SayRequest&) {
    call->fail(make_error(ErrorCode::kNotFound, "no file \xff\xfe.txt"));
  };
  broker_->call("c1", "echo.say", say(""));
  EXPECT_EQ(only_error("c1").detail(), "no file ??.txt");
}

TEST_F(CallTest, StreamSendsNoMoreThanWasGranted) {
  start(std::make_unique<example::EchoService>(io_));
  echo::CountRequest request;
  request.set_to(10);
  request.set_padding(100);
  broker_->call("c1", "echo.count", request, [](v1::Header& header) { header.set_credit(350); });
  ASSERT_TRUE(until_received(v1::ITEM, "c1", 3));
  settle();
  EXPECT_EQ(broker_->count(v1::ITEM, "c1"), 3U);
  EXPECT_LE(broker_->item_bytes("c1"), 350U);
  broker_->credit("c1", 600, 3);
  ASSERT_TRUE(until_received(v1::ITEM, "c1", 5));
  settle();
  EXPECT_LE(broker_->item_bytes("c1"), 600U);
  broker_->credit("c1", 1U << 20U, 5);
  ASSERT_TRUE(until_received(v1::RESULT, "c1"));
  const auto items = broker_->of(v1::ITEM, "c1");
  ASSERT_EQ(items.size(), 10U);
  for (std::size_t i = 0; i < items.size(); ++i) {
    echo::CountItem item;
    ASSERT_TRUE(item.ParseFromString(items[i].body));
    EXPECT_EQ(item.counted().number(), i + 1);
    EXPECT_EQ(items[i].header.sequence(), i + 1);
  }
  EXPECT_EQ(broker_->of(v1::RESULT, "c1").front().header.sequence(), 11U);
}

TEST_F(CallTest, QueuedItemsComeBeforeTheResult) {
  ScriptedService& service = start_scripted();
  service.count = [](const CallPtr& call, const echo::CountRequest&) {
    call->send(counted(1, 100), 17);
    call->send(counted(2, 100), 18);
    call->finish(count_result(2));
  };
  broker_->call("c1", "echo.count", echo::CountRequest(),
                [](v1::Header& header) { header.set_credit(150); });
  ASSERT_TRUE(until_received(v1::ITEM, "c1"));
  settle();
  EXPECT_EQ(broker_->count(v1::RESULT, "c1"), 0U);
  EXPECT_EQ(broker_->of(v1::ITEM, "c1").front().header.offset(), 17U);
  broker_->credit("c1", 1000, 1);
  ASSERT_TRUE(until_received(v1::RESULT, "c1"));
  EXPECT_EQ(broker_->count(v1::ITEM, "c1"), 2U);
}

TEST_F(CallTest, CancelReplacesAResultThatWaitsForCredit) {
  ScriptedService& service = start_scripted();
  service.count = [](const CallPtr& call, const echo::CountRequest&) {
    call->send(counted(1, 100));
    call->send(counted(2, 100));
    call->finish(count_result(2));
  };
  broker_->call("c1", "echo.count", echo::CountRequest(),
                [](v1::Header& header) { header.set_credit(150); });
  ASSERT_TRUE(until_received(v1::ITEM, "c1"));
  broker_->cancel("c1");
  EXPECT_EQ(only_error("c1").code(), -32011);
  EXPECT_EQ(broker_->of(v1::ERROR, "c1").front().header.sequence(), 2U);
  EXPECT_EQ(broker_->count(v1::RESULT, "c1"), 0U);
}

TEST_F(CallTest, HandlerThatIgnoresCreditIsFailed) {
  ScriptedService& service = start_scripted();
  CallPtr kept;
  service.count = [&](const CallPtr& call, const echo::CountRequest&) {
    kept = call;
    for (std::uint32_t i = 0; i < 100 && !call->ended(); ++i) {
      call->send(counted(i, 100'000));
    }
  };
  broker_->call("c1", "echo.count", echo::CountRequest(),
                [](v1::Header& header) { header.set_credit(150'000); });
  EXPECT_EQ(only_error("c1").code(), -32603);
  EXPECT_EQ(broker_->count(v1::ITEM, "c1"), 1U);
}

TEST_F(CallTest, ItemThatNoWindowCanHoldIsAnErrorInsteadOfAWaitForEver) {
  ScriptedService& service = start_scripted();
  CallPtr kept;
  service.count = [&](const CallPtr& call, const echo::CountRequest&) {
    kept = call;
    call->send(counted(1, 100));
    call->send(counted(2, 500));
  };
  broker_->call("c1", "echo.count", echo::CountRequest(),
                [](v1::Header& header) { header.set_credit(300); });
  ASSERT_TRUE(until_received(v1::ITEM, "c1"));
  settle();
  EXPECT_EQ(broker_->count(v1::ERROR, "c1"), 0U);
  broker_->credit("c1", broker_->item_bytes("c1") + 300, 1);
  EXPECT_EQ(only_error("c1").limit(), "window");
}

TEST_F(CallTest, CreditCallbackComesWhenCreditHasGrown) {
  ScriptedService& service = start_scripted();
  CallPtr kept;
  int called = 0;
  service.count = [&](const CallPtr& call, const echo::CountRequest&) {
    kept = call;
    EXPECT_EQ(call->credit(), 300U);
    call->on_credit([&] { ++called; });
    call->send(counted(1, 290));
    EXPECT_LT(call->credit(), 10U);
  };
  broker_->call("c1", "echo.count", echo::CountRequest(),
                [](v1::Header& header) { header.set_credit(300); });
  ASSERT_TRUE(until_received(v1::ITEM, "c1"));
  broker_->credit("c1", 300, 1);  // an acknowledgement alone
  settle();
  EXPECT_EQ(called, 0);
  broker_->credit("c1", 700, 1);
  ASSERT_TRUE(until([&] { return called == 1; }));
  EXPECT_GE(kept->credit(), 390U);
}

TEST_F(CallTest, CancelWithoutACallbackFailsTheCall) {
  ScriptedService& service = start_scripted();
  CallPtr kept;
  service.say = [&](const CallPtr& call, const echo::SayRequest&) { kept = call; };
  broker_->call("c1", "echo.say", say(""));
  broker_->cancel("c1");
  EXPECT_EQ(only_error("c1").code(), -32011);
  EXPECT_TRUE(kept->ended());
}

TEST_F(CallTest, CancelCallbackDecidesHowTheCallEnds) {
  ScriptedService& service = start_scripted();
  std::vector<ErrorCode> reasons;
  service.say = [&](const CallPtr& call, const echo::SayRequest& request) {
    call->on_cancel([&, call, text = request.text()](const Error& reason) {
      reasons.push_back(reason.code);
      echo::SayResponse response;
      response.set_text("half of " + text);
      call->finish(response);
    });
  };
  broker_->call("c1", "echo.say", say("it"));
  broker_->cancel("c1");
  ASSERT_TRUE(until_received(v1::RESULT, "c1"));
  broker_->call("c2", "echo.say", say("it"));
  broker_->cancel("c2", "$/gone");
  ASSERT_TRUE(until_received(v1::RESULT, "c2"));
  broker_->call("c3", "echo.say", say("it"));
  v1::Header header;
  header.set_kind(v1::CANCEL);
  header.set_call_id("c3");
  v1::ErrorBody gone;
  gone.set_code(static_cast<std::int32_t>(ErrorCode::kConnection));
  broker_->send(header, gone.SerializeAsString());
  ASSERT_TRUE(until_received(v1::RESULT, "c3"));
  EXPECT_EQ(reasons,
            (std::vector{ErrorCode::kCancelled, ErrorCode::kConnection, ErrorCode::kConnection}));
}

TEST_F(CallTest, DeadlineCancelsWithTimeout) {
  ScriptedService& service = start_scripted();
  CallPtr kept;
  service.say = [&](const CallPtr& call, const echo::SayRequest&) { kept = call; };
  const std::uint64_t deadline = now_ms() + 3000;
  broker_->call("c1", "echo.say", say(""),
                [&](v1::Header& header) { header.set_deadline_ms(deadline); });
  EXPECT_EQ(only_error("c1").code(), -32006);
  EXPECT_GE(now_ms() + 1, deadline);
  EXPECT_EQ(broker_->count(v1::ACCEPTED, "c1"), 1U);
}

TEST_F(CallTest, CallWhoseDeadlineHasPassedIsNotRun) {
  ScriptedService& service = start_scripted();
  broker_->call("c1", "echo.say", say(""),
                [](v1::Header& header) { header.set_deadline_ms(now_ms() - 1000); });
  EXPECT_EQ(only_error("c1").code(), -32006);
  EXPECT_EQ(service.runs, 0);
}

TEST_F(CallTest, DeadlineBeyondTheClockIsNone) {
  ScriptedService& service = start_scripted();
  service.say = [&](const CallPtr& call, const echo::SayRequest&) {
    EXPECT_EQ(call->deadline(), std::chrono::system_clock::time_point::max());
    call->finish(echo::SayResponse());
  };
  broker_->call("c1", "echo.say", say(""),
                [](v1::Header& header) { header.set_deadline_ms(~0ULL); });
  EXPECT_TRUE(until_received(v1::RESULT, "c1"));
}

TEST_F(CallTest, InputComesInOrderAlsoWhatCameBeforeTheCallback) {
  ScriptedService& service = start_scripted();
  CallPtr kept;
  service.chat = [&](const CallPtr& call, const echo::ChatRequest&) { kept = call; };
  broker_->call("c1", "echo.chat", echo::ChatRequest());
  echo::ChatRequest request;
  for (const char* text : {"a", "b"}) {
    request.set_text(text);
    broker_->input("c1", request);
  }
  ASSERT_TRUE(until([&] { return kept != nullptr; }));
  settle();
  std::string said;
  kept->on_input([&](const google::protobuf::Message& input) {
    said += static_cast<const echo::ChatRequest&>(input).text();
  });
  EXPECT_EQ(said, "");
  for (const char* text : {"c", "d"}) {
    request.set_text(text);
    broker_->input("c1", request);
  }
  EXPECT_TRUE(until([&] { return said.size() == 4; }));
  EXPECT_EQ(said, "abcd");
}

TEST_F(CallTest, EchoChatsUntilDone) {
  start(std::make_unique<example::EchoService>(io_));
  echo::ChatRequest request;
  request.set_text("one");
  broker_->call("c1", "echo.chat", request);
  request.set_text("two");
  broker_->input("c1", request);
  request.set_text("three");
  request.set_done(true);
  broker_->input("c1", request);
  ASSERT_TRUE(until_received(v1::RESULT, "c1"));
  std::string said;
  for (const Received& received : broker_->of(v1::ITEM, "c1")) {
    echo::ChatItem item;
    ASSERT_TRUE(item.ParseFromString(received.body));
    said += item.said().text() + " ";
  }
  EXPECT_EQ(said, "one two three ");
}

TEST_F(CallTest, UnreadableInputFailsTheCall) {
  ScriptedService& service = start_scripted();
  CallPtr kept;
  service.chat = [&](const CallPtr& call, const echo::ChatRequest&) { kept = call; };
  broker_->call("c1", "echo.chat", echo::ChatRequest());
  v1::Header header;
  header.set_kind(v1::INPUT);
  header.set_call_id("c1");
  broker_->send(header, "\xff\xff");
  EXPECT_EQ(only_error("c1").code(), -32602);
}

TEST_F(CallTest, InputThatNobodyReadsIsBounded) {
  ScriptedService& service = start_scripted();
  CallPtr kept;
  service.chat = [&](const CallPtr& call, const echo::ChatRequest&) { kept = call; };
  broker_->call("c1", "echo.chat", echo::ChatRequest());
  echo::ChatRequest request;
  request.set_text(std::string(1'000'000, 'x'));
  for (int i = 0; i < 18 && !(kept && kept->ended()); ++i) {
    broker_->input("c1", request);
    turn();
  }
  const v1::ErrorBody error = only_error("c1");
  EXPECT_EQ(error.code(), -32009);
  EXPECT_EQ(error.limit(), "input");
}

TEST_F(CallTest, ExceptionOfACallbackFailsTheCall) {
  ScriptedService& service = start_scripted();
  service.chat = [&](const CallPtr& call, const echo::ChatRequest&) {
    call->on_input([call](const google::protobuf::Message&) { throw std::runtime_error("bad"); });
  };
  broker_->call("c1", "echo.chat", echo::ChatRequest());
  broker_->input("c1", echo::ChatRequest());
  EXPECT_EQ(only_error("c1").code(), -32603);
}

}  // namespace
}  // namespace runbus::worker
