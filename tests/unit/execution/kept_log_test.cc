// Executions whose sandbox has gone: what they printed, and how they ended, is still there.
#include <signal.h>

#include <filesystem>

#include "tests/unit/execution/execution_fixture.h"

namespace runbus::testing {
namespace {

class KeptLog : public ExecutionTest {
 protected:
  void close_session() { ASSERT_TRUE(close(*manager, "s").has_value()); }
  void kill_agent() {
    const auto session = find(*manager, "s");
    ASSERT_TRUE(session.has_value());
    ASSERT_EQ(::kill(agent_pid(**session), SIGKILL), 0);
  }
  std::string folder(const std::string& execution = "e") const {
    return state_dir() + "/logs/" + session::sandbox_key("s") + "/" + execution;
  }
};

TEST_F(KeptLog, IsReadWhenItsSessionWasClosed) {
  const auto request = code("printf out; sleep 0.1; printf err >&2; exit 3");
  ASSERT_EQ(run(request).stdout(), "out");
  close_session();
  EXPECT_TRUE(leaves_nothing("s"));
  for (const std::uint64_t offset : {0U, 2U, 6U}) {
    const auto call = wait_for(start("execute.attach", attach(offset)));
    EXPECT_EQ(output(call, offset), std::string("outerr").substr(offset));
    EXPECT_EQ(result(call).status(), "failed");
    EXPECT_EQ(result(call).exit_code(), 3);
    EXPECT_EQ(result(call).bytes(), 6U);
    EXPECT_EQ(result(call).language(), "bash");
  }
  EXPECT_EQ(refusal("execute.attach", attach(7)).code, ErrorCode::kValidation);
  EXPECT_EQ(refusal("execute.attach", attach(0, "other")).code, ErrorCode::kNotFound);
  const auto listed = list();
  ASSERT_EQ(listed.executions_size(), 1);
  EXPECT_EQ(listed.executions(0).status(), "failed");
  EXPECT_EQ(listed.executions(0).bytes(), 6U);
  // Another worker of the node, and a new sandbox of the session, change nothing.
  restart_worker();
  EXPECT_EQ(run(code("echo new", "e2")).stdout(), "new\n");
  EXPECT_EQ(output(wait_for(start("execute.attach", attach(0)))), "outerr");
  EXPECT_EQ(list().executions_size(), 2);
}

TEST_F(KeptLog, IsNotRunAgainByTheSameCall) {
  const auto request = code("echo once >> count; cat count");
  ASSERT_EQ(run(request).stdout(), "once\n");
  close_session();
  EXPECT_EQ(run(request).stdout(), "once\n");
  const auto streamed = wait_for(start("execute.code_streaming", request));
  EXPECT_EQ(output(streamed), "once\n");
  EXPECT_TRUE(leaves_nothing("s"));
  EXPECT_EQ(refusal("execute.code", code("echo twice")).code, ErrorCode::kConflict);
}

TEST_F(KeptLog, AfterTheAgentsDeathEndsWithWorkerLostAndAllItsBytes) {
  const auto call = start("execute.code_streaming", code("echo one; echo two >&2; sleep 600"));
  ASSERT_TRUE(wait_for_output(call, "two"));
  kill_agent();
  wait_for(call);
  ASSERT_TRUE(call->error.has_value());
  EXPECT_EQ(call->error->code, ErrorCode::kWorkerLost);
  for (const std::uint64_t offset : {0U, 4U}) {
    const auto again = wait_for(start("execute.attach", attach(offset)));
    EXPECT_EQ(output(again, offset), std::string("one\ntwo\n").substr(offset));
    ASSERT_TRUE(again->error.has_value());
    EXPECT_EQ(again->error->code, ErrorCode::kWorkerLost);
  }
  EXPECT_EQ(list().executions(0).status(), "lost");
  EXPECT_FALSE(list().executions(0).has_exit_code());
}

TEST_F(KeptLog, AReaderWithoutCreditGetsTheRestAfterTheAgentsDeath) {
  const auto call = start("execute.code_streaming",
                          code("head -c 900000 /dev/zero | tr '\\0' x; exit 7"), 50'000);
  ASSERT_TRUE(loop.until([&] {
    const auto listed = list();
    return listed.executions_size() == 1 && listed.executions(0).status() == "failed";
  }));
  kill_agent();
  ASSERT_TRUE(loop.until([&] { return leaves_nothing("s"); }));
  call->grant(kPlenty);
  wait_for(call);
  EXPECT_EQ(output(call), std::string(900'000, 'x'));
  EXPECT_EQ(result(call).exit_code(), 7);
}

TEST_F(KeptLog, ABlockedProgramsBytesComeBeforeTheError) {
  const auto call = start("execute.code_streaming", code("yes"), 50'000);
  ASSERT_TRUE(loop.until([&] {
    const auto listed = list();
    return listed.executions_size() == 1 && listed.executions(0).bytes() > 1'000'000;
  }));
  kill_agent();
  ASSERT_TRUE(loop.until([&] { return leaves_nothing("s"); }));
  const std::uint64_t bytes = list().executions(0).bytes();
  call->grant(kPlenty);
  wait_for(call);
  EXPECT_EQ(output(call).size(), bytes);
  ASSERT_TRUE(call->error.has_value());
  EXPECT_EQ(call->error->code, ErrorCode::kWorkerLost);
}

TEST_F(KeptLog, AResumedCallGoesOnInIt) {
  ASSERT_EQ(run(code("echo one; echo two")).stdout(), "one\ntwo\n");
  close_session();
  v1::Resume resume;
  resume.set_sequence(3);
  resume.set_offset(4);
  const auto call =
      wait_for(start("execute.code_streaming", code("echo one; echo two"), kPlenty, resume));
  EXPECT_EQ(output(call, 4), "two\n");
  EXPECT_EQ(result(call).exit_code(), 0);
  // Nothing is kept of this one: it had begun, so it is not run now.
  const auto other =
      wait_for(start("execute.code_streaming", code("echo", "other"), kPlenty, resume));
  EXPECT_EQ(other->error->code, ErrorCode::kWorkerLost);
  // Nor where the session has a sandbox again.
  ASSERT_EQ(run(code("true", "another")).exit_code(), 0);
  const auto again =
      wait_for(start("execute.code_streaming", code("echo", "other"), kPlenty, resume));
  EXPECT_EQ(again->error->code, ErrorCode::kWorkerLost);
}

// A worker may die between accepting a call and making its sandbox.
TEST_F(KeptLog, AResumedCallThatNeverBeganBegins) {
  const auto call = wait_for(
      start("execute.code_streaming", code("echo once >> ran; cat ran"), kPlenty, v1::Resume()));
  EXPECT_EQ(output(call), "once\n");
  EXPECT_EQ(result(call).exit_code(), 0);
  // This one did.
  const auto again = wait_for(
      start("execute.code_streaming", code("echo once >> ran; cat ran"), kPlenty, v1::Resume()));
  EXPECT_EQ(output(again), "once\n");
  close_session();
  const auto kept = wait_for(
      start("execute.code_streaming", code("echo once >> ran; cat ran"), kPlenty, v1::Resume()));
  EXPECT_EQ(output(kept), "once\n");
  EXPECT_EQ(result(kept).exit_code(), 0);
}

TEST_F(KeptLog, NamesTheGapOfWhatIsMissing) {
  ASSERT_EQ(run(code("head -c 2500000 /dev/zero")).exit_code(), 0);
  close_session();
  std::filesystem::remove(folder() + "/0");
  const auto call = wait_for(start("execute.attach", attach(10)));
  ASSERT_TRUE(item(call, 1).has_gap());
  EXPECT_EQ(item(call, 1).gap().from(), 10U);
  const std::uint64_t to = item(call, 1).gap().to();
  EXPECT_GT(to, 900'000U);
  EXPECT_EQ(output(call, to).size(), 2'500'000 - to);
  EXPECT_EQ(result(call).bytes(), 2'500'000U);
}

TEST_F(KeptLog, WithoutAReadableEndIsLost) {
  ASSERT_EQ(run(code("echo hi")).exit_code(), 0);
  close_session();
  const std::string file = folder() + "/0";
  std::filesystem::resize_file(file, std::filesystem::file_size(file) - 1);
  const auto call = wait_for(start("execute.attach", attach(0)));
  EXPECT_EQ(output(call), "hi\n");
  EXPECT_EQ(call->error->code, ErrorCode::kWorkerLost);
  std::filesystem::resize_file(file, 1);
  EXPECT_EQ(refusal("execute.attach", attach(0)).code, ErrorCode::kNotFound);
}

}  // namespace
}  // namespace runbus::testing
