#include "services/execution/execution_service.h"

#include <chrono>
#include <fstream>

#include "tests/unit/execution/execution_fixture.h"

namespace runbus::execution {
namespace {

using runbus::testing::ExecutionTest;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST_F(ExecutionTest, RunsCodeAndCollectsItsOutput) {
  const auto result = run(code("echo out; echo err >&2; exit 3"));
  EXPECT_EQ(result.status(), "failed");
  EXPECT_EQ(result.exit_code(), 3);
  EXPECT_FALSE(result.has_signal());
  EXPECT_FALSE(result.has_limit());
  EXPECT_EQ(result.stdout(), "out\n");
  EXPECT_EQ(result.stderr(), "err\n");
  EXPECT_EQ(result.language(), "bash");
  EXPECT_EQ(result.session_id(), "s");
  EXPECT_GT(result.execution_time(), 0);
  EXPECT_GT(result.timestamp().seconds(), 1'600'000'000);
  EXPECT_THAT(published,
              ElementsAre("code_execution.started e running", "code_execution.completed e failed"));
}

TEST_F(ExecutionTest, KnowsLanguagesByAliasAndRefusesOthers) {
  auto request = code("echo $FROM_TABLE");
  request.set_language("SH");
  EXPECT_EQ(run(request).stdout(), "yes\n");
  request.set_language("cobol");
  const Error error = refusal("execute.code", request);
  EXPECT_EQ(error.code, ErrorCode::kValidation);
  EXPECT_EQ(error.detail, "Unsupported language: cobol");
  const auto languages = ask<v1::LanguagesResponse>("execute.languages", v1::LanguagesRequest());
  ASSERT_EQ(languages.languages_size(), 1);
  EXPECT_EQ(languages.languages(0).name(), "bash");
  EXPECT_THAT(languages.languages(0).version(), HasSubstr("."));
}

TEST_F(ExecutionTest, RefusesNoCodeAndNetwork) {
  EXPECT_EQ(refusal("execute.code", code("")).detail, "No code provided for execution");
  auto request = code("true");
  request.mutable_config()->set_network("full");
  EXPECT_EQ(refusal("execute.code", request).code, ErrorCode::kAuthorization);
}

TEST_F(ExecutionTest, GivesFilesArgumentsInputAndEnvironment) {
  auto request = code(R"(cat data/in.txt; echo "$1|$2"; cat; echo $GREETING; pwd; echo $HOME)");
  request.add_files()->set_path("data/in.txt");
  request.mutable_files(0)->set_text("from a file\n");
  request.add_args("one two");
  request.add_args("$3");
  request.set_stdin("typed\n");
  (*request.mutable_config()->mutable_environment())["GREETING"] = "hello";
  const auto result = run(request);
  EXPECT_THAT(result.stdout(), HasSubstr("from a file\none two|$3\ntyped\nhello\n"));
}

TEST_F(ExecutionTest, FeedsMoreInputThanAPipeHolds) {
  auto request = code("sleep 0.2; wc -c");
  request.set_stdin(std::string(3'000'000, 'x'));
  EXPECT_EQ(run(request).stdout(), "3000000\n");
}

TEST_F(ExecutionTest, RunsAFileOfTheWorkspace) {
  auto request = code("");
  request.set_entry("job.sh");
  request.add_files()->set_path("job.sh");
  request.mutable_files(0)->set_text("echo entry $0");
  EXPECT_EQ(run(request).stdout(), "entry job.sh\n");
}

TEST_F(ExecutionTest, RunsOfASessionShareItsWorkspaceAndNotTheirCode) {
  EXPECT_EQ(run(code("echo kept > file", "a")).status(), "completed");
  EXPECT_EQ(run(code("cat file", "b")).stdout(), "kept\n");
  EXPECT_EQ(run(code("cat file 2>&1 || true", "c", "other")).stdout().find("kept"),
            std::string::npos);
}

TEST_F(ExecutionTest, RunsAtTheSameTimeDoNotDisturbEachOther) {
  // Each waits for the other: one after the other, both would hang.
  const std::string meet =
      "echo $0 >> names; touch met.$1; until test -e met.$2; do sleep 0.01; done; echo $1";
  auto left = code(meet, "left");
  left.add_args("l");
  left.add_args("r");
  auto right = code(meet, "right");
  right.add_args("r");
  right.add_args("l");
  const auto first = start("execute.code", left);
  const auto second = start("execute.code", right);
  wait_for(first);
  wait_for(second);
  EXPECT_EQ(static_cast<v1::CodeResult&>(*first->response).stdout(), "l\n");
  EXPECT_EQ(static_cast<v1::CodeResult&>(*second->response).stdout(), "r\n");
}

TEST_F(ExecutionTest, ATimeoutSaysSoAndInventsNoExitCode) {
  auto request = code("echo before; sleep 600");
  request.mutable_config()->set_timeout(0.3);
  const auto result = run(request);
  EXPECT_EQ(result.status(), "timeout");
  EXPECT_EQ(result.limit(), "time");
  EXPECT_FALSE(result.has_exit_code());
  EXPECT_EQ(result.stdout(), "before\n");
}

TEST_F(ExecutionTest, CutsCollectedOutputAndReadsOn) {
  auto request = code("printf 'a\\303\\251%.0s' {1..200000}; echo end >&2");
  request.mutable_config()->set_max_output_size(5);
  const auto result = run(request);
  EXPECT_EQ(result.status(), "completed");
  EXPECT_TRUE(result.truncated());
  EXPECT_EQ(result.stdout(), "a\u00e9a");
  EXPECT_EQ(result.stderr(), "end\n");
}

TEST_F(ExecutionTest, OutputThatIsNoTextIsReplacedInAResult) {
  EXPECT_EQ(run(code("printf 'a\\377z'")).stdout(), "a\uFFFDz");
}

TEST_F(ExecutionTest, ASignalIsNamed) {
  const auto result = run(code("kill -SEGV $$"));
  EXPECT_EQ(result.status(), "failed");
  EXPECT_EQ(result.signal(), "SIGSEGV");
  EXPECT_FALSE(result.has_exit_code());
}

TEST_F(ExecutionTest, TheSameExecutionAskedForAgainIsNotRunAgain) {
  const auto request = code("echo ran >> log; sleep 0.3; wc -l < log");
  const auto first = start("execute.code", request);
  const auto second = start("execute.code", request);
  wait_for(first);
  wait_for(second);
  EXPECT_EQ(static_cast<v1::CodeResult&>(*first->response).stdout(), "1\n");
  EXPECT_EQ(static_cast<v1::CodeResult&>(*second->response).stdout(), "1\n");
  EXPECT_EQ(run(request).stdout(), "1\n");  // and after its end
  EXPECT_EQ(refusal("execute.code", code("echo other")).code, ErrorCode::kConflict);
}

TEST_F(ExecutionTest, ALaterWorkerDoesNotRunItAgainEither) {
  const auto request = code("echo ran >> log; wc -l < log");
  EXPECT_EQ(run(request).stdout(), "1\n");
  restart_worker();
  EXPECT_EQ(run(request).stdout(), "1\n");
  EXPECT_EQ(refusal("execute.code", code("echo other")).code, ErrorCode::kConflict);
}

// More of them than an agent has connections, while the execution that has the id goes on. One that
// the agent does not accept would be waited for, for half a minute.
TEST_F(ExecutionTest, ARefusedCallKeepsNoConnectionToTheAgent) {
  const auto running = start("execute.code_streaming", code("echo started; sleep 600"));
  ASSERT_TRUE(wait_for_output(running, "started"));
  restart_worker();
  const auto begun = std::chrono::steady_clock::now();
  for (int i = 0; i < 70; ++i) {
    ASSERT_EQ(refusal("execute.code", code("echo other")).code, ErrorCode::kConflict);
  }
  EXPECT_EQ(run(code("echo works", "f")).stdout(), "works\n");
  EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(20));
}

TEST_F(ExecutionTest, MoreThanTheCapacityWaitForTheirTurn) {
  std::vector<Call> calls;
  for (int index = 0; index < 20; ++index) {
    calls.push_back(start("execute.code", code("echo done", "e" + std::to_string(index))));
  }
  for (const Call& call : calls) {
    wait_for(call);
    ASSERT_TRUE(call->response);
    EXPECT_EQ(static_cast<v1::CodeResult&>(*call->response).stdout(), "done\n");
  }
}

TEST_F(ExecutionTest, CancelledCallsEndAtOnceAndTheProgramWithThem) {
  const auto call = start("execute.code", code("echo $$ > pid; sleep 600"));
  ASSERT_TRUE(loop.until([&] { return published.size() == 1; }));
  call->cancel(ErrorCode::kCancelled);
  wait_for(call);
  EXPECT_EQ(call->error->code, ErrorCode::kCancelled);
  ASSERT_TRUE(loop.until([&] { return published.size() == 2; }));
  EXPECT_EQ(published[1], "code_execution.cancelled e cancelled");
}

TEST_F(ExecutionTest, CancelByAnotherCallEndsTheRunWithAStatus) {
  const auto call = start("execute.code", code("sleep 600"));
  v1::CancelRequest cancel;
  cancel.set_session_id("s");
  cancel.set_execution_id("e");
  ask<v1::CancelResponse>("execute.cancel", cancel);
  wait_for(call);
  ASSERT_TRUE(call->response);
  EXPECT_EQ(static_cast<v1::CodeResult&>(*call->response).status(), "cancelled");
}

TEST_F(ExecutionTest, ClosingTheSessionLosesItsExecutions) {
  const auto call = start("execute.code", code("sleep 600"));
  ASSERT_TRUE(loop.until([&] { return published.size() == 1; }));
  ASSERT_TRUE(close(*manager, "s").has_value());
  wait_for(call);
  EXPECT_EQ(call->error->code, ErrorCode::kWorkerLost);
}

TEST_F(ExecutionTest, ListsWhatRunsAndWhatIsKept) {
  EXPECT_EQ(list().executions_size(), 0);
  run(code("printf 12345; exit 4", "ended"));
  const auto call = start("execute.code", code("sleep 600", "running"));
  ASSERT_TRUE(loop.until([&] { return published.size() == 3; }));
  const auto all = list();
  ASSERT_EQ(all.executions_size(), 2);
  for (const auto& info : all.executions()) {
    EXPECT_EQ(info.language(), "bash");
    EXPECT_EQ(info.status(), info.execution_id() == "ended" ? "failed" : "running");
    EXPECT_EQ(info.bytes(), info.execution_id() == "ended" ? 5U : 0U);
  }
  call->cancel(ErrorCode::kCancelled);
  wait_for(call);
}

TEST_F(ExecutionTest, UnknownExecutionsAreNotFound) {
  v1::InputRequest input;
  input.set_session_id("s");
  input.set_execution_id("nothing");
  EXPECT_EQ(refusal("execute.input", input).code, ErrorCode::kNotFound);
  run(code("true"));
  EXPECT_EQ(refusal("execute.input", input).code, ErrorCode::kNotFound);
  EXPECT_EQ(refusal("execute.attach", attach(0, "nothing")).code, ErrorCode::kNotFound);
  v1::SignalRequest signal;
  signal.set_session_id("s");
  signal.set_execution_id("nothing");
  signal.set_signal("TERM");
  EXPECT_EQ(refusal("execute.signal", signal).code, ErrorCode::kNotFound);
  signal.set_signal("SEGV");
  EXPECT_EQ(refusal("execute.signal", signal).code, ErrorCode::kValidation);
}

}  // namespace
}  // namespace runbus::execution
