// The true agent in real sandboxes: it starts, answers, and what it runs is confined.
#include <arpa/inet.h>
#include <gmock/gmock.h>

#include <cstring>

#include "runbus/v1/agent.pb.h"
#include "tests/unit/session/engine_fixture.h"

namespace runbus::session {
namespace {

namespace agent_v1 = ::runbus::v1::agent;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::probe_of;
using testing::Session;

// Blocking frames (agent.proto) on one connection.
class Connection {
 public:
  explicit Connection(UniqueFd fd) : fd_(std::move(fd)) {}

  void send(const agent_v1::AgentRequest& request) {
    const std::string body = request.SerializeAsString();
    const std::uint32_t sizes[2] = {htonl(static_cast<std::uint32_t>(body.size())), 0};
    const std::string frame =
        std::string(reinterpret_cast<const char*>(sizes), sizeof sizes) + body;
    EXPECT_EQ(static_cast<ssize_t>(frame.size()),
              ::send(fd_.get(), frame.data(), frame.size(), MSG_NOSIGNAL));
  }
  // False at the end of the connection, or after a minute of silence.
  bool receive(agent_v1::AgentReply& reply, std::string& payload) {
    std::string head = read(8);
    std::uint32_t sizes[2] = {};
    if (head.size() != 8) {
      return false;
    }
    std::memcpy(sizes, head.data(), 8);
    const std::string body = read(ntohl(sizes[0]));
    payload = read(ntohl(sizes[1]));
    return reply.ParseFromString(body);
  }

 private:
  std::string read(std::size_t size) {
    std::string bytes(size, '\0');
    std::size_t have = 0;
    while (have < size) {
      const ssize_t got = ::read(fd_.get(), bytes.data() + have, size - have);
      if (got <= 0) {
        return bytes.substr(0, have);
      }
      have += static_cast<std::size_t>(got);
    }
    return bytes;
  }
  UniqueFd fd_;
};

class AgentIn : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const Probe& probe = probe_of(GetParam());
    if (!probe.works) {
      GTEST_SKIP() << GetParam() << " does not work here: " << probe.why.at("works");
    }
  }
  // What `command` prints when the agent runs it.
  static std::string run(const Session& session, const std::string& command) {
    Connection connection(session.connect());
    agent_v1::AgentRequest hello;
    hello.set_request_id(1);
    hello.mutable_hello()->set_version("test");
    connection.send(hello);
    agent_v1::AgentRequest request;
    request.set_request_id(2);
    agent_v1::Spawn& spawn = *request.mutable_spawn();
    spawn.set_execution_id("e1");
    agent_v1::Step& step = *spawn.add_steps();
    for (const char* word : {"/bin/sh", "-c", command.c_str()}) {
      step.add_argv(word);
    }
    step.add_environment("PATH=/usr/bin");
    connection.send(request);
    request.Clear();
    request.set_request_id(3);
    request.mutable_attach()->set_execution_id("e1");
    request.mutable_attach()->set_credit(1U << 20);
    connection.send(request);
    agent_v1::AgentReply reply;
    std::string output;
    for (std::string payload; connection.receive(reply, payload);) {
      if (reply.has_failed()) {
        return "failed: " + reply.failed().detail();
      }
      if (reply.has_output()) {
        output += payload;
      }
      if (reply.has_exited()) {
        return output + "ended";
      }
    }
    return output + "lost\n" + session.log();
  }
};
INSTANTIATE_TEST_SUITE_P(Engines, AgentIn, ::testing::Values("bubblewrap", "oci", "process"),
                         [](const auto& each) { return std::string(each.param); });

TEST_P(AgentIn, RunsProgramsInTheWorkspace) {
  Session session(GetParam(), RUNBUS_AGENT);
  session.start();
  EXPECT_THAT(run(session, "pwd; echo hello > made; cat made"), HasSubstr("hello\nended"));
  EXPECT_EQ("hello\n", read_small_file(session.spec().workspace + "/made"));
}

TEST_P(AgentIn, ConfinesWhatItRuns) {
  if (std::string(GetParam()) == "process") {
    GTEST_SKIP() << "the process engine confines nothing";
  }
  Session session(GetParam(), RUNBUS_AGENT);
  std::filesystem::copy_file(RUNBUS_TEST_AGENT, session.spec().workspace + "/attacker");
  session.start();
  const std::string told = run(session, "./attacker attack calls; ./attacker attack useful");
  EXPECT_THAT(told, HasSubstr("denied device node"));
  EXPECT_THAT(told, HasSubstr("ok urandom"));
  EXPECT_THAT(told, Not(HasSubstr("ALLOWED")));
  EXPECT_THAT(told, Not(HasSubstr("BROKEN")));
}

}  // namespace
}  // namespace runbus::session
