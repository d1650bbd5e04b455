#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "tests/unit/agent/agent_process.h"
#include "tests/unit/agent/test_client.h"

namespace runbus::agent_test {
namespace {

v1::AgentRequest configuration(std::uint64_t destroy_after_ms, std::uint64_t result_ttl_ms) {
  v1::AgentRequest request;
  request.mutable_configure()->set_destroy_after_ms(destroy_after_ms);
  request.mutable_configure()->set_result_ttl_ms(result_ttl_ms);
  return request;
}

TEST(AgentLifetime, ExecutionsBelongToNoConnection) {
  AgentProcess agent;
  {
    TestClient first(agent.socket_path());
    ASSERT_TRUE(first.spawn(shell_execution("a", "until [ -e go ]; do sleep 0.01; done; echo went"))
                    .has_done());
  }
  TestClient second(agent.socket_path());
  ASSERT_TRUE(second.entry("a")->running());
  ASSERT_TRUE(second.write_file("go", "").has_done());
  EXPECT_EQ(attach_and_read(second, "a").out, "went\n");
}

TEST(AgentLifetime, KeepsAResultForItsTime) {
  AgentProcess agent;
  TestClient client(agent.socket_path());
  run(client, shell_execution("a", "exit 0"));
  ASSERT_TRUE(client.entry("a").has_value());
  EXPECT_TRUE(client.entry("a")->has_exited());
  ASSERT_TRUE(client.call(configuration(0, 50)).has_done());
  EXPECT_TRUE(eventually([&] { return !client.entry("a").has_value(); }));
}

TEST(AgentLifetime, KeepsTheLatest256Results) {
  AgentProcess agent;
  TestClient client(agent.socket_path());
  // None goes by its age, however slow the machine is.
  ASSERT_TRUE(client.call(configuration(3'600'000, 3'600'000)).has_done());
  v1::Spawn spawn = shell_execution("", "");
  spawn.mutable_steps(0)->mutable_argv()->Clear();
  spawn.mutable_steps(0)->add_argv("true");
  for (int i = 0; i < 260; ++i) {
    spawn.set_execution_id("e" + std::to_string(i));
    const Stream stream = run(client, spawn);
    ASSERT_EQ(stream.exited.code(), 0);
  }
  EXPECT_FALSE(client.entry("e0").has_value());
  EXPECT_FALSE(client.entry("e3").has_value());
  EXPECT_TRUE(client.entry("e4").has_value());
  EXPECT_TRUE(client.entry("e259").has_value());
  // What the next run needs of the disk is there before it comes.
  EXPECT_TRUE(
      eventually([&] { return std::filesystem::exists(agent.directory() + "/logs/.next/0"); }));
}

TEST(AgentLifetime, TheOldestResultsGoWhenThereIsLessRoomForThemAll) {
  AgentProcess agent;
  TestClient client(agent.socket_path());
  for (const char* id : {"a", "b", "c"}) {
    run(client, shell_execution(id, "head -c 40000 /dev/zero"));
  }
  v1::AgentRequest request = configuration(0, 0);
  request.mutable_configure()->set_log_space(100'000);
  ASSERT_TRUE(client.call(request).has_done());
  EXPECT_FALSE(client.entry("a").has_value());
  EXPECT_TRUE(client.entry("b").has_value());
  run(client, shell_execution("d", "head -c 40000 /dev/zero"));
  EXPECT_FALSE(client.entry("b").has_value());
  EXPECT_TRUE(client.entry("c").has_value());
  // No less than before when it is not said.
  ASSERT_TRUE(client.call(configuration(0, 0)).has_done());
  run(client, shell_execution("e", "head -c 40000 /dev/zero"));
  EXPECT_TRUE(client.entry("c").has_value());
}

TEST(AgentLifetime, ForgettingUnderAReaderNamesTheRestAGap) {
  AgentProcess agent;
  TestClient client(agent.socket_path());
  client.spawn_attached(shell_execution("a", "echo hello"), 2);
  ASSERT_TRUE(eventually([&] { return !client.entry("a")->running(); }));
  v1::AgentRequest request;
  request.mutable_forget()->set_execution_id("a");
  ASSERT_TRUE(client.call(request).has_done());
  const Stream stream = read_to_end(client, "a");
  EXPECT_EQ(stream.out, "he");
  ASSERT_EQ(stream.gaps.size(), 1U);
  EXPECT_EQ(stream.gaps[0].second, 6U);
}

TEST(AgentLifetime, EndsWhenIdleForLong) {
  AgentProcess agent;
  {
    TestClient client(agent.socket_path());
    ASSERT_TRUE(client.call(configuration(100, 0)).has_done());
    ASSERT_TRUE(
        client.spawn(shell_execution("a", "until [ -e go ]; do sleep 0.01; done")).has_done());
  }
  TestClient client(agent.socket_path());
  ASSERT_TRUE(client.entry("a")->running());
  ASSERT_TRUE(client.write_file("go", "").has_done());
  ASSERT_TRUE(eventually([&] { return !client.entry("a")->running(); }));
  { const TestClient last = std::move(client); }
  EXPECT_EQ(agent.wait_for_exit_code(), 0);
}

TEST(AgentLifetime, ShutdownAndTermKillEverything) {
  for (const bool by_request : {true, false}) {
    AgentProcess agent;
    TestClient client(agent.socket_path());
    const std::string argument = unique_argument("1000.");
    ASSERT_TRUE(client.spawn(shell_execution("a", "setsid sleep " + argument + " & sleep 1000"))
                    .has_done());
    ASSERT_TRUE(eventually([&] { return has_process_with_argument(argument); }));
    if (by_request) {
      v1::AgentRequest request;
      request.mutable_shutdown();
      EXPECT_TRUE(client.call(request).has_done());
    } else {
      ::kill(agent.pid(), SIGTERM);
    }
    EXPECT_EQ(agent.wait_for_exit_code(), 0);
    EXPECT_FALSE(has_process_with_argument(argument));
  }
}

TEST(AgentLifetime, ServesSixtyFourConnectionsAndTheNextWhenOneGoes) {
  AgentProcess agent;
  std::vector<std::unique_ptr<TestClient>> clients;
  v1::AgentRequest hello;
  hello.mutable_hello();
  for (int i = 0; i < 64; ++i) {
    clients.push_back(std::make_unique<TestClient>(agent.socket_path()));
    ASSERT_TRUE(clients.back()->call(hello).has_welcome());
  }
  TestClient next(agent.socket_path());
  hello.set_request_id(1);
  next.send(hello);
  clients.pop_back();
  const auto received = next.next();
  ASSERT_TRUE(received.has_value());
  EXPECT_TRUE(received->reply.has_welcome());
}

TEST(AgentLifetime, RefusesDescriptorsItCannotUse) {
  AgentProcess::Options options;
  options.arguments = {"--listen-fd", "0"};
  AgentProcess agent(options);
  EXPECT_EQ(agent.wait_for_exit_code(), 2);
}

}  // namespace
}  // namespace runbus::agent_test
