#include "gateway/rpc_session.h"

#include <gmock/gmock.h>

#include "tests/unit/gateway/rpc_session_fixture.h"

namespace runbus::gateway {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;
using testing::StartsWith;

// JSON-RPC 2.0 §7. Params and results of our services are objects; by position the fields come in
// order.
TEST_F(RpcSessionTest, Section7PositionalParameters) {
  session->on_message(R"({"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1})");
  const Sent call = bus.port.take(v1::CALL);
  EXPECT_EQ(bus.json(call), R"({"minuend":42,"subtrahend":23})");
  bus.result(call, 1, R"({"difference":19})");
  EXPECT_THAT(sink.take(), ElementsAre(R"({"jsonrpc":"2.0","result":{"difference":19},"id":1})"));
  EXPECT_THAT(exchange(R"({"jsonrpc": "2.0", "method": "subtract", "params": [23, 42], "id": 2})",
                       R"({"difference":-19})"),
              ElementsAre(R"({"jsonrpc":"2.0","result":{"difference":-19},"id":2})"));
}

TEST_F(RpcSessionTest, Section7NamedParameters) {
  for (
      const char* text :
      {R"({"jsonrpc": "2.0", "method": "subtract", "params": {"subtrahend": 23, "minuend": 42}, "id": 3})",
       R"({"jsonrpc": "2.0", "method": "subtract", "params": {"minuend": 42, "subtrahend": 23}, "id": 3})"}) {
    session->on_message(text);
    const Sent call = bus.port.take(v1::CALL);
    EXPECT_EQ(bus.json(call), R"({"minuend":42,"subtrahend":23})");
    bus.result(call, 1, R"({"difference":19})");
    EXPECT_THAT(sink.take(), ElementsAre(R"({"jsonrpc":"2.0","result":{"difference":19},"id":3})"));
  }
}

TEST_F(RpcSessionTest, Section7Notification) {
  EXPECT_FALSE(
      session->on_message(R"({"jsonrpc": "2.0", "method": "update", "params": [1,2,3,4,5]})"));
  bus.result(bus.port.take(v1::CALL), 1, "{}");
  EXPECT_FALSE(session->on_message(R"({"jsonrpc": "2.0", "method": "foobar"})"));
  EXPECT_THAT(sink.take(), IsEmpty());
  EXPECT_EQ(session->calls_in_flight(), 0U);
}

TEST_F(RpcSessionTest, Section7UnknownMethod) {
  EXPECT_THAT(send(R"({"jsonrpc": "2.0", "method": "foobar", "id": "1"})"),
              ElementsAre(IsError(-32601, "\"1\"")));
}

TEST_F(RpcSessionTest, Section7InvalidJson) {
  EXPECT_THAT(send(R"({"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz])"),
              ElementsAre(IsError(-32700, "null")));
}

TEST_F(RpcSessionTest, Section7InvalidRequest) {
  EXPECT_THAT(send(R"({"jsonrpc": "2.0", "method": 1, "params": "bar"})"),
              ElementsAre(IsError(-32600, "null")));
}

TEST_F(RpcSessionTest, Section7BatchOfInvalidJson) {
  EXPECT_THAT(
      send(
          R"([{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"}, {"jsonrpc": "2.0", "method")"),
      ElementsAre(IsError(-32700, "null")));
}

TEST_F(RpcSessionTest, Section7EmptyBatch) {
  EXPECT_THAT(send("[]"), ElementsAre(IsError(-32600, "null")));
}

TEST_F(RpcSessionTest, Section7BatchesOfNoRequests) {
  EXPECT_THAT(send("[1]"), ElementsAre(AllOf(StartsWith("[{\"jsonrpc\""), HasSubstr("-32600"),
                                             HasSubstr("\"id\":null}]"))));
  const auto frames = send("[1,2,3]");
  ASSERT_THAT(frames, SizeIs(1));
  std::size_t errors = 0;
  for (std::size_t at = frames[0].find("-32600"); at != std::string::npos;
       at = frames[0].find("-32600", at + 1)) {
    ++errors;
  }
  EXPECT_EQ(errors, 3U);
}

TEST_F(RpcSessionTest, Section7Batch) {
  EXPECT_TRUE(session->on_message(R"([
        {"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},
        {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]},
        {"jsonrpc": "2.0", "method": "subtract", "params": [42,23], "id": "2"},
        {"foo": "boo"},
        {"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},
        {"jsonrpc": "2.0", "method": "get_data", "id": "9"}
    ])"));
  const Sent sum = bus.port.take(v1::CALL);
  const Sent hello = bus.port.take(v1::CALL);
  const Sent subtract = bus.port.take(v1::CALL);
  const Sent data = bus.port.take(v1::CALL);
  EXPECT_THAT(sink.frames, IsEmpty());  // all run at once, the array waits for the last
  bus.result(data, 1, R"({"data":5})");
  bus.result(subtract, 1, R"({"difference":19})");
  bus.result(hello, 1, "{}");
  EXPECT_THAT(sink.frames, IsEmpty());
  bus.result(sum, 1, R"({"sum":7})");
  const auto frames = sink.take();
  ASSERT_THAT(frames, SizeIs(1));
  EXPECT_THAT(frames[0],
              AllOf(StartsWith("[{"), HasSubstr(R"({"jsonrpc":"2.0","result":{"sum":7},"id":"1"})"),
                    HasSubstr(R"({"jsonrpc":"2.0","result":{"difference":19},"id":"2"})"),
                    HasSubstr(R"({"jsonrpc":"2.0","result":{"data":5},"id":"9"})")));
  EXPECT_THAT(frames[0], AllOf(HasSubstr("-32600"), HasSubstr("-32601"), HasSubstr(R"("id":null})"),
                               HasSubstr(R"("id":"5"})")));
}

TEST_F(RpcSessionTest, Section7BatchOfNotifications) {
  EXPECT_FALSE(session->on_message(R"([
        {"jsonrpc": "2.0", "method": "notify_sum", "params": [1,2,4]},
        {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]}])"));
  bus.result(bus.port.take(v1::CALL), 1, "{}");
  bus.result(bus.port.take(v1::CALL), 1, "{}");
  EXPECT_THAT(sink.take(), IsEmpty());
}

TEST_F(RpcSessionTest, NullIdsAreAnsweredAndMayRepeat) {
  session->on_message(R"({"jsonrpc":"2.0","method":"sum","id":null})");
  session->on_message(R"({"jsonrpc":"2.0","method":"sum","id":null})");
  bus.result(bus.port.take(v1::CALL), 1, R"({"sum":1})");
  bus.result(bus.port.take(v1::CALL), 1, R"({"sum":2})");
  EXPECT_THAT(sink.take(), ElementsAre(R"({"jsonrpc":"2.0","result":{"sum":1},"id":null})",
                                       R"({"jsonrpc":"2.0","result":{"sum":2},"id":null})"));
}

TEST_F(RpcSessionTest, RefusesAnIdThatIsInFlightAndTakesItAfterwards) {
  const std::string text = R"({"jsonrpc":"2.0","method":"sum","id":7})";
  session->on_message(text);
  EXPECT_THAT(send(text), ElementsAre(IsError(-32600, "7")));
  EXPECT_EQ(bus.port.count(v1::CALL), 1U);
  bus.result(bus.port.take(v1::CALL), 1, R"({"sum":0})");
  EXPECT_THAT(sink.take(), SizeIs(1));
  EXPECT_THAT(exchange(text, R"({"sum":0})"), SizeIs(1));
}

TEST_F(RpcSessionTest, WrongParamsNeverReachTheBus) {
  EXPECT_THAT(send(R"({"jsonrpc":"2.0","method":"subtract","params":{"minuend":"x"},"id":1})"),
              ElementsAre(AllOf(IsError(-32602, "1"), HasSubstr("minuend"))));
  EXPECT_THAT(send(R"({"jsonrpc":"2.0","method":"subtract","params":{"other":1},"id":2})"),
              ElementsAre(AllOf(IsError(-32602, "2"), HasSubstr("other"))));
  EXPECT_THAT(send(R"({"jsonrpc":"2.0","method":"subtract","params":[1,2,3],"id":3})"),
              ElementsAre(IsError(-32602, "3")));
  EXPECT_EQ(bus.port.count(v1::CALL), 0U);
}

TEST_F(RpcSessionTest, BoundsCallsAndBytesInFlight) {
  bus.config.max_calls = 2;
  session->on_message(R"({"jsonrpc":"2.0","method":"sum","id":1})");
  session->on_message(R"({"jsonrpc":"2.0","method":"sum","id":2})");
  EXPECT_THAT(send(R"({"jsonrpc":"2.0","method":"sum","id":3})"),
              ElementsAre(AllOf(IsError(-32002, "3"), HasSubstr(R"("limit":"calls")"),
                                HasSubstr(R"("retryable":true)"))));
  bus.result(bus.port.take(v1::CALL), 1, R"({"sum":0})");
  sink.take();
  bus.config.max_request_bytes = 1;
  EXPECT_THAT(send(R"({"jsonrpc":"2.0","method":"sum","params":[1,2],"id":3})"),
              ElementsAre(AllOf(IsError(-32002, "3"), HasSubstr(R"("limit":"request_bytes")"))));
}

TEST_F(RpcSessionTest, ItemsBecomeNotificationsWithTheIdOfTheCall) {
  session->on_message(R"({"jsonrpc":"2.0","method":"count","params":{"value":2},"id":"c"})");
  const Sent call = bus.port.take(v1::CALL);
  EXPECT_EQ(call.header.credit(), bus.config.stream_window);
  bus.accept(call);
  bus.item(call, 1, R"({"number":{"value":1}})");
  bus.item(call, 2, R"({"number":{"value":2}})");
  bus.result(call, 3, R"({"done":{"total":3}})");
  EXPECT_THAT(
      sink.take(),
      ElementsAre(R"({"jsonrpc":"2.0","method":"count.number","params":{"call":"c","value":1}})",
                  R"({"jsonrpc":"2.0","method":"count.number","params":{"call":"c","value":2}})",
                  R"({"jsonrpc":"2.0","result":{"total":3},"id":"c"})"));
}

TEST_F(RpcSessionTest, ItemsOfANotificationHaveNoCall) {
  session->on_message(R"({"jsonrpc":"2.0","method":"count"})");
  const Sent call = bus.port.take(v1::CALL);
  bus.accept(call);
  bus.item(call, 1, R"({"number":{"value":1}})");
  bus.result(call, 2, R"({"done":{"total":1}})");
  EXPECT_THAT(sink.take(),
              ElementsAre(R"({"jsonrpc":"2.0","method":"count.number","params":{"value":1}})"));
}

TEST_F(RpcSessionTest, ServerSentEventsCarryTheParams) {
  sink.wanted = Sink::Items::kServerSentEvents;
  session->on_message(R"({"jsonrpc":"2.0","method":"count","id":1})");
  const Sent call = bus.port.take(v1::CALL);
  bus.accept(call);
  bus.item(call, 1, R"({"number":{"value":1}})");
  EXPECT_THAT(sink.take(), ElementsAre("event: count.number\ndata: {\"call\":1,\"value\":1}\n\n"));
}

TEST_F(RpcSessionTest, AMalformedItemEndsTheCallWithAnError) {
  session->on_message(R"({"jsonrpc":"2.0","method":"count","id":1})");
  const Sent call = bus.port.take(v1::CALL);
  bus.accept(call);
  v1::Header header;
  header.set_kind(v1::ITEM);
  header.set_call_id(call.header.call_id());
  header.set_sequence(1);
  zmq::message_t garbage(std::string("\xff\xff\xff"));
  bus.client.on_message(bus.port, header, garbage);
  EXPECT_THAT(sink.take(), ElementsAre(IsError(-32603, "1")));
  EXPECT_EQ(bus.port.count(v1::CANCEL), 1U);
}

TEST_F(RpcSessionTest, AResultThatIsTooLargeAsJsonIsAnErrorThatNamesTheLimit) {
  bus.config.max_json_bytes = 10;
  session->on_message(R"({"jsonrpc":"2.0","method":"subtract","params":[42,23],"id":1})");
  const Sent call = bus.port.take(v1::CALL);
  bus.accept(call);
  bus.result(call, 1, R"({"difference":1234567})");
  EXPECT_THAT(sink.take(), ElementsAre(AllOf(IsError(-32009, "1"), HasSubstr("reply_size"))));
}

TEST_F(RpcSessionTest, AnItemThatIsTooLargeAsJsonEndsTheCall) {
  bus.config.max_json_bytes = 12;
  session->on_message(R"({"jsonrpc":"2.0","method":"count","id":1})");
  const Sent call = bus.port.take(v1::CALL);
  bus.accept(call);
  bus.item(call, 1, R"({"number":{"value":1}})");
  bus.item(call, 2, R"({"number":{"value":1234567}})");
  EXPECT_THAT(sink.take(), ElementsAre(HasSubstr("\"value\":1}"), IsError(-32603, "1")));
  EXPECT_EQ(bus.port.count(v1::CANCEL), 1U);
}

TEST(RpcSessionStart, AMethodIsUnavailableRatherThanUnknownBeforeAnyWorkerHasCome) {
  FakeBus bus;
  FakeSink sink;
  bus.services(bus.port, {});
  ASSERT_TRUE(bus.run_until([&] { return !bus.client.serves_anything(); }));
  const auto session = bus.session(sink);
  session->on_message(R"({"jsonrpc":"2.0","method":"subtract","params":[42,23],"id":1})");
  EXPECT_THAT(sink.take(), ElementsAre(IsError(-32003, "1")));
  bus.services(bus.port, {test::calc_offer()});
  session->on_message(R"({"jsonrpc":"2.0","method":"no.such","id":2})");
  EXPECT_THAT(sink.take(), ElementsAre(IsError(-32601, "2")));
  session->close();
}

TEST_F(RpcSessionTest, StreamsOfAConnectionShareABoundedWindow) {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < bus.config.max_calls; ++i) {
    session->on_message(R"({"jsonrpc":"2.0","method":"count","id":)" + std::to_string(i) + "}");
    const Sent call = bus.port.take(v1::CALL);
    EXPECT_GE(call.header.credit(), bus.config.min_stream_window);
    sum += call.header.credit();
  }
  EXPECT_LE(sum, bus.config.connection_window + 256 * bus.config.min_stream_window);
}

TEST_F(RpcSessionTest, StreamsOfAllConnectionsShareABoundedWindow) {
  bus.config.gateway_window = 1U << 20U;
  const auto credit = [this](int id) {
    session->on_message(R"({"jsonrpc":"2.0","method":"count","id":)" + std::to_string(id) + "}");
    return bus.port.take(v1::CALL).header.credit();
  };
  const std::uint64_t first = credit(0);
  EXPECT_EQ(first, 256U << 10U);
  std::uint64_t sum = first;
  for (int i = 1; i < 100; ++i) {
    sum += credit(i);
  }
  EXPECT_LE(sum, bus.config.gateway_window + 100 * bus.config.min_stream_window);
  session->close();
  session = bus.session(sink);
  EXPECT_EQ(credit(0), first);
}

TEST_F(RpcSessionTest, CancelRequestCancelsTheCallItNames) {
  session->on_message(R"({"jsonrpc":"2.0","method":"count","id":"x"})");
  const Sent call = bus.port.take(v1::CALL);
  bus.accept(call);
  EXPECT_THAT(send(R"({"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":"x"}})"),
              IsEmpty());
  const Sent cancel = bus.port.take(v1::CANCEL);
  EXPECT_EQ(cancel.header.call_id(), call.header.call_id());
  EXPECT_EQ(cancel.header.method(), "");
  EXPECT_EQ(cancel.header.worker_id(), "worker-1");
  bus.error(call, ErrorCode::kCancelled, 1);
  EXPECT_THAT(sink.take(), ElementsAre(IsError(-32011, "\"x\"")));
}

TEST_F(RpcSessionTest, CancellingAnUnknownCallIsAnErrorOnlyWhenAsked) {
  EXPECT_THAT(send(R"({"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":5}})"), IsEmpty());
  EXPECT_THAT(send(R"({"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":5},"id":6})"),
              ElementsAre(IsError(-32007, "6")));
  EXPECT_THAT(send(R"({"jsonrpc":"2.0","method":"$/cancelRequest","params":{},"id":7})"),
              ElementsAre(IsError(-32602, "7")));
}

TEST_F(RpcSessionTest, InputReachesAClientStreamingCallAlone) {
  session->on_message(R"({"jsonrpc":"2.0","method":"upload","id":1})");
  session->on_message(R"({"jsonrpc":"2.0","method":"sum","id":2})");
  const Sent call = bus.port.take(v1::CALL);
  bus.accept(call);
  EXPECT_THAT(
      send(R"({"jsonrpc":"2.0","method":"$/input","params":{"id":1,"params":{"value":9}},"id":3})"),
      ElementsAre(R"({"jsonrpc":"2.0","result":{},"id":3})"));
  const Sent input = bus.port.take(v1::INPUT);
  EXPECT_EQ(input.header.call_id(), call.header.call_id());
  EXPECT_EQ(input.body, std::string("\x08\x09"));
  EXPECT_THAT(send(R"({"jsonrpc":"2.0","method":"$/input","params":{"id":2,"params":{}},"id":4})"),
              ElementsAre(IsError(-32602, "4")));
}

TEST_F(RpcSessionTest, ErrorsAreWordedByTheCatalogue) {
  session->on_message(R"({"jsonrpc":"2.0","method":"sum","id":1})");
  bus.error(bus.port.take(v1::CALL), ErrorCode::kQuota, 1);
  EXPECT_THAT(
      sink.take(),
      ElementsAre(R"({"jsonrpc":"2.0","error":{"code":-32009,"message":"Quota exceeded","data":)"
                  R"({"kind":"quota","retryable":false,"detail":""}},"id":1})"));
}

TEST_F(RpcSessionTest, InternalMethodsAreNotFound) {
  EXPECT_THAT(send(R"({"jsonrpc":"2.0","method":"bus.history","params":{},"id":1})"),
              ElementsAre(IsError(-32601, "1")));
}

TEST_F(RpcSessionTest, DescribesAllMethods) {
  const auto frames = send(R"({"jsonrpc":"2.0","method":"rpc.discover","id":1})");
  ASSERT_THAT(frames, SizeIs(1));
  EXPECT_THAT(frames[0],
              AllOf(HasSubstr("\"openrpc\""), HasSubstr("connection.ping"), HasSubstr("subtract")));
}

TEST_F(RpcSessionTest, AnswersForItself) {
  EXPECT_THAT(send(R"({"jsonrpc":"2.0","method":"connection.ping","id":1})"),
              ElementsAre(HasSubstr(R"("pong":true)")));
  EXPECT_THAT(send(R"({"jsonrpc":"2.0","method":"connection.info","id":1})"),
              ElementsAre(AllOf(HasSubstr(R"("principal":"tester")"),
                                HasSubstr(R"("calls_in_flight":0)"))));
  EXPECT_EQ(bus.port.sent.size(), 0U);
}

TEST_F(RpcSessionTest, ClientsPublishUnderUserOnly) {
  EXPECT_THAT(
      send(
          R"({"jsonrpc":"2.0","method":"events.publish","params":{"topic":"session.closed"},"id":1})"),
      ElementsAre(IsError(-32001, "1")));
  EXPECT_THAT(
      send(R"({"jsonrpc":"2.0","method":"events.publish","params":{"topic":"user..x"},"id":2})"),
      ElementsAre(IsError(-32602, "2")));
  EXPECT_THAT(
      send(
          R"({"jsonrpc":"2.0","method":"events.publish","params":{"topic":"user.x","data":{"a":")" +
          std::string(70'000, 'x') + R"("}},"id":2})"),
      ElementsAre(AllOf(IsError(-32005, "2"), HasSubstr("event_bytes"))));
  EXPECT_EQ(bus.port.count(v1::CALL), 0U);
  EXPECT_THAT(
      send(
          R"({"jsonrpc":"2.0","method":"events.publish","params":{"topic":"user.x","data":{"a":1}},"id":3})"),
      IsEmpty());  // before a broker has it
  const Sent call = bus.port.take(v1::CALL);
  EXPECT_EQ(call.header.principal(), "tester");
  EXPECT_EQ(call.header.method(), "bus.publish");
  v1::Published published;
  published.set_epoch("e1");
  published.set_offset(7);
  bus.answer(call, published);
  EXPECT_THAT(sink.take(),
              ElementsAre(R"({"jsonrpc":"2.0","result":{"epoch":"e1","offset":7},"id":3})"));
  EXPECT_THAT(
      send(R"({"jsonrpc":"2.0","method":"events.publish","params":{"topic":"user.x"},"id":4})"),
      IsEmpty());
  bus.error(bus.port.take(v1::CALL), ErrorCode::kRateLimit);
  EXPECT_THAT(sink.take(), ElementsAre(IsError(-32002, "4")));
}

TEST_F(RpcSessionTest, WithoutABrokerAMethodNobodyKnowsIsUnavailable) {
  bus.port.up = false;
  bus.client.on_disconnected(bus.port);
  EXPECT_THAT(send(R"({"jsonrpc":"2.0","method":"foobar","id":1})"),
              ElementsAre(IsError(-32003, "1")));
}

TEST_F(RpcSessionTest, ABatchThatGrowsTooLargeLosesAnswersNotItsForm) {
  bus.config.write_queue_bytes = 120;
  session->on_message(
      R"([{"jsonrpc":"2.0","method":"sum","id":1},{"jsonrpc":"2.0","method":"sum","id":2},)"
      R"({"jsonrpc":"2.0","method":"sum","id":3}])");
  for (int i = 0; i < 3; ++i) {
    bus.result(bus.port.take(v1::CALL), 1, R"({"sum":1})");
  }
  const auto frames = sink.take();
  ASSERT_THAT(frames, SizeIs(1));
  EXPECT_THAT(frames[0], AllOf(StartsWith("["), HasSubstr("-32009"), HasSubstr("batch_bytes")));
  EXPECT_EQ(frames[0].back(), ']');
}

}  // namespace
}  // namespace runbus::gateway
