// Sessions that are paused when idle. Needs a cgroup freezer.
#include <gmock/gmock.h>
#include <signal.h>

#include "services/session/engine_state.h"
#include "tests/unit/session/node_fixture.h"

namespace runbus::session {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::Not;

class SessionPauseTest : public ::testing::Test, public testing::NodeFixture {
 protected:
  void SetUp() override {
    Probe probe = engine->probe();
    if (probe.enforced["pause"] != "cgroup") {
      GTEST_SKIP() << "pausing is not possible: " << probe.why["pause"];
    }
  }
  ManagerOptions pausing(std::chrono::milliseconds after = std::chrono::milliseconds(400)) {
    ManagerOptions result = options();
    result.pause_after = after;
    result.sweep_interval = std::chrono::milliseconds(100);
    result.on_paused = [this](const std::string& id) { events.push_back("paused " + id); };
    result.on_resumed = [this](const std::string& id) { events.push_back("resumed " + id); };
    return result;
  }
  bool paused(const std::string& id) const {
    return SandboxStore(state_dir()).marks(sandbox_key(id)).is_paused();
  }
  bool told(const std::string& event) const {
    return std::find(events.begin(), events.end(), event) != events.end();
  }
  agent_v1::AgentRequest sleep_for(const std::string& seconds) {
    agent_v1::AgentRequest request;
    request.mutable_spawn()->set_execution_id("e" + seconds);
    auto* step = request.mutable_spawn()->add_steps();
    step->add_argv("/bin/sleep");
    step->add_argv(seconds);
    return request;
  }
};

TEST_F(SessionPauseTest, AnIdleSessionIsPausedAndTheNextCallResumesIt) {
  const auto manager = make_manager(pausing());
  manager->adopt();
  const pid_t agent = agent_pid(*open(*manager, "s").value());
  ASSERT_TRUE(loop.until([&] { return told("paused s"); }));
  EXPECT_TRUE(paused("s"));
  EXPECT_EQ(agent_pid(*open(*manager, "s").value()), agent);
  EXPECT_FALSE(paused("s"));
  EXPECT_THAT(events, ElementsAre("opened s", "paused s", "resumed s"));
  ASSERT_TRUE(loop.until([&] { return paused("s"); }));  // and again
}

TEST_F(SessionPauseTest, ASessionThatSomebodyHoldsOrThatRunsSomethingIsNotPaused) {
  const auto manager = make_manager(pausing());
  manager->adopt();
  SessionPtr held = open(*manager, "held").value();
  ASSERT_TRUE(ask(*open(*manager, "runs").value(), sleep_for("1000")).has_value());
  open(*manager, "idle").value();
  ASSERT_TRUE(loop.until([&] { return told("paused idle"); }));
  // A second round: by then the others would have been.
  ASSERT_TRUE(open(*manager, "idle").has_value());
  events.clear();
  ASSERT_TRUE(loop.until([&] { return told("paused idle"); }));
  EXPECT_THAT(events, Not(Contains("paused held")));
  EXPECT_THAT(events, Not(Contains("paused runs")));
  held = nullptr;
  EXPECT_TRUE(loop.until([&] { return told("paused held"); }));
}

TEST_F(SessionPauseTest, WhatAnotherWorkerHoldsIsNotPausedAndWhatItPausedIsResumed) {
  const auto first = make_manager(pausing());
  const auto second = make_manager(pausing());
  first->adopt();
  second->adopt();
  open(*first, "s").value();
  open(*first, "idle").value();
  SessionPtr held = open(*second, "s").value();
  ASSERT_TRUE(loop.until([&] { return told("paused idle"); }));
  EXPECT_FALSE(paused("s"));
  const pid_t agent = agent_pid(*held);
  held = nullptr;
  ASSERT_TRUE(loop.until([&] { return paused("s"); }));
  EXPECT_EQ(agent_pid(*open(*first, "s").value()), agent);
  ASSERT_TRUE(loop.until([&] { return paused("s"); }));
  const auto third = make_manager();  // which knows nothing of pausing
  EXPECT_EQ(agent_pid(*open(*third, "s").value()), agent);
}

TEST_F(SessionPauseTest, LookingAtAPausedSessionDoesNotWakeIt) {
  const auto manager = make_manager(pausing());
  manager->adopt();
  open(*manager, "s").value();
  ASSERT_TRUE(loop.until([&] { return told("paused s"); }));
  const auto record =
      wait<Result<SandboxRecord>>([&](auto done) { manager->look_up("s", std::move(done)); });
  EXPECT_TRUE(record.value().paused);
  const auto all =
      wait<std::vector<SandboxRecord>>([&](auto done) { manager->list(std::move(done)); });
  ASSERT_EQ(all.size(), 1U);
  EXPECT_TRUE(all[0].paused);
  EXPECT_TRUE(paused("s"));
  EXPECT_EQ(wait<Result<SandboxRecord>>([&](auto done) { manager->look_up("t", std::move(done)); })
                .error()
                .code,
            ErrorCode::kNotFound);
}

TEST_F(SessionPauseTest, APausedSessionIsClosed) {
  const auto manager = make_manager(pausing());
  manager->adopt();
  const pid_t agent = agent_pid(*open(*manager, "s").value());
  ASSERT_TRUE(loop.until([&] { return told("paused s"); }));
  ASSERT_TRUE(close(*manager, "s").has_value());
  EXPECT_TRUE(leaves_nothing("s"));
  EXPECT_NE(::kill(agent, 0), 0);
}

TEST_F(SessionPauseTest, APausedSessionThatNobodyUsesIsRemovedByTheSweep) {
  auto with = pausing();
  with.keeper.destroy_after = with.destroy_after = std::chrono::milliseconds(1500);
  const auto manager = make_manager(with);
  manager->adopt();
  open(*manager, "s").value();
  ASSERT_TRUE(loop.until([&] { return told("paused s"); }));
  ASSERT_TRUE(loop.until([&] { return told("closed s"); }));
  EXPECT_TRUE(leaves_nothing("s"));
}

TEST_F(SessionPauseTest, DestroyAllEndsPausedOnes) {
  pid_t agent = 0;
  {
    const auto manager = make_manager(pausing());
    manager->adopt();
    agent = agent_pid(*open(*manager, "s").value());
    ASSERT_TRUE(loop.until([&] { return told("paused s"); }));
  }
  EXPECT_EQ(destroy_all_sandboxes(state_dir()).value(), 1U);
  EXPECT_NE(::kill(agent, 0), 0);
}

}  // namespace
}  // namespace runbus::session
