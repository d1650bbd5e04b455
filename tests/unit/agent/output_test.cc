#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <string>

#include "tests/unit/agent/agent_process.h"
#include "tests/unit/agent/test_client.h"

namespace runbus::agent_test {
namespace {

// Numbered lines: what is lost, doubled or out of order shows.
std::string numbered_lines(int count) {
  std::string text;
  for (int i = 1; i <= count; ++i) {
    text += std::to_string(i) + "\n";
  }
  return text;
}

class AgentOutput : public ::testing::Test {
 protected:
  // The end offset once it has stopped growing for a while: the program is blocked.
  std::uint64_t settled_end(const std::string& id) {
    std::uint64_t last = 0;
    int same = 0;
    EXPECT_TRUE(eventually([&] {
      const std::uint64_t end = client_.entry(id)->end_offset();
      same = end == last && end > 0 ? same + 1 : 0;
      last = end;
      return same >= 50;
    }));
    return last;
  }

  AgentProcess agent_;
  TestClient client_{agent_.socket_path()};
};

TEST_F(AgentOutput, NumbersTheBytesOfBothStreamsInOneSequence) {
  const Stream stream = run(
      client_, shell_execution("a", "for i in 1 2 3 4 5 6 7 8 9; do echo o$i; echo e$i >&2; done"));
  EXPECT_EQ(stream.out, "o1\no2\no3\no4\no5\no6\no7\no8\no9\n");
  EXPECT_EQ(stream.err, "e1\ne2\ne3\ne4\ne5\ne6\ne7\ne8\ne9\n");
  EXPECT_EQ(stream.exited.end_offset(), 54U);
}

// The program may have printed before its helper says that it runs.
TEST_F(AgentOutput, ComesAfterTheAnswerToItsSpawn) {
  constexpr int kAtOnce = 16;
  for (int round = 0; round < 10; ++round) {
    std::map<std::string, std::uint64_t> spawned;
    for (int i = 0; i < kAtOnce; ++i) {
      const std::string id = std::to_string(round) + "-" + std::to_string(i);
      v1::AgentRequest request;
      request.set_request_id(spawned[id] = 1'000'000 + static_cast<std::uint64_t>(i));
      *request.mutable_spawn() = shell_execution(id, "");
      auto& argv = *request.mutable_spawn()->mutable_steps(0)->mutable_argv();
      argv.Clear();
      argv.Add("/bin/echo");
      argv.Add("x");
      client_.send(request);
      v1::AgentRequest attach;
      attach.set_request_id(2'000'000 + static_cast<std::uint64_t>(i));
      attach.mutable_attach()->set_execution_id(id);
      attach.mutable_attach()->set_credit(kPlenty);
      client_.send(attach);
    }
    for (int ended = 0; ended < kAtOnce;) {
      const auto received = client_.next();
      ASSERT_TRUE(received.has_value());
      const v1::AgentReply& reply = received->reply;
      if (reply.has_done()) {
        std::erase_if(spawned,
                      [&reply](const auto& each) { return each.second == reply.request_id(); });
      }
      ASSERT_FALSE(reply.has_output() && spawned.contains(reply.output().execution_id()));
      ASSERT_FALSE(reply.has_exited() && spawned.contains(reply.exited().execution_id()));
      ended += reply.has_exited() ? 1 : 0;
    }
  }
}

TEST_F(AgentOutput, IsCompleteUnderCredit) {
  constexpr int kLines = 6'300'000;  // about 50 MB
  v1::Spawn spawn = shell_execution("a", "seq 1 " + std::to_string(kLines));
  ASSERT_TRUE(client_.spawn(spawn).has_done());
  ASSERT_TRUE(client_.attach("a", 0, 300'000).has_attached());
  const Stream stream = read_to_end(client_, "a", 0, 300'000);
  EXPECT_TRUE(stream.gaps.empty());
  EXPECT_TRUE(stream.out == numbered_lines(kLines));
}

TEST_F(AgentOutput, WithoutCreditTheProgramBlocksAndLaterResumes) {
  constexpr int kLines = 2'000'000;  // about 15 MB
  client_.spawn_attached(
      shell_execution("a", "seq 1 " + std::to_string(kLines) + "; echo done >&2"), 0);
  // The window and one read at most.
  EXPECT_LE(settled_end("a"), (1U << 20) + (256U << 10));
  EXPECT_TRUE(client_.entry("a")->running());
  client_.credit("a", 4'000'000);
  ASSERT_TRUE(eventually([&] { return client_.entry("a")->end_offset() >= 4'000'000; }));
  EXPECT_LE(settled_end("a"), 4'000'000 + (1U << 20) + (256U << 10));
  client_.credit("a", kPlenty);
  const Stream stream = read_to_end(client_, "a");
  EXPECT_TRUE(stream.gaps.empty());
  EXPECT_TRUE(stream.out == numbered_lines(kLines));
  EXPECT_EQ(stream.err, "done\n");
}

TEST_F(AgentOutput, ABlockedProgramGoesOnWhenItsReaderGoesAway) {
  {
    TestClient other(agent_.socket_path());
    other.spawn_attached(shell_execution("a", "seq 1 1000000"), 10);
    ASSERT_TRUE(eventually([&] { return client_.entry("a").has_value(); }));
    EXPECT_LE(settled_end("a"), (1U << 20) + (256U << 10));
  }
  EXPECT_TRUE(eventually([&] { return !client_.entry("a")->running(); }));
  EXPECT_TRUE(attach_and_read(client_, "a").out == numbered_lines(1'000'000));
}

TEST_F(AgentOutput, AReaderThatDoesNotReadDelaysNobodyElse) {
  TestClient stuck(agent_.socket_path());
  stuck.spawn_attached(shell_execution("stuck", "exec cat /dev/zero"), kPlenty);
  ASSERT_TRUE(eventually([&] { return client_.entry("stuck").has_value(); }));
  // Nobody reads `stuck`: its queue fills, and then its program blocks.
  settled_end("stuck");
  const Stream stream = run(client_, shell_execution("a", "seq 1 300000"));
  EXPECT_TRUE(stream.out == numbered_lines(300'000));
  EXPECT_TRUE(client_.kill("stuck", "cancelled").has_done());
  EXPECT_TRUE(eventually([&] { return !client_.entry("stuck")->running(); }));
}

TEST_F(AgentOutput, CanBeReadAgainFromAnyOffset) {
  const std::string lines = numbered_lines(200'000);
  ASSERT_TRUE(client_.spawn(shell_execution("a", "seq 1 200000")).has_done());
  TestClient other(agent_.socket_path());
  EXPECT_TRUE(attach_and_read(other, "a").out == lines);
  EXPECT_TRUE(attach_and_read(client_, "a", 1'000'000).out == lines.substr(1'000'000));
  const std::uint64_t end = lines.size();
  EXPECT_EQ(attach_and_read(client_, "a", end).out, "");
  EXPECT_EQ(client_.attach("a", end + 1, 1).failed().reason(), v1::Failed::INVALID);
  const v1::Attached attached = client_.attach("a", end, 0).attached();
  EXPECT_FALSE(attached.running());
  EXPECT_EQ(attached.end_offset(), end);
}

TEST_F(AgentOutput, GoesToSeveralReadersAtOnce) {
  const std::string lines = numbered_lines(500'000);
  TestClient other(agent_.socket_path());
  ASSERT_TRUE(
      client_.spawn(shell_execution("a", "until [ -e go ]; do sleep 0.01; done; seq 1 500000"))
          .has_done());
  ASSERT_TRUE(client_.attach("a", 0, 100'000).has_attached());
  ASSERT_TRUE(other.attach("a", 500'000, kPlenty).has_failed());
  ASSERT_TRUE(client_.write_file("go", "").has_done());
  ASSERT_TRUE(eventually([&] { return other.attach("a", 500'000, kPlenty).has_attached(); }));
  EXPECT_TRUE(read_to_end(client_, "a", 0, 100'000).out == lines);
  EXPECT_TRUE(read_to_end(other, "a", 500'000).out == lines.substr(500'000));
}

TEST_F(AgentOutput, NamesTheGapOfWhatWasEvicted) {
  v1::Spawn spawn = shell_execution("a", "seq 1 1000000");
  spawn.set_log_size(1'000'000);
  ASSERT_TRUE(client_.spawn(spawn).has_done());
  ASSERT_TRUE(eventually([&] { return !client_.entry("a")->running(); }));
  const std::string lines = numbered_lines(1'000'000);
  const Stream stream = attach_and_read(client_, "a", 5);
  ASSERT_EQ(stream.gaps.size(), 1U);
  EXPECT_EQ(stream.gaps[0].first, 5U);
  EXPECT_EQ(stream.gaps[0].second, client_.entry("a")->first_offset());
  EXPECT_GE(stream.out.size(), 900'000U);
  EXPECT_TRUE(lines.ends_with(stream.out));
}

TEST_F(AgentOutput, OfADaemonThatHoldsThePipeIsNotWaitedFor) {
  const std::string argument = unique_argument("1000.");
  const Stream stream =
      run(client_, shell_execution("a", "setsid sleep " + argument + " & echo here"));
  EXPECT_EQ(stream.out, "here\n");
  EXPECT_EQ(stream.exited.code(), 0);
  EXPECT_FALSE(has_process_with_argument(argument));
}

TEST(AgentOutputWithoutLogDirectory, KeepsTheLastInMemory) {
  AgentProcess::Options options;
  options.log_directory = false;
  AgentProcess agent(options);
  TestClient client(agent.socket_path());
  ASSERT_TRUE(client.spawn(shell_execution("a", "seq 1 1000000")).has_done());
  ASSERT_TRUE(eventually([&] { return !client.entry("a")->running(); }));
  const Stream stream = attach_and_read(client, "a");
  EXPECT_EQ(stream.gaps.size(), 1U);
  EXPECT_GT(stream.out.size(), 900'000U);
  EXPECT_LE(stream.out.size(), 1U << 20);
  EXPECT_TRUE(numbered_lines(1'000'000).ends_with(stream.out));
  // With a reader nothing is lost.
  client.spawn_attached(shell_execution("b", "seq 1 1000000"), 50'000);
  EXPECT_TRUE(read_to_end(client, "b", 0, 50'000).out == numbered_lines(1'000'000));
}

}  // namespace
}  // namespace runbus::agent_test
