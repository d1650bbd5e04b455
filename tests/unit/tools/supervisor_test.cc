#include "tools/runbus/supervisor.h"

#include <gtest/gtest.h>
#include <sys/prctl.h>

#include "tests/unit/tools/testing.h"

namespace runbus::cli {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::content_of;
using testing::is_alive;
using testing::make_script;
using testing::pid_in;
using testing::TemporaryDirectory;
using testing::wait_until;

constexpr seconds kBound{60};

class SupervisorTest : public ::testing::Test {
 protected:
  std::function<void(const std::string&)> recorder() {
    return [this](const std::string& text) { said_ += text + "\n"; };
  }

  // A child that writes its pid to NAME.pid and runs `body`.
  ChildSpec child(const std::string& name, const std::string& body) {
    const std::string script =
        make_script(directory_ / (name + ".sh"), "echo $$ > " + (directory_ / (name + ".new")) +
                                                     "; mv " + (directory_ / (name + ".new")) +
                                                     " " + pid_file(name) + "\n" + body);
    return {.name = name, .argv = {script}, .reports_ready = true};
  }
  std::string pid_file(const std::string& name) const { return directory_ / (name + ".pid"); }

  TemporaryDirectory directory_;
  std::string said_;
};

TEST_F(SupervisorTest, GivesTheReadinessLine) {
  Supervisor supervisor(recorder());
  const auto line = supervisor.start(child("a", "echo 127.0.0.1:5 >&3\nexec sleep 1000\n"), kBound);
  ASSERT_TRUE(line) << line.error().detail;
  EXPECT_EQ(*line, "127.0.0.1:5");
}

TEST_F(SupervisorTest, TellsWhatEndedBeforeItWasReady) {
  Supervisor supervisor(recorder());
  const auto line = supervisor.start(child("a", "exit 7\n"), kBound);
  ASSERT_FALSE(line);
  EXPECT_NE(line.error().detail.find("a ended with status 7 before it was ready"),
            std::string::npos);
}

TEST_F(SupervisorTest, GivesUpOnWhatIsNeverReady) {
  Supervisor supervisor(recorder());
  const auto line = supervisor.start(child("a", "exec sleep 1000\n"), milliseconds(300));
  ASSERT_FALSE(line);
  EXPECT_NE(line.error().detail.find("was not ready within 0.3 s"), std::string::npos);
  EXPECT_FALSE(is_alive(pid_in(pid_file("a"))));
}

TEST_F(SupervisorTest, TellsWhatCannotBeExecuted) {
  Supervisor supervisor(recorder());
  const auto line = supervisor.start(
      {.name = "a", .argv = {directory_ / "absent"}, .reports_ready = true}, kBound);
  ASSERT_FALSE(line);
  EXPECT_NE(line.error().detail.find("No such file"), std::string::npos);
}

TEST_F(SupervisorTest, ChildHasItsOwnGroupAndNoDescriptorsOfOurs) {
  const int leaked = ::dup(0);  // not CLOEXEC, on purpose
  Supervisor supervisor(recorder());
  const auto line = supervisor.start(
      child("a", "echo $(ls /proc/$$/fd | tr '\\n' ' ') >&3\nexec sleep 1000\n"), kBound);
  ::close(leaked);
  ASSERT_TRUE(line) << line.error().detail;
  // 10 and above: the shell's own handle of its script.
  EXPECT_TRUE(line->starts_with("0 1 10 2 3") || *line == "0 1 2 3" ||
              line->starts_with("0 1 2 255 3"))
      << *line;
  EXPECT_EQ(::getpgid(pid_in(pid_file("a"))), pid_in(pid_file("a")));
}

TEST_F(SupervisorTest, StartsAgainWhatWasKilledAndSaysSo) {
  Supervisor supervisor(recorder());
  ASSERT_TRUE(supervisor.start(child("a", "echo ready >&3\nexec sleep 1000\n"), kBound));
  const pid_t first = pid_in(pid_file("a"));
  std::filesystem::remove(pid_file("a"));
  ::kill(first, SIGKILL);
  // A run without an end of its own keeps the loop going; it ends once the child is back.
  const ChildSpec waiter{
      .name = "waiter",
      .argv = {make_script(directory_ / "wait.sh",
                           "while [ ! -e " + pid_file("a") + " ]; do sleep 0.02; done\n")}};
  const auto waited = supervisor.run(waiter, kBound, false);
  ASSERT_TRUE(waited) << waited.error().detail;
  EXPECT_NE(pid_in(pid_file("a")), first);
  EXPECT_NE(said_.find("a ended with signal 9 (Killed): starting it again in 0.1 s"),
            std::string::npos)
      << said_;
}

TEST_F(SupervisorTest, WaitsLongerBeforeEachRestartOfWhatKeepsDying) {
  Supervisor supervisor(recorder());
  const std::string counter = directory_ / "count";
  std::ofstream(counter).close();  // the waiter may look before the child has written
  ASSERT_TRUE(supervisor.start(
      child("a", "echo ready >&3\necho x >> " + counter + "\nsleep 0.05\nexit 1\n"), kBound));
  const ChildSpec waiter{
      .name = "waiter",
      .argv = {make_script(directory_ / "wait.sh",
                           "while [ $(wc -l < " + counter + ") -lt 4 ]; do sleep 0.02; done\n")}};
  ASSERT_TRUE(supervisor.run(waiter, kBound, false));
  for (const char* pause : {"in 0.1 s", "in 0.2 s", "in 0.4 s"}) {
    EXPECT_NE(said_.find(pause), std::string::npos) << said_;
  }
}

TEST_F(SupervisorTest, RestartUsesTheChangedArguments) {
  Supervisor supervisor(recorder());
  ChildSpec spec =
      child("a", "echo $1 >> " + (directory_ / "seen") + "\necho ready >&3\nexec sleep 1000\n");
  const std::string script = spec.argv.front();
  spec.argv.emplace_back("first");
  ASSERT_TRUE(supervisor.start(spec, kBound));
  supervisor.change_arguments("a", {script, "second"});
  ::kill(pid_in(pid_file("a")), SIGKILL);
  const ChildSpec waiter{.name = "waiter",
                         .argv = {make_script(directory_ / "wait.sh",
                                              "while ! grep -q second " + (directory_ / "seen") +
                                                  "; do sleep 0.02; done\n")}};
  EXPECT_TRUE(supervisor.run(waiter, kBound, false));
}

TEST_F(SupervisorTest, StopKillsWhatIgnoresTheRequestAndItsGroup) {
  Supervisor supervisor(recorder());
  const std::string grandchild = directory_ / "grandchild.pid";
  ASSERT_TRUE(supervisor.start(child("a", "trap '' TERM\nsleep 1000 &\necho $! > " + grandchild +
                                              "\necho ready >&3\nwhile :; do sleep 1000; done\n"),
                               kBound));
  supervisor.stop("a", milliseconds(200));
  EXPECT_FALSE(is_alive(pid_in(pid_file("a"))));
  EXPECT_TRUE(wait_until([&] { return !is_alive(pid_in(grandchild)); }));
  EXPECT_NE(said_.find("a did not stop in time: killed"), std::string::npos);
}

TEST_F(SupervisorTest, StopSignalEndsTheSupervision) {
  Supervisor supervisor(recorder());
  ASSERT_TRUE(supervisor.start(child("a", "echo ready >&3\nexec sleep 1000\n"), kBound));
  ::kill(::getpid(), SIGTERM);
  supervisor.supervise();
  EXPECT_TRUE(supervisor.stop_requested());
  supervisor.stop("", kBound);
  EXPECT_FALSE(is_alive(pid_in(pid_file("a"))));
}

TEST_F(SupervisorTest, RunGivesTheExitCode) {
  Supervisor supervisor(recorder());
  EXPECT_EQ(*supervisor.run({.name = "r", .argv = {"/bin/sh", "-c", "exit 3"}}, kBound, false), 3);
  EXPECT_EQ(*supervisor.run({.name = "r", .argv = {"/bin/sh", "-c", "kill -9 $$"}}, kBound, false),
            137);
  EXPECT_FALSE(
      supervisor.run({.name = "r", .argv = {"/bin/sleep", "1000"}}, milliseconds(100), false));
}

TEST_F(SupervisorTest, FinishKillsDescendantsThatLeftTheirParent) {
  Supervisor supervisor(recorder());
  const std::string daemon = directory_ / "daemon.pid";
  ASSERT_EQ(*supervisor.run({.name = "r",
                             .argv = {"/bin/sh", "-c",
                                      "setsid sh -c 'echo $$ > " + daemon +
                                          "; exec sleep 1000' > /dev/null 2>&1 &"}},
                            kBound, false),
            0);
  const pid_t pid = pid_in(daemon);
  EXPECT_TRUE(is_alive(pid));
  EXPECT_EQ(supervisor.finish(), 1U);
  EXPECT_FALSE(is_alive(pid));
}

// A kill -9 of `up` must not leave a broker or a gateway that holds the port.
TEST_F(SupervisorTest, ChildrenDieWithASupervisorThatIsKilled) {
  const pid_t supervisor_process = ::fork();
  if (supervisor_process == 0) {
    Supervisor supervisor([](const std::string&) {});
    ChildSpec term =
        child("term", "trap 'echo terminated > " + (directory_ / "trap") +
                          "; exit 0' TERM\necho ready >&3\nwhile :; do sleep 0.05; done\n");
    term.death_signal = SIGTERM;
    const bool good =
        supervisor.start(
            child("kill", "trap '' TERM\necho ready >&3\nwhile :; do sleep 0.05; done\n"),
            kBound) &&
        supervisor.start(term, kBound);
    if (good) {
      make_script(directory_ / "started", "");
    }
    supervisor.supervise();
    ::_exit(0);
  }
  ASSERT_TRUE(wait_until([&] { return std::filesystem::exists(directory_ / "started"); }));
  const pid_t first = pid_in(pid_file("kill"));
  const pid_t second = pid_in(pid_file("term"));
  ASSERT_TRUE(is_alive(first) && is_alive(second));
  ::kill(supervisor_process, SIGKILL);
  ::waitpid(supervisor_process, nullptr, 0);
  EXPECT_TRUE(wait_until([&] { return !is_alive(first) && !is_alive(second); }));
  EXPECT_EQ(content_of(directory_ / "trap"), "terminated\n");
}

}  // namespace
}  // namespace runbus::cli
