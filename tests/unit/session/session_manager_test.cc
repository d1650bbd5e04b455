#include "services/session/session_manager.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "services/session/digest.h"
#include "services/session/engine_state.h"
#include "services/session/remove_tree.h"
#include "tests/unit/session/node_fixture.h"

namespace runbus::session {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class SessionManagerTest : public ::testing::Test, public testing::NodeFixture {};

TEST_F(SessionManagerTest, MakesOneSandboxForCallersAtTheSameTime) {
  const auto manager = make_manager();
  std::vector<SessionPtr> sessions;
  for (int index = 0; index < 5; ++index) {
    manager->find_or_create(
        "s", {}, [&](const Result<SessionPtr>& session) { sessions.push_back(session.value()); });
  }
  EXPECT_THAT(sessions, IsEmpty());
  ASSERT_TRUE(loop.until([&] { return sessions.size() == 5; }));
  for (const SessionPtr& session : sessions) {
    EXPECT_EQ(session, sessions.front());
  }
  EXPECT_THAT(events, ElementsAre("opened s"));
  EXPECT_GT(agent_pid(*sessions.front()), 0);
}

TEST_F(SessionManagerTest, AnotherWorkerOfTheNodeUsesTheSameSandbox) {
  const auto first = make_manager();
  const auto second = make_manager();
  std::vector<SessionPtr> sessions;
  const auto keep = [&](const Result<SessionPtr>& session) { sessions.push_back(session.value()); };
  first->find_or_create("s", {}, keep);
  second->find_or_create("s", {}, keep);
  ASSERT_TRUE(loop.until([&] { return sessions.size() == 2; }));
  EXPECT_EQ(agent_pid(*sessions[0]), agent_pid(*sessions[1]));
  EXPECT_THAT(events, ElementsAre("opened s"));
}

// The engine's key names the cgroup and the container, which all state directories of a host share.
TEST_F(SessionManagerTest, ASessionOfTheSameIdInAnotherStateDirectoryHasAnotherKey) {
  testing::NodeFixture elsewhere;
  const auto here = make_manager();
  const auto there = elsewhere.make_manager();
  ASSERT_TRUE(open(*here, "s").has_value());
  ASSERT_TRUE(elsewhere.open(*there, "s").has_value());
  const auto key = [](const std::string& state_dir) {
    return EngineState::load(SandboxStore(state_dir).dir(sandbox_key("s"))).value().key;
  };
  EXPECT_FALSE(key(state_dir()).empty());
  EXPECT_NE(key(state_dir()), key(elsewhere.state_dir()));
}

TEST_F(SessionManagerTest, ALaterWorkerAdoptsLivingSandboxesAndRemovesDeadOnes) {
  pid_t living = 0;
  {
    const auto manager = make_manager();
    living = agent_pid(*open(*manager, "living").value());
    const pid_t dead = agent_pid(*open(*manager, "dead").value());
    ASSERT_EQ(::kill(dead, SIGKILL), 0);
  }
  auto with = options();
  with.sweep_interval = std::chrono::milliseconds(100);  // at the first it may not be dead yet
  const auto manager = make_manager(with);
  manager->adopt();
  ASSERT_TRUE(loop.until([&] { return leaves_nothing("dead"); }));
  const auto found = find(*manager, "living");
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(agent_pid(**found), living);
  EXPECT_EQ(find(*manager, "dead").error().code, ErrorCode::kNotFound);
}

TEST_F(SessionManagerTest, CloseLeavesNothingBehind) {
  const auto manager = make_manager();
  const auto session = open(*manager, "s").value();
  const pid_t agent = agent_pid(*session);
  ASSERT_TRUE(close(*manager, "s").has_value());
  EXPECT_TRUE(leaves_nothing("s"));
  EXPECT_TRUE(std::filesystem::is_empty(state_dir() + "/locks"));
  // Whoever has it may reap it late.
  EXPECT_TRUE(loop.until([&] { return ::kill(agent, 0) != 0; }));
  EXPECT_EQ(find(*manager, "s").error().code, ErrorCode::kNotFound);
  EXPECT_TRUE(close(*manager, "s").has_value());
  EXPECT_THAT(events, ElementsAre("opened s", "closed s"));
}

TEST_F(SessionManagerTest, ASessionThatIsOpenedWhileItClosesIsANewOne) {
  const auto manager = make_manager();
  const pid_t before = agent_pid(*open(*manager, "s").value());
  bool closed = false;
  manager->close("s", [&](const Result<void>&) { closed = true; });
  const auto session = open(*manager, "s");
  EXPECT_TRUE(closed);
  ASSERT_TRUE(session.has_value());
  EXPECT_NE(agent_pid(**session), before);
}

TEST_F(SessionManagerTest, ASandboxThatDiesIsRemovedAndASessionGetsANewOne) {
  const auto manager = make_manager();
  const pid_t agent = agent_pid(*open(*manager, "s").value());
  ASSERT_EQ(::kill(agent, SIGKILL), 0);
  ASSERT_TRUE(loop.until([&] { return events.size() == 2; }));
  EXPECT_THAT(events, ElementsAre("opened s", "closed s"));
  EXPECT_TRUE(leaves_nothing("s"));
  EXPECT_TRUE(open(*manager, "s").has_value());
}

TEST_F(SessionManagerTest, RefusesSessionsPastTheNodesLimit) {
  auto with = options();
  with.keeper.max_sessions = 1;
  const auto manager = make_manager(with);
  ASSERT_TRUE(open(*manager, "a").has_value());
  const auto refused = open(*manager, "b");
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, ErrorCode::kQuota);
  EXPECT_EQ(refused.error().limit, "sessions");
  EXPECT_TRUE(leaves_nothing("b"));
  EXPECT_TRUE(open(*manager, "a").has_value());
}

TEST_F(SessionManagerTest, LivingSandboxesShareTheNodesRoomForOutput) {
  auto with = options();
  with.node_log_space = 100'000;
  const auto manager = make_manager(std::move(with));
  const auto session = open(*manager, "s").value();
  const auto executions = [&] {
    agent_v1::AgentRequest request;
    request.mutable_list();
    return ask(*session, std::move(request)).value().listing().entries_size();
  };
  for (const char* id : {"a", "b"}) {
    agent_v1::AgentRequest request;
    request.mutable_spawn()->set_execution_id(id);
    auto* step = request.mutable_spawn()->add_steps();
    for (const char* word : {"head", "-c", "40000", "/dev/zero"}) {
      step->add_argv(word);
    }
    step->add_environment("PATH=/usr/bin:/bin");
    ASSERT_TRUE(ask(*session, std::move(request)).has_value());
    ASSERT_TRUE(loop.until([&] {
      agent_v1::AgentRequest list;
      list.mutable_list();
      const auto reply = ask(*session, std::move(list));
      return std::none_of(reply->listing().entries().begin(), reply->listing().entries().end(),
                          [](const auto& entry) { return entry.running(); });
    }));
  }
  EXPECT_EQ(executions(), 2);
  // Half of it is the other's now.
  const auto other = open(*manager, "t").value();
  EXPECT_TRUE(loop.until([&] { return executions() == 1; }));
}

TEST_F(SessionManagerTest, RefusesAnIdThatIsNone) {
  const auto manager = make_manager();
  EXPECT_EQ(open(*manager, "../x").error().code, ErrorCode::kValidation);
}

TEST_F(SessionManagerTest, SaysWhenNoSandboxCanBeMade) {
  auto with = options();
  with.keeper.agent = "/nonexistent/agent";
  const auto manager = make_manager(with);
  const auto refused = open(*manager, "s");
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, ErrorCode::kUnavailable);
  EXPECT_TRUE(leaves_nothing("s"));
}

TEST_F(SessionManagerTest, ReleaseClosesASessionThatNobodyUses) {
  const auto manager = make_manager();
  ASSERT_TRUE(open(*manager, "s").has_value());
  manager->release("s", std::chrono::milliseconds(10));
  ASSERT_TRUE(loop.until([&] { return leaves_nothing("s"); }));
}

TEST_F(SessionManagerTest, ReleaseIsVoidOnceAnotherWorkerUsesTheSession) {
  const auto first = make_manager();
  const auto second = make_manager();
  ASSERT_TRUE(open(*first, "s").has_value());
  ASSERT_TRUE(open(*first, "unused").has_value());
  first->release("s", std::chrono::milliseconds(500));
  ASSERT_TRUE(open(*second, "s").has_value());
  // Lingers longer than "s": once it has gone, the release of "s" has been decided.
  first->release("unused", std::chrono::milliseconds(1500));
  ASSERT_TRUE(loop.until([&] { return leaves_nothing("unused"); }));
  EXPECT_FALSE(leaves_nothing("s"));
}

TEST_F(SessionManagerTest, LetsGoOfASessionThatNobodyHoldsSoThatItsAgentEnds) {
  auto with = options();
  with.idle_disconnect = std::chrono::milliseconds(1);
  with.sweep_interval = std::chrono::milliseconds(50);
  with.destroy_after = std::chrono::milliseconds(100);
  const auto manager = make_manager(with);
  auto session = open(*manager, "s").value();
  manager->adopt();  // starts the sweeps
  session = nullptr;
  ASSERT_TRUE(loop.until([&] { return leaves_nothing("s"); }));
}

TEST_F(SessionManagerTest, DestroyAllEndsWhatEarlierWorkersLeft) {
  pid_t agent = 0;
  {
    const auto manager = make_manager();
    agent = agent_pid(*open(*manager, "s").value());
  }
  EXPECT_EQ(destroy_all_sandboxes(state_dir()).value(), 1U);
  EXPECT_TRUE(leaves_nothing("s"));
  // Whoever has it may reap it late.
  EXPECT_TRUE(loop.until([&] { return ::kill(agent, 0) != 0; }));
}

TEST(RemoveTree, RemovesATreeDeeperThanThereAreDescriptors) {
  // In memory where there is some: on a disk each level may cost milliseconds.
  const bool in_memory = ::access("/dev/shm", W_OK) == 0;
  const testing::TemporaryDirectory directory(in_memory ? "/dev/shm" : "/tmp");
  const int levels = in_memory ? 30'000 : 3'000;
  const std::string top = directory.path() + "/top";
  ASSERT_EQ(::mkdir(top.c_str(), 0700), 0);
  UniqueFd at(::open(top.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  for (int depth = 0; depth < levels; ++depth) {
    ASSERT_EQ(::mkdirat(at.get(), "d", 0700), 0);
    at.reset(::openat(at.get(), "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  }
  at.reset();
  EXPECT_TRUE(remove_tree(top).has_value());
  EXPECT_NE(::access(top.c_str(), F_OK), 0);
}

TEST(RemoveTree, RemovesOddNamesAndModesAndNotWhatLinksPointAt) {
  const testing::TemporaryDirectory directory;
  const std::string top = directory.path() + "/top";
  const std::string outside = directory.path() + "/outside";
  std::filesystem::create_directories(top + "/-rf/\n\xff\xfe");
  std::ofstream(outside) << "kept";
  std::filesystem::create_directories(top + "/a/b/c/d");
  std::ofstream(top + "/a/b/c/d/file") << "x";
  ASSERT_EQ(::symlink(outside.c_str(), (top + "/link").c_str()), 0);
  ASSERT_EQ(::symlink(directory.path().c_str(), (top + "/a/b/up").c_str()), 0);
  ASSERT_EQ(::mkfifo((top + "/a/fifo").c_str(), 0600), 0);
  ASSERT_EQ(::chmod((top + "/a/b/c").c_str(), 0), 0);
  ASSERT_EQ(::chmod((top + "/a").c_str(), 0), 0);
  EXPECT_TRUE(remove_tree(top).has_value());
  EXPECT_FALSE(std::filesystem::exists(top));
  EXPECT_TRUE(std::filesystem::exists(outside));
  EXPECT_TRUE(remove_tree(top).has_value());
}

TEST(Digest, IsSha256) {
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

}  // namespace
}  // namespace runbus::session
