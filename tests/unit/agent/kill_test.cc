#include <gtest/gtest.h>
#include <signal.h>

#include <string>

#include "tests/unit/agent/agent_process.h"
#include "tests/unit/agent/test_client.h"

namespace runbus::agent_test {
namespace {

// A daemon as hostile as a shell can make it: two forks, a session of its own, and no ear for
// polite signals.
std::string daemon_script(const std::string& argument) {
  return "(trap '' TERM HUP INT; setsid sh -c 'trap \"\" TERM HUP INT; : > ready; sleep " +
         argument + "; sleep " + argument + "' & ) ; until [ -e ready ]; do sleep 0.01; done; ";
}

class AgentKill : public ::testing::Test {
 protected:
  // Runs `script` until the process with `argument` is there.
  void start(const std::string& id, const std::string& script) {
    ASSERT_TRUE(client_.spawn(shell_execution(id, script)).has_done());
    ASSERT_TRUE(eventually([&] { return has_process_with_argument(argument_); }));
  }

  AgentProcess agent_;
  TestClient client_{agent_.socket_path()};
  const std::string argument_ = unique_argument("1000.");
};

TEST_F(AgentKill, EndsAProgramWithTheReasonGiven) {
  start("a", "sleep " + argument_ + "; echo never");
  ASSERT_TRUE(client_.kill("a", "cancelled").has_done());
  const Stream stream = attach_and_read(client_, "a");
  EXPECT_EQ(stream.exited.signal(), SIGKILL);
  EXPECT_EQ(stream.exited.reason(), "cancelled");
  EXPECT_EQ(stream.exited.limit(), "");
  EXPECT_FALSE(has_process_with_argument(argument_));
}

TEST_F(AgentKill, ReachesADaemonOfItsOwnSession) {
  start("a", daemon_script(argument_) + "sleep 1000");
  ASSERT_TRUE(client_.kill("a", "cancelled").has_done());
  EXPECT_EQ(attach_and_read(client_, "a").exited.reason(), "cancelled");
  EXPECT_FALSE(has_process_with_argument(argument_));
}

TEST_F(AgentKill, WhatAProgramLeavesBehindIsDeadWhenItHasEnded) {
  const std::string script = daemon_script(argument_) + "exit 5";
  const Stream stream = run(client_, shell_execution("a", script));
  EXPECT_EQ(stream.exited.code(), 5);
  EXPECT_EQ(stream.exited.signal(), 0);
  EXPECT_FALSE(has_process_with_argument(argument_));
}

TEST_F(AgentKill, LeavesOtherExecutionsAlone) {
  start("other", daemon_script(argument_) + "sleep 1000");
  const std::string argument = unique_argument("2000.");
  run(client_, shell_execution("a", daemon_script(argument) + "exit 0"));
  EXPECT_FALSE(has_process_with_argument(argument));
  EXPECT_TRUE(has_process_with_argument(argument_));
  EXPECT_TRUE(client_.entry("other")->running());
}

TEST_F(AgentKill, TimeoutOfTheExecution) {
  v1::Spawn spawn = shell_execution("a", "trap '' TERM; echo begun; sleep 1000; sleep 1000");
  spawn.set_timeout_ms(500);
  const Stream stream = run(client_, spawn);
  EXPECT_EQ(stream.out, "begun\n");
  EXPECT_EQ(stream.exited.reason(), "timeout");
  EXPECT_EQ(stream.exited.limit(), "time");
  EXPECT_EQ(stream.exited.signal(), SIGKILL);
  EXPECT_GE(stream.exited.wall_us(), 400'000U);
}

TEST_F(AgentKill, TimeoutOfAStepEndsTheExecution) {
  v1::Spawn spawn = shell_execution("a", "echo one");
  *spawn.add_steps() = shell("sleep 1000");
  *spawn.add_steps() = shell("echo three");
  spawn.mutable_steps(0)->set_timeout_ms(100'000);
  spawn.mutable_steps(1)->set_timeout_ms(200);
  const Stream stream = run(client_, spawn);
  EXPECT_EQ(stream.out, "one\n");
  EXPECT_EQ(stream.exited.step(), 1U);
  EXPECT_EQ(stream.exited.limit(), "time");
}

TEST_F(AgentKill, EndsAForkBomb) {
  v1::Spawn spawn =
      shell_execution("a", "trap '' TERM; n=0; while [ $n -lt 8 ]; do (while :; do sleep " +
                               argument_ + " & sleep 0.02; done) & n=$((n+1)); done; wait");
  spawn.set_timeout_ms(1500);
  EXPECT_EQ(run(client_, spawn).exited.reason(), "timeout");
  EXPECT_FALSE(has_process_with_argument(argument_));
}

TEST_F(AgentKill, AProgramThatKillsItsHelperGainsNothing) {
  const std::string script = daemon_script(argument_) + "kill -9 $PPID; sleep 1000";
  const Stream stream = run(client_, shell_execution("a", script));
  EXPECT_EQ(stream.exited.signal(), SIGKILL);
  EXPECT_FALSE(has_process_with_argument(argument_));
  EXPECT_EQ(run(client_, shell_execution("b", "echo on")).out, "on\n");
}

TEST_F(AgentKill, AProgramThatStopsItsHelperGainsNothing) {
  const std::string script = daemon_script(argument_) + "kill -STOP $PPID; exit 0";
  const Stream stream = run(client_, shell_execution("a", script));
  EXPECT_TRUE(stream.complete);
  EXPECT_FALSE(has_process_with_argument(argument_));
}

TEST(AgentAsPid1, SurvivesAProgramThatKillsEverything) {
  if (!can_make_pid_namespace()) {
    GTEST_SKIP() << "this machine does not let us make a PID namespace";
  }
  AgentProcess::Options options;
  options.pid_namespace = true;
  AgentProcess agent(options);
  TestClient client(agent.socket_path());
  v1::AgentRequest hello;
  hello.mutable_hello();
  // Without this the script would be a danger to the machine.
  ASSERT_EQ(client.call(hello).welcome().pid(), 1U);
  ASSERT_TRUE(client.spawn(shell_execution("bystander", "sleep 1000")).has_done());
  const Stream term =
      run(client, shell_execution("term", "trap '' TERM; kill -TERM -1; kill -TERM 1; exit 4"));
  EXPECT_EQ(term.exited.code(), 4);
  // Before its helper is killed too, which else may not have come to say so.
  EXPECT_EQ(attach_and_read(client, "bystander").exited.signal(), SIGTERM);
  // Not before its helper has said that it runs.
  v1::Spawn kill = shell_execution("kill", "read x; sleep 1000 & kill -KILL -1; sleep 1000");
  kill.mutable_steps(0)->set_takes_input(true);
  ASSERT_TRUE(client.spawn(kill).has_done());
  ASSERT_TRUE(client.input("kill", "now\n", true).has_input_taken());
  const Stream killed = attach_and_read(client, "kill");
  EXPECT_EQ(killed.exited.signal(), SIGKILL);
  // Nothing is left but the agent, and this run's helper and shell.
  const Stream after =
      run(client, shell_execution("after", "set -- /proc/[0-9]*; echo $#; kill -KILL 1; echo on"));
  EXPECT_EQ(after.out, "3\non\n");
}

}  // namespace
}  // namespace runbus::agent_test
