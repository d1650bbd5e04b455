#include "services/execution/session_service.h"

#include <gmock/gmock.h>

#include "tests/unit/execution/execution_fixture.h"

namespace runbus::execution {
namespace {

class SessionServiceTest : public runbus::testing::ExecutionTest {
 protected:
  void SetUp() override {
    ExecutionTest::SetUp();
    SessionServiceOptions with;
    with.node = "node-1";
    with.engine = "process";
    with.enforced = {{"memory", "none"}};
    sessions = std::make_unique<SessionService>(
        std::shared_ptr<session::SessionManager>(manager.get(), [](auto*) {}), with);
    sessions->check_complete();
  }
  Call call_session(const std::string& method, const google::protobuf::Message& request) {
    auto call = std::make_shared<runbus::testing::FakeCall>(loop.io, method, kPlenty);
    sessions->find(method)->handler(call, request);
    return wait_for(call);
  }
  static v1::OpenRequest open_request() {
    v1::OpenRequest request;
    request.set_session_id("s");
    return request;
  }
  std::unique_ptr<SessionService> sessions;
};

TEST_F(SessionServiceTest, OpensASessionAndSaysWhatBoundsIt) {
  auto request = open_request();
  (*request.mutable_environment())["NAME"] = "session";
  const auto call = call_session("session.open", request);
  ASSERT_TRUE(call->response);
  const auto& response = static_cast<const v1::OpenResponse&>(*call->response);
  EXPECT_EQ(response.node(), "node-1");
  EXPECT_EQ(response.engine(), "process");
  EXPECT_EQ(response.enforced().at("memory"), "none");
  EXPECT_EQ(run(code("echo $NAME")).stdout(), "session\n");
}

TEST_F(SessionServiceTest, RefusesNetworkAndMoreThanTheNodeGives) {
  auto request = open_request();
  request.set_network("full");
  EXPECT_EQ(call_session("session.open", request)->error->code, ErrorCode::kAuthorization);
  request.set_network("host");
  EXPECT_EQ(call_session("session.open", request)->error->code, ErrorCode::kValidation);
  request.set_network("none");
  request.mutable_limits()->set_memory(1ULL << 50U);
  const auto call = call_session("session.open", request);
  EXPECT_EQ(call->error->code, ErrorCode::kQuota);
  EXPECT_EQ(call->error->limit, "memory");
  EXPECT_TRUE(leaves_nothing("s"));
}

TEST_F(SessionServiceTest, ListsSessionsWithTheirExecutions) {
  const auto running = start("execute.code", code("sleep 600"));
  ASSERT_TRUE(loop.until([&] { return published.size() == 1; }));
  call_session("session.open", [] {
    auto request = open_request();
    request.set_session_id("idle");
    return request;
  }());
  const auto call = call_session("session.list", v1::ListSessionsRequest());
  const auto& all = static_cast<const v1::ListSessionsResponse&>(*call->response);
  ASSERT_EQ(all.sessions_size(), 2);
  for (const auto& info : all.sessions()) {
    EXPECT_EQ(info.executions(), info.session_id() == "s" ? 1U : 0U);
    EXPECT_EQ(info.state(), "running");
  }
  v1::SessionInfoRequest one;
  one.set_session_id("s");
  EXPECT_EQ(static_cast<const v1::SessionInfo&>(*call_session("session.info", one)->response)
                .executions(),
            1U);
  one.set_session_id("none");
  EXPECT_EQ(call_session("session.info", one)->error->code, ErrorCode::kNotFound);
  running->cancel(ErrorCode::kCancelled);
  wait_for(running);
}

TEST_F(SessionServiceTest, ClosesAndReleases) {
  call_session("session.open", open_request());
  v1::CloseRequest close;
  close.set_session_id("s");
  EXPECT_TRUE(call_session("session.close", close)->response);
  EXPECT_TRUE(leaves_nothing("s"));
  call_session("session.open", open_request());
  v1::ReleaseRequest release;
  release.set_session_id("s");
  release.set_linger(-1);
  EXPECT_EQ(call_session("session.release", release)->error->code, ErrorCode::kValidation);
  release.set_linger(0.05);
  EXPECT_TRUE(call_session("session.release", release)->response);
  EXPECT_TRUE(loop.until([&] { return leaves_nothing("s"); }));
}

}  // namespace
}  // namespace runbus::execution
