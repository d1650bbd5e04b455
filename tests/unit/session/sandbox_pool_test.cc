#include "services/session/sandbox_pool.h"

#include <gmock/gmock.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <set>
#include <thread>

#include "services/session/engine_state.h"
#include "tests/unit/session/node_fixture.h"

namespace runbus::session {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class SandboxPoolTest : public ::testing::Test, public testing::NodeFixture {
 protected:
  ManagerOptions with_pool(std::size_t size) {
    ManagerOptions result = options();
    result.pool.size = size;
    return result;
  }
  SandboxStore store() const { return SandboxStore(state_dir()); }
  // Sandboxes that may be taken now.
  std::vector<std::string> ready() const {
    std::vector<std::string> ids;
    for (const auto& [id, kind] : store().ready_kinds()) {
      ids.push_back(id);
    }
    return ids;
  }
  bool filled(std::size_t size) {
    return loop.until([&] { return ready().size() == size; });
  }
};

TEST_F(SandboxPoolTest, ANewSessionTakesAReadySandboxAndTheNextOneIsMade) {
  const auto manager = make_manager(with_pool(1));
  manager->adopt();
  ASSERT_TRUE(filled(1));
  const std::string id = ready().front();
  const auto session = open(*manager, "s").value();
  EXPECT_EQ(session->record().dir, store().pool_dir(id));
  EXPECT_EQ(session->record().session_id, "s");
  EXPECT_GT(agent_pid(*session), 0);
  EXPECT_THAT(events, ElementsAre("opened s"));
  ASSERT_TRUE(filled(1));
  EXPECT_NE(ready().front(), id);
  EXPECT_EQ(open(*manager, "s").value(), session);
}

TEST_F(SandboxPoolTest, NoTwoSessionsOfTwoWorkersGetTheSameSandbox) {
  const auto first = make_manager(with_pool(2));
  const auto second = make_manager(with_pool(2));
  first->adopt();
  second->adopt();
  ASSERT_TRUE(filled(2));
  std::vector<SessionPtr> sessions;
  const auto keep = [&](const Result<SessionPtr>& session) { sessions.push_back(session.value()); };
  for (const char* name : {"a", "b", "c"}) {
    first->find_or_create(name, {}, keep);
    second->find_or_create(std::string(name) + "2", {}, keep);
  }
  ASSERT_TRUE(loop.until([&] { return sessions.size() == 6; }));
  std::set<pid_t> agents;
  for (const SessionPtr& session : sessions) {
    agents.insert(agent_pid(*session));
  }
  EXPECT_EQ(agents.size(), 6U);
  EXPECT_EQ(events.size(), 6U);
}

TEST_F(SandboxPoolTest, OneThatWasTakenIsTheSessionsForAnotherWorkerToo) {
  const auto first = make_manager(with_pool(1));
  first->adopt();
  ASSERT_TRUE(filled(1));
  const pid_t agent = agent_pid(*open(*first, "s").value());
  const auto second = make_manager();
  EXPECT_EQ(agent_pid(*find(*second, "s").value()), agent);
}

TEST_F(SandboxPoolTest, CloseRemovesOneThatWasTakenWithAllThatLeadsToIt) {
  const auto manager = make_manager(with_pool(1));
  manager->adopt();
  ASSERT_TRUE(filled(1));
  const auto session = open(*manager, "s").value();
  const std::string dir = session->record().dir;
  const pid_t agent = agent_pid(*session);
  ASSERT_TRUE(close(*manager, "s").has_value());
  EXPECT_TRUE(leaves_nothing("s"));
  EXPECT_FALSE(std::filesystem::exists(dir));
  // Whoever has it may reap it late.
  EXPECT_TRUE(loop.until([&] { return ::kill(agent, 0) != 0; }));
}

TEST_F(SandboxPoolTest, ASessionWithLimitsOfItsOwnGetsASandboxOfItsOwn) {
  const auto manager = make_manager(with_pool(1));
  manager->adopt();
  ASSERT_TRUE(filled(1));
  SessionOptions other;
  other.limits.processes = 99;
  const auto session = wait<Result<SessionPtr>>(
      [&](auto done) { manager->find_or_create("s", other, std::move(done)); });
  EXPECT_EQ(session.value()->record().limits.processes, 99U);
  EXPECT_EQ(ready().size(), 1U);
  EXPECT_EQ(session.value()->record().dir, state_dir() + "/sandboxes/" + sandbox_key("s"));
}

TEST_F(SandboxPoolTest, ALaterWorkerUsesWhatIsReadyAndRemovesWhatIsNot) {
  std::string living;
  {
    const auto manager = make_manager(with_pool(2));
    manager->adopt();
    ASSERT_TRUE(filled(2));
    living = ready().front();
    // A worker that died while it made one, or while it gave one away.
    const auto [id, kind] = *store().ready_kinds().rbegin();
    ASSERT_TRUE(store().unmark_ready(id, kind));
  }
  const auto manager = make_manager(with_pool(1));
  manager->adopt();
  ASSERT_TRUE(loop.until([&] { return store().pool_ids().size() == 1; }));
  EXPECT_THAT(ready(), ElementsAre(living));
}

TEST_F(SandboxPoolTest, OneThatWasHalfTakenIsReplaced) {
  const auto manager = make_manager(with_pool(1));
  manager->adopt();
  ASSERT_TRUE(filled(1));
  const auto [id, kind] = *store().ready_kinds().begin();
  // A worker that died between the two steps.
  ASSERT_TRUE(store().take_ready(id, kind, sandbox_key("s")));
  EXPECT_FALSE(store().unmark_ready(id, kind)) << "nobody else can have it";
  const auto session = open(*manager, "s").value();
  EXPECT_NE(session->record().dir, store().pool_dir(id));
  EXPECT_GT(agent_pid(*session), 0);
  EXPECT_FALSE(std::filesystem::exists(store().pool_dir(id)));
}

// One worker removes what is ready while another takes it: each has one master.
TEST_F(SandboxPoolTest, OneThatIsBeingTakenIsNotRemoved) {
  const auto manager = make_manager();
  const SandboxStore kept = store();
  const SandboxPool pool(*engine, kept);
  std::atomic<bool> over = false;
  std::thread tidy([&] {
    while (!over) {
      pool.tend("another", 0, true);
    }
  });
  std::set<std::string> taken;
  for (int i = 0; i < 300; ++i) {
    const std::string id = "id" + std::to_string(i);
    {
      const auto making = store().lock(id);
      std::filesystem::create_directories(store().pool_dir(id));
      EXPECT_TRUE(store().mark_ready(id, "kind"));
    }
    if (store().take_ready(id, "kind", sandbox_key(id))) {
      taken.insert(id);
    }
  }
  EXPECT_TRUE(loop.until([&] { return store().pool_ids().size() == taken.size(); }));
  over = true;
  tidy.join();
  EXPECT_GT(taken.size(), 0U);
  EXPECT_EQ(store().linked_ids(), taken);
  for (const std::string& id : taken) {
    EXPECT_TRUE(std::filesystem::exists(store().pool_dir(id))) << id;
  }
}

TEST_F(SandboxPoolTest, ALaterWorkerRemovesWhatItWouldMakeOtherwise) {
  std::string earlier;
  {
    const auto manager = make_manager(with_pool(1));
    manager->adopt();
    ASSERT_TRUE(filled(1));
    earlier = ready().front();
  }
  auto with = with_pool(1);
  with.keeper.made_of = "another image";
  const auto manager = make_manager(with);
  manager->adopt();
  ASSERT_TRUE(loop.until(
      [&] { return !std::filesystem::exists(store().pool_dir(earlier)) && ready().size() == 1; }));
}

TEST_F(SandboxPoolTest, OneWhoseAgentDiedInThePoolIsNotGivenAway) {
  const auto manager = make_manager(with_pool(1));
  manager->adopt();
  ASSERT_TRUE(filled(1));
  const std::string dir = store().pool_dir(ready().front());
  const EngineState state = EngineState::load(dir).value();
  ASSERT_TRUE(state.first.signal(SIGKILL));
  ASSERT_TRUE(state.first.wait(std::chrono::steady_clock::now() + std::chrono::seconds(30)));
  const auto session = open(*manager, "s");
  ASSERT_TRUE(session.has_value());
  EXPECT_NE((*session)->record().dir, dir);
  EXPECT_GT(agent_pid(**session), 0);
}

TEST_F(SandboxPoolTest, ItsAgentsEndByThemselvesOnceNoWorkerComesBy) {
  auto with = with_pool(1);
  with.destroy_after = std::chrono::milliseconds(300);
  std::string id;
  {
    const auto manager = make_manager(with);
    manager->adopt();
    ASSERT_TRUE(filled(1));
    id = ready().front();
    // Longer than an agent that nobody asks for would live.
    const auto end = std::chrono::steady_clock::now() + 4 * with.destroy_after;
    ASSERT_TRUE(loop.until([&] { return std::chrono::steady_clock::now() > end; }));
    ASSERT_TRUE(filled(1));  // on a machine that stood still, another one
    id = ready().front();
    ASSERT_TRUE(engine->alive(store().pool_dir(id)));
  }
  EXPECT_TRUE(loop.until([&] { return !engine->alive(store().pool_dir(id)); }));
}

TEST_F(SandboxPoolTest, DestroyAllEndsThePoolToo) {
  {
    const auto manager = make_manager(with_pool(2));
    manager->adopt();
    ASSERT_TRUE(filled(2));
    ASSERT_TRUE(open(*manager, "s").has_value());
  }
  EXPECT_EQ(destroy_all_sandboxes(state_dir()).value(), 1U);
  EXPECT_THAT(store().pool_ids(), IsEmpty());
  EXPECT_THAT(ready(), IsEmpty());
  EXPECT_TRUE(std::filesystem::is_empty(state_dir() + "/locks"));
  EXPECT_TRUE(leaves_nothing("s"));
}

}  // namespace
}  // namespace runbus::session
