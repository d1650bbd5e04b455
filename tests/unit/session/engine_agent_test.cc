// The true agent in real sandboxes: it starts, answers, and what it runs is confined.
#include <arpa/inet.h>
#include <gmock/gmock.h>

#include <cstring>
#include <regex>

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
  static std::string run(const Session& session, const std::string& command,
                         const std::string& id = "e1") {
    Connection connection(session.connect());
    agent_v1::AgentRequest hello;
    hello.set_request_id(1);
    hello.mutable_hello()->set_version("test");
    connection.send(hello);
    agent_v1::AgentRequest request;
    request.set_request_id(2);
    agent_v1::Spawn& spawn = *request.mutable_spawn();
    spawn.set_execution_id(id);
    agent_v1::Step& step = *spawn.add_steps();
    for (const char* word : {"/bin/sh", "-c", command.c_str()}) {
      step.add_argv(word);
    }
    step.add_environment("PATH=/usr/bin");
    connection.send(request);
    request.Clear();
    request.set_request_id(3);
    request.mutable_attach()->set_execution_id(id);
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
INSTANTIATE_TEST_SUITE_P(Engines, AgentIn,
                         ::testing::Values("bubblewrap", "oci", "runsc", "process"),
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
  if (std::string(GetParam()) == "runsc") {
    GTEST_SKIP() << "what its kernel refuses it refuses in other words (tests/integration/abuse)";
  }
  const std::string told = run(session, "./attacker attack calls; ./attacker attack useful");
  EXPECT_THAT(told, HasSubstr("denied device node"));
  EXPECT_THAT(told, HasSubstr("ok urandom"));
  EXPECT_THAT(told, Not(HasSubstr("ALLOWED")));
  EXPECT_THAT(told, Not(HasSubstr("BROKEN")));
}

// Whether `segment` is made of whole records (services/log): stream or note, length in 3 bytes,
// bytes.
bool is_records(const std::string& segment) {
  std::size_t at = 0;
  while (at + 4 <= segment.size()) {
    const auto byte = [&](std::size_t index) {
      return static_cast<std::size_t>(static_cast<unsigned char>(segment[at + index]));
    };
    if (byte(0) != 1 && byte(0) != 2 && byte(0) < 254) {
      return false;
    }
    at += 4 + (byte(1) << 16U | byte(2) << 8U | byte(3));
  }
  return at == segment.size() && at > 0;
}

// A program may reach its own pipes through the agent's descriptors, where a kernel shows them;
// what it prints by them is a record like any other.
TEST_P(AgentIn, KeepsItsLogFromPrograms) {
  Session session(GetParam(), RUNBUS_AGENT);
  session.start();
  const std::string log = session.state_dir() + "/log/";
  EXPECT_THAT(run(session, "ls -d /run/runbus/log/* /run/runbus/socket/* 2>/dev/null; echo first"),
              HasSubstr("first\nended"));
  const std::string first = read_small_file(log + "e1/0");
  EXPECT_THAT(first, HasSubstr("first"));
  EXPECT_THAT(first, Not(HasSubstr("log/e1")));  // nothing was listed
  const std::string told =
      run(session, "for f in /proc/1/fd/*; do echo x >> $f; done 2>/dev/null; echo again", "e2");
  // What came by the pipe of the other stream may be read later than "again".
  EXPECT_THAT(std::regex_replace(told, std::regex("x\n"), ""), HasSubstr("again\nended"));
  EXPECT_EQ(first, read_small_file(log + "e1/0"));
  EXPECT_TRUE(is_records(read_small_file(log + "e2/0")));
}

// gVisor's sandboxes, which differ in what they are made of (runsc_engine.h).
class Runsc : public AgentIn {};
INSTANTIATE_TEST_SUITE_P(Engines, Runsc, ::testing::Values("runsc"),
                         [](const auto& each) { return std::string(each.param); });

TEST_P(Runsc, KeepsTheSocketOutOfTheSandbox) {
  Session session(GetParam(), RUNBUS_AGENT);
  session.start();
  EXPECT_FALSE(std::filesystem::exists(session.state_dir() + "/socket/agent.sock"));
  EXPECT_TRUE(std::filesystem::is_socket(session.spec().listen_path));
  EXPECT_THAT(run(session, "echo through"), HasSubstr("through\nended"));
}

TEST_P(Runsc, IsDestroyedWithAllItsProcessesAlsoWhilePaused) {
  for (const bool paused : {false, true}) {
    Session session(GetParam(), RUNBUS_AGENT);
    session.start();
    EXPECT_THAT(run(session, "true"), HasSubstr("ended"));
    const Result<EngineState> state = EngineState::load(session.state_dir());
    ASSERT_TRUE(state);
    if (paused && probe_of(GetParam()).enforced.at("pause") == "cgroup") {
      ASSERT_TRUE(session.engine().pause(session.state_dir()));
    }
    const Result<void> destroyed = session.engine().destroy(session.state_dir());
    EXPECT_TRUE(destroyed) << to_string(destroyed.error());
    EXPECT_FALSE(session.engine().alive(session.state_dir()));
    EXPECT_FALSE(state->first.alive());
    for (const std::string& folder : state->cgroup.folders) {
      EXPECT_FALSE(std::filesystem::exists(folder)) << folder;
    }
    EXPECT_FALSE(std::filesystem::exists(state->runtime_root));
    EXPECT_THAT(read_small_file("/proc/self/mountinfo"), Not(HasSubstr(session.state_dir())));
    EXPECT_TRUE(session.engine().destroy(session.state_dir()));  // again: nothing to do
  }
}

TEST_P(Runsc, IsFoundAndEndedByAnotherEngineObject) {
  Session session(GetParam(), RUNBUS_AGENT);
  session.start();
  const auto later = testing::engine_of("oci");  // whoever tidies up has no setting of the runtime
  EXPECT_TRUE(later->alive(session.state_dir()));
  EXPECT_TRUE(later->destroy(session.state_dir()));
  EXPECT_FALSE(session.engine().alive(session.state_dir()));
  const Result<Sandbox> again = session.engine().create(session.spec());
  ASSERT_TRUE(again) << to_string(again.error());  // and starts anew in the same place
  EXPECT_THAT(run(session, "echo again"), HasSubstr("again\nended"));
}

TEST_P(Runsc, TellsThatMemoryEndedIt) {
  if (probe_of(GetParam()).enforced.at("memory") != "cgroup") {
    GTEST_SKIP() << "memory is not bounded here";
  }
  Session session(GetParam(), RUNBUS_AGENT);
  session.spec().limits.memory = 128U << 20U;
  session.start();
  EXPECT_EQ("", session.engine().ended_by(session.state_dir()));
  EXPECT_THAT(run(session, "exec head -c 1G /dev/zero | tail"), HasSubstr("lost"));
  EXPECT_TRUE(testing::eventually([&] { return !session.engine().alive(session.state_dir()); }));
  EXPECT_EQ("memory", session.engine().ended_by(session.state_dir()));
}

}  // namespace
}  // namespace runbus::session
