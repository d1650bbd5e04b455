// The fields that a session fills in: ids of sessions and of executions.
#include <gmock/gmock.h>

#include "runbus/v1/execution.pb.h"
#include "runbus/v1/session.pb.h"
#include "tests/unit/gateway/rpc_session_fixture.h"

namespace runbus::gateway {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// The execution and session services as they are announced by the real workers.
class RpcSessionFields : public RpcSessionTest {
 protected:
  RpcSessionFields() {
    const auto* execution =
        v1::CodeRequest::descriptor()->file()->FindServiceByName("ExecutionService");
    const auto* sessions =
        v1::OpenRequest::descriptor()->file()->FindServiceByName("SessionService");
    offers = {wire::make_offer(*sessions, 4), wire::make_offer(*execution, 4)};
    bus.services(bus.port, offers);
  }
  std::string session_of(const std::string& text) {
    session->on_message(text);
    const Sent call = bus.port.take(v1::CALL);
    EXPECT_THAT(bus.json(call), HasSubstr("\"" + call.header.session_id() + "\""));
    return call.header.session_id();
  }
  std::vector<v1::ServiceOffer> offers;
};

TEST_F(RpcSessionFields, ACallThatNamesNoSessionRunsInTheConnectionsOwn) {
  const std::string own = session_of(R"({"jsonrpc":"2.0","method":"session.info","id":1})");
  EXPECT_FALSE(own.empty());
  EXPECT_EQ(
      session_of(R"({"jsonrpc":"2.0","method":"session.info","params":{"session_id":""},"id":2})"),
      own);
  EXPECT_EQ(
      session_of(
          R"({"jsonrpc":"2.0","method":"session.info","params":{"session_id":"mine"},"id":3})"),
      "mine");
  EXPECT_THAT(
      send(R"({"jsonrpc":"2.0","method":"session.info","params":{"session_id":"../x"},"id":4})"),
      ElementsAre(AllOf(IsError(-32602, "4"), HasSubstr("session_id"))));
}

TEST_F(RpcSessionFields, AnIdNamesTheSessionInWhichTheConnectionMadeTheThing) {
  const std::string own =
      session_of(R"({"jsonrpc":"2.0","method":"execute.code","params":{"code":"1"},"id":1})");
  EXPECT_EQ(session_of(R"({"jsonrpc":"2.0","method":"execute.code_streaming",)"
                       R"("params":{"code":"1","session_id":"other","execution_id":"e1"},"id":2})"),
            "other");
  EXPECT_EQ(
      session_of(
          R"({"jsonrpc":"2.0","method":"execute.cancel","params":{"execution_id":"e1"},"id":3})"),
      "other");
  EXPECT_EQ(
      session_of(
          R"({"jsonrpc":"2.0","method":"execute.cancel","params":{"execution_id":"e2"},"id":4})"),
      own);
}

TEST_F(RpcSessionFields, MakesAnExecutionIdWhereTheClientGaveNone) {
  session->on_message(R"({"jsonrpc":"2.0","method":"execute.code","params":{"code":"1"},"id":1})");
  EXPECT_THAT(bus.json(bus.port.take(v1::CALL)), testing::Not(HasSubstr(R"("execution_id":"")")));
}

TEST_F(RpcSessionFields, TheEndOfTheConnectionCallsOffItsCallsAndReleasesItsSession) {
  const std::string own = session_of(R"({"jsonrpc":"2.0","method":"session.open","id":1})");
  session->close();
  const Sent cancel = bus.port.take(v1::CANCEL);
  EXPECT_EQ(cancel.header.method(), "$/gone");
  const Sent release = bus.port.take(v1::CALL);
  EXPECT_EQ(release.header.method(), "session.release");
  EXPECT_EQ(release.header.session_id(), own);
  EXPECT_EQ(bus.json(release), R"({"session_id":")" + own + R"(","linger":60})");
  EXPECT_THAT(sink.take(), IsEmpty());
}

TEST_F(RpcSessionFields, ASessionThatWasNotUsedIsNotReleased) {
  session_of(R"({"jsonrpc":"2.0","method":"session.info","params":{"session_id":"mine"},"id":1})");
  session->close();
  EXPECT_EQ(bus.port.count(v1::CALL), 0U);
}

TEST_F(RpcSessionFields, ADetachedSessionIsReleasedAfterItsLastCall) {
  session->on_message(R"({"jsonrpc":"2.0","method":"session.open"})");
  const Sent open = bus.port.take(v1::CALL);
  session->detach();
  EXPECT_EQ(bus.port.count(v1::CALL), 0U);
  bus.result(open, 1, "{}");
  EXPECT_EQ(bus.port.take(v1::CALL).header.method(), "session.release");
}

TEST_F(RpcSessionFields, AServiceThatIsGoneIsForgottenAfterAWhile) {
  bus.services(bus.port, {});
  EXPECT_NE(bus.client.catalog()->find("session.open"), nullptr);
  EXPECT_TRUE(bus.run_until([&] { return bus.client.catalog()->find("session.open") == nullptr; }));
  EXPECT_NE(bus.client.catalog()->find("connection.ping"), nullptr);
}

}  // namespace
}  // namespace runbus::gateway
