#include <gtest/gtest.h>
#include <signal.h>

#include "tests/unit/agent/agent_process.h"
#include "tests/unit/agent/test_client.h"

namespace runbus::agent_test {
namespace {

class AgentRun : public ::testing::Test {
 protected:
  AgentProcess agent_;
  TestClient client_{agent_.socket_path()};
};

TEST_F(AgentRun, SaysWhoItIs) {
  v1::AgentRequest request;
  request.mutable_hello();
  const v1::AgentReply reply = client_.call(request);
  EXPECT_EQ(reply.welcome().pid(), static_cast<std::uint32_t>(agent_.pid()));
  EXPECT_EQ(reply.welcome().version(), RUNBUS_VERSION);
}

TEST_F(AgentRun, GivesOutputAndExitCodeOfAProgram) {
  v1::Spawn spawn = shell_execution("a", "echo out; echo err >&2; exit 7");
  spawn.set_tag("my tag");
  const Stream stream = run(client_, spawn);
  EXPECT_EQ(stream.out, "out\n");
  EXPECT_EQ(stream.err, "err\n");
  EXPECT_EQ(stream.exited.code(), 7);
  EXPECT_EQ(stream.exited.signal(), 0);
  EXPECT_EQ(stream.exited.reason(), "");
  EXPECT_EQ(stream.exited.tag(), "my tag");
  EXPECT_GT(stream.exited.peak_memory(), 0U);
  EXPECT_GE(stream.exited.ended_ms(), stream.exited.started_ms());
}

TEST_F(AgentRun, CountsCpuTimeOfChildren) {
  const Stream stream = run(
      client_, shell_execution("a", "sh -c 'i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done'"));
  EXPECT_GT(stream.exited.cpu_us(), 10'000U);
}

TEST_F(AgentRun, StartsProgramsInACleanState) {
  v1::Spawn spawn = shell_execution(
      "a",
      "echo $X; pwd; umask; ls /proc/self/fd | tr '\\n' ' '; echo; cat /proc/self/oom_score_adj;"
      "grep -E '^(SigBlk|SigIgn|NoNewPrivs)' /proc/self/status | tr -d '\\t'; read line; echo $?");
  spawn.mutable_steps(0)->add_environment("X=hello");
  const Stream stream = run(client_, spawn);
  EXPECT_EQ(stream.out, "hello\n" + agent_.workspace() +
                            "\n0022\n0 1 2 3 \n1000\nSigBlk:0000000000000000\n"
                            "SigIgn:0000000000000000\nNoNewPrivs:1\n1\n");
  EXPECT_EQ(stream.err, "");
}

TEST_F(AgentRun, StartsInADirectoryOfTheWorkspaceOnly) {
  ASSERT_TRUE(client_.write_file("sub/deep/file", "x").has_done());
  v1::Spawn spawn = shell_execution("a", "pwd; cat file");
  spawn.mutable_steps(0)->set_working_directory("sub/deep");
  EXPECT_EQ(run(client_, spawn).out, agent_.workspace() + "/sub/deep\nx");
  spawn.set_execution_id("b");
  spawn.mutable_steps(0)->set_working_directory("../..");
  EXPECT_EQ(client_.spawn(spawn).failed().reason(), v1::Failed::INVALID);
}

TEST_F(AgentRun, ReportsAMissingProgramLikeAShell) {
  v1::Spawn spawn = shell_execution("a", "");
  spawn.mutable_steps(0)->set_argv(0, "no-such-program");
  const Stream stream = run(client_, spawn);
  EXPECT_EQ(stream.err, "runbus: cannot run no-such-program: No such file or directory\n");
  EXPECT_EQ(stream.exited.code(), 127);

  spawn.set_execution_id("b");
  spawn.mutable_steps(0)->set_argv(0, "/etc/passwd");
  EXPECT_EQ(run(client_, spawn).exited.code(), 126);
}

TEST_F(AgentRun, RunsStepsUntilOneFails) {
  v1::Spawn spawn = shell_execution("a", "echo one");
  *spawn.add_steps() = shell("echo two; exit 3");
  *spawn.add_steps() = shell("echo three");
  const Stream stream = run(client_, spawn);
  EXPECT_EQ(stream.out, "one\ntwo\n");
  EXPECT_EQ(stream.exited.code(), 3);
  EXPECT_EQ(stream.exited.step(), 1U);
}

TEST_F(AgentRun, ALaterStepMayRunWhatAnEarlierMade) {
  v1::Spawn spawn = shell_execution("a", "mkdir d; printf 'echo made' > d/x; chmod +x d/x");
  v1::Step step = shell("");
  step.mutable_argv()->Clear();
  step.add_argv("./x");  // without "#!": as execvp, by the shell
  step.set_working_directory("d");
  *spawn.add_steps() = step;
  EXPECT_EQ(run(client_, spawn).out, "made\n");
}

TEST_F(AgentRun, FeedsStandardInputUntilEof) {
  v1::Spawn spawn = shell_execution("a", "cat; echo end");
  spawn.mutable_steps(0)->set_takes_input(true);
  ASSERT_TRUE(client_.spawn(spawn).has_done());
  EXPECT_EQ(client_.input("a", "hello ", false).input_taken().bytes(), 6U);
  EXPECT_EQ(client_.input("a", "world\n", true).input_taken().bytes(), 6U);
  EXPECT_EQ(attach_and_read(client_, "a").out, "hello world\nend\n");
  EXPECT_EQ(client_.input("a", "late", false).failed().reason(), v1::Failed::INVALID);
}

TEST_F(AgentRun, TakesInputUpToABoundAndKeepsItForTheStepThatReads) {
  ASSERT_TRUE(client_.write_file("go", "").has_done());
  v1::Spawn spawn = shell_execution("a", "while [ -e go ]; do sleep 0.01; done");
  *spawn.add_steps() = shell("cksum");
  spawn.mutable_steps(1)->set_takes_input(true);
  ASSERT_TRUE(client_.spawn(spawn).has_done());
  const std::string chunk(1 << 20, 'x');
  EXPECT_EQ(client_.input("a", chunk, false).input_taken().bytes(), chunk.size());
  EXPECT_EQ(client_.input("a", "y", false).input_taken().bytes(), 0U);
  ASSERT_EQ(::unlink((agent_.workspace() + "/go").c_str()), 0);
  ASSERT_TRUE(eventually([&] { return client_.input("a", "", true).has_input_taken(); }));
  // cksum of 1048576 times "x".
  const Stream stream = attach_and_read(client_, "a");
  EXPECT_NE(stream.out.find(" 1048576"), std::string::npos) << stream.out;
}

TEST_F(AgentRun, SendsSignalsToTheWholeProcessGroup) {
  // The shell waits for its child: only a signal to both ends this at once.
  ASSERT_TRUE(client_.spawn(shell_execution("a", "sleep 1000; echo never")).has_done());
  v1::AgentRequest request;
  request.mutable_signal()->set_execution_id("a");
  request.mutable_signal()->set_signal(SIGTERM);
  ASSERT_TRUE(client_.call(request).has_done());
  const Stream stream = attach_and_read(client_, "a");
  EXPECT_EQ(stream.exited.signal(), SIGTERM);
  EXPECT_EQ(stream.out, "");
  EXPECT_EQ(client_.call(request).failed().reason(), v1::Failed::NOT_FOUND);
}

TEST_F(AgentRun, RefusesAnExecutionIdThatIsTaken) {
  ASSERT_TRUE(client_.spawn(shell_execution("a", "exit 0")).has_done());
  EXPECT_EQ(client_.spawn(shell_execution("a", "exit 0")).failed().reason(), v1::Failed::EXISTS);
  attach_and_read(client_, "a");
  EXPECT_EQ(client_.spawn(shell_execution("a", "exit 0")).failed().reason(), v1::Failed::EXISTS);
  v1::AgentRequest request;
  request.mutable_forget()->set_execution_id("a");
  ASSERT_TRUE(client_.call(request).has_done());
  EXPECT_TRUE(client_.spawn(shell_execution("a", "exit 0")).has_done());
}

TEST_F(AgentRun, RefusesRequestsThatMakeNoSense) {
  v1::AgentRequest empty;
  EXPECT_EQ(client_.call(empty).failed().reason(), v1::Failed::INVALID);
  EXPECT_EQ(client_.spawn(v1::Spawn{}).failed().reason(), v1::Failed::INVALID);
  EXPECT_EQ(client_.spawn(shell_execution("a", std::string("a\0b", 3))).failed().reason(),
            v1::Failed::INVALID);
  EXPECT_EQ(client_.attach("nobody", 0, 1).failed().reason(), v1::Failed::NOT_FOUND);
}

TEST_F(AgentRun, NamesTheLimitThatEndedAProgram) {
  v1::Spawn spawn = shell_execution("cpu", "while :; do :; done");
  spawn.mutable_steps(0)->mutable_limits()->set_cpu_seconds(1);
  Stream stream = run(client_, spawn);
  EXPECT_EQ(stream.exited.signal(), SIGXCPU);
  EXPECT_EQ(stream.exited.limit(), "cpu");

  spawn = shell_execution("size", "exec head -c 100000 /dev/zero > file");
  spawn.mutable_steps(0)->mutable_limits()->set_file_size(1000);
  stream = run(client_, spawn);
  EXPECT_EQ(stream.exited.signal(), SIGXFSZ);
  EXPECT_EQ(stream.exited.limit(), "file_size");

  spawn = shell_execution("output", "yes");
  spawn.set_max_output(100'000);
  stream = run(client_, spawn);
  EXPECT_EQ(stream.exited.signal(), SIGKILL);
  EXPECT_EQ(stream.exited.limit(), "output");
  EXPECT_EQ(stream.all.size(), 100'000U);
}

TEST_F(AgentRun, OneBrokenConnectionIsTheOnlyOneToEnd) {
  ASSERT_TRUE(client_.spawn(shell_execution("a", "sleep 1000")).has_done());
  TestClient large(agent_.socket_path());
  large.send_raw(std::string("\x00\x10\x00\x01\x00\x00\x00\x00", 8));
  EXPECT_TRUE(large.wait_for_hangup());
  TestClient garbled(agent_.socket_path());
  garbled.send_raw(std::string("\x00\x00\x00\x02\x00\x00\x00\x00\xff\xff", 10));
  EXPECT_TRUE(garbled.wait_for_hangup());
  ASSERT_TRUE(client_.entry("a").has_value());
  EXPECT_TRUE(client_.entry("a")->running());
}

}  // namespace
}  // namespace runbus::agent_test
