#include <algorithm>
#include <filesystem>

#include "tests/unit/execution/execution_fixture.h"

namespace runbus::execution {
namespace {

using runbus::testing::ExecutionTest;

TEST_F(ExecutionTest, StreamsOutputBetweenStartAndResult) {
  const auto call =
      start("execute.code_streaming", code("echo one; read line; echo got $line >&2; exit 2"));
  ASSERT_TRUE(wait_for_output(call, "one"));
  ASSERT_TRUE(item(call, 0).has_started());
  EXPECT_EQ(item(call, 0).started().language(), "bash");
  EXPECT_FALSE(call->ended());
  v1::InputRequest input;
  input.set_session_id("s");
  input.set_execution_id("e");
  input.set_text("typed\n");
  EXPECT_EQ(ask<v1::InputResponse>("execute.input", input).accepted(), 6U);
  wait_for(call);
  EXPECT_EQ(output(call), "one\ngot typed\n");
  EXPECT_EQ(item(call, call->items.size() - 1).output().stream(), "stderr");
  EXPECT_EQ(result(call).status(), "failed");
  EXPECT_EQ(result(call).exit_code(), 2);
  EXPECT_EQ(result(call).bytes(), 14U);
}

TEST_F(ExecutionTest, NeverSplitsACharacter) {
  const auto call =
      start("execute.code_streaming",
            code("printf '\\342'; sleep 0.2; printf '\\202'; sleep 0.2; printf '\\254'"));
  wait_for(call);
  ASSERT_EQ(call->items.size(), 2U)
      << item(call, 0).ShortDebugString() << " " << result(call).ShortDebugString();
  EXPECT_EQ(item(call, 1).output().text(), "\u20ac");
}

TEST_F(ExecutionTest, GivesBytesThatAreNoTextAsBytes) {
  const auto call = start("execute.code_streaming", code("printf '\\377\\376'"));
  wait_for(call);
  EXPECT_EQ(item(call, 1).output().data(), "\xFF\xFE");
}

TEST_F(ExecutionTest, AReaderWithoutCreditBlocksTheProgram) {
  const std::uint64_t total = 8U << 20U;
  const auto call =
      start("execute.code_streaming",
            code("head -c 8388608 /dev/zero | tr '\\0' x; echo written > mark"), 100'000);
  ASSERT_TRUE(loop.until([&] { return call->credit() == 0; }));
  // What is buffered on the way is bounded; the rest has to wait in the program.
  const auto other = run(code("sleep 0.5; ls", "other"));
  EXPECT_EQ(other.stdout().find("mark"), std::string::npos);
  EXPECT_LE(output(call).size(), 200'000U);
  while (!call->ended()) {
    call->grant(400'000);
    ASSERT_TRUE(loop.until([&] { return call->credit() == 0 || call->ended(); }));
  }
  EXPECT_EQ(output(call).size(), total);
  EXPECT_EQ(result(call).bytes(), total);
}

TEST_F(ExecutionTest, AttachesWhileItRunsAndAfterItsEnd) {
  const auto call = start("execute.code_streaming", code("echo 0123456789; read line; echo $line"));
  ASSERT_TRUE(wait_for_output(call, "9\n"));
  const auto follower = start("execute.attach", attach(4));
  ASSERT_TRUE(loop.until([&] { return follower->items.size() >= 2; }));
  v1::InputRequest input;
  input.set_session_id("s");
  input.set_execution_id("e");
  input.set_data("end\n");
  input.set_eof(true);
  ask<v1::InputResponse>("execute.input", input);
  wait_for(call);
  wait_for(follower);
  EXPECT_EQ(output(call), "0123456789\nend\n");
  EXPECT_EQ(output(follower, 4), "456789\nend\n");
  EXPECT_EQ(result(follower).status(), "completed");
  EXPECT_EQ(result(follower).language(), "bash");
  const auto late = wait_for(start("execute.attach", attach(11)));
  EXPECT_EQ(output(late, 11), "end\n");
}

TEST_F(ExecutionTest, ASlowFollowerDoesNotHoldUpTheOthers) {
  const auto call =
      start("execute.code_streaming", code("read; head -c 400000 /dev/zero | tr '\\0' x"));
  ASSERT_TRUE(loop.until([&] { return published.size() == 1; }));
  const auto slow = start("execute.attach", attach(0), 1'000);
  ASSERT_TRUE(loop.until([&] { return !slow->items.empty(); }));
  v1::InputRequest input;
  input.set_session_id("s");
  input.set_execution_id("e");
  input.set_text("\n");
  ask<v1::InputResponse>("execute.input", input);
  wait_for(call);
  EXPECT_EQ(output(call).size(), 400'000U);
  EXPECT_FALSE(slow->ended());
  slow->grant(kPlenty);
  wait_for(slow);
  EXPECT_EQ(output(slow).size(), 400'000U);
}

TEST_F(ExecutionTest, GoesOnWhenTheCallerIsGoneAndCanBeAttached) {
  const auto call = start("execute.code_streaming",
                          code("echo a; until test -e go; do sleep 0.05; done; echo b"));
  ASSERT_TRUE(wait_for_output(call, "a"));
  call->cancel(ErrorCode::kConnection);
  wait_for(call);
  EXPECT_EQ(run(code("touch go", "other")).status(), "completed");
  const auto follower = wait_for(start("execute.attach", attach(0)));
  EXPECT_EQ(output(follower), "a\nb\n");
  // The worker still notices the end.
  ASSERT_TRUE(loop.until([&] {
    return std::count(published.begin(), published.end(), "code_execution.completed e completed") ==
           1;
  }));
}

TEST_F(ExecutionTest, ALaterWorkerTakesUpAStreamWhereItsCallerWas) {
  const auto call = start("execute.code_streaming",
                          code("echo 12345; until test -e go; do sleep 0.05; done; echo end"));
  ASSERT_TRUE(wait_for_output(call, "5\n"));
  restart_worker();
  v1::Resume resume;
  resume.set_sequence(2);
  resume.set_offset(6);
  const auto resumed =
      start("execute.code_streaming",
            code("echo 12345; until test -e go; do sleep 0.05; done; echo end"), kPlenty, resume);
  EXPECT_EQ(run(code("touch go", "other")).status(), "completed");
  wait_for(resumed);
  EXPECT_EQ(output(resumed, 6), "end\n");  // no execute.started, nothing twice
  EXPECT_EQ(result(resumed).status(), "completed");
}

TEST_F(ExecutionTest, AResumedCallThatIsCancelledBeforeItIsTakenUpEndsItsProgram) {
  const auto program = code("echo 12345; until test -e go; do sleep 0.05; done; echo end");
  const auto call = start("execute.code_streaming", program);
  ASSERT_TRUE(wait_for_output(call, "5\n"));
  restart_worker();
  v1::Resume resume;
  resume.set_sequence(2);
  resume.set_offset(6);
  EXPECT_EQ(run(code("true", "other")).status(), "completed");  // the languages are known
  const auto resumed = start("execute.code_streaming", program, kPlenty, resume);
  resumed->cancel(ErrorCode::kCancelled);
  wait_for(resumed);
  EXPECT_EQ(resumed->error->code, ErrorCode::kCancelled);
  const auto follower = wait_for(start("execute.attach", attach(0)));
  EXPECT_EQ(result(follower).status(), "cancelled");
}

// While the next worker still looks for its languages; and by a caller that has seen nothing, which
// says no more of the program.
TEST_F(ExecutionTest, AResumedCallThatIsCancelledBeforeTheLanguagesAreKnownEndsItsProgram) {
  for (const std::uint64_t seen : {2U, 0U}) {
    const std::string id = "seen-" + std::to_string(seen);
    const auto program = code("echo 12345; until test -e go; do sleep 0.05; done; echo end", id);
    const auto call = start("execute.code_streaming", program);
    ASSERT_TRUE(wait_for_output(call, "5\n"));
    restart_worker();
    v1::Resume resume;
    resume.set_sequence(seen);
    resume.set_offset(seen > 0 ? 6 : 0);
    const auto resumed = start("execute.code_streaming", program, kPlenty, resume);
    resumed->cancel(ErrorCode::kCancelled);
    wait_for(resumed);
    EXPECT_EQ(resumed->error->code, ErrorCode::kCancelled);
    const auto follower = wait_for(start("execute.attach", attach(0, id)));
    EXPECT_EQ(result(follower).status(), "cancelled") << "seen: " << seen;
  }
}

// Neither in a session that is there, nor is one made for it. A program that is killed at once has
// begun, too: then something could be attached to.
TEST_F(ExecutionTest, AResumedCallThatIsCancelledIsNotBegun) {
  v1::Resume resume;
  for (const bool there : {false, true}) {
    if (there) {
      EXPECT_EQ(run(code("true", "other")).status(), "completed");
      restart_worker();
    }
    const auto resumed = start("execute.code_streaming", code("true"), kPlenty, resume);
    resumed->cancel(ErrorCode::kCancelled);
    wait_for(resumed);
    EXPECT_EQ(resumed->error->code, ErrorCode::kCancelled);
    EXPECT_EQ(refusal("execute.attach", attach(0)).code, ErrorCode::kNotFound);
    EXPECT_EQ(std::filesystem::is_empty(state_dir() + "/sandboxes"), !there);
  }
}

TEST_F(ExecutionTest, AResumedCallWhoseSandboxIsGoneIsLostAndNotRunAgain) {
  v1::Resume resume;
  resume.set_sequence(1);
  const auto call = wait_for(start("execute.code", code("echo again"), kPlenty, resume));
  ASSERT_TRUE(call->error.has_value());
  EXPECT_EQ(call->error->code, ErrorCode::kWorkerLost);
}

TEST_F(ExecutionTest, AResumedCallThatNeverBeganIsRun) {
  run(code("true", "other"));
  v1::Resume resume;
  const auto call = wait_for(start("execute.code", code("echo first"), kPlenty, resume));
  ASSERT_TRUE(call->response);
  EXPECT_EQ(static_cast<v1::CodeResult&>(*call->response).stdout(), "first\n");
}

TEST_F(ExecutionTest, SignalsReachTheProgram) {
  const auto call =
      start("execute.code_streaming",
            code("trap 'echo caught; exit 5' USR1; echo ready; while true; do sleep 0.05; done"));
  ASSERT_TRUE(wait_for_output(call, "ready"));
  v1::SignalRequest signal;
  signal.set_session_id("s");
  signal.set_execution_id("e");
  signal.set_signal("SIGUSR1");
  ask<v1::SignalResponse>("execute.signal", signal);
  wait_for(call);
  // It reaches all processes of the run, so bash may also tell how its sleep ended.
  EXPECT_THAT(output(call), ::testing::EndsWith("caught\n"));
  EXPECT_EQ(result(call).exit_code(), 5);
}

}  // namespace
}  // namespace runbus::execution
