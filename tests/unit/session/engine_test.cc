// Real sandboxes of every engine that works on this machine.
#include <gmock/gmock.h>
#include <signal.h>

#include <algorithm>
#include <fstream>

#include "services/session/cgroup.h"
#include "tests/unit/session/engine_fixture.h"

namespace runbus::session {
namespace {

using testing::engine_of;
using testing::eventually;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::probe_of;
using testing::Session;

class Sandboxed : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const Probe& probe = probe_of(GetParam());
    if (!probe.works) {
      GTEST_SKIP() << GetParam() << " does not work here: " << probe.why.at("works");
    }
  }
  bool enforced(const std::string& resource, const std::string& by) const {
    return probe_of(GetParam()).enforced.at(resource) == by;
  }
};
INSTANTIATE_TEST_SUITE_P(Engines, Sandboxed, ::testing::Values("bubblewrap", "oci"),
                         [](const auto& each) { return std::string(each.param); });

std::string status_line(const std::string& status, const std::string& name) {
  const auto start = ("\n" + status).find("\n" + name + ":\t");
  if (start == std::string::npos) {
    return "(no " + name + ")";
  }
  const auto value = start + name.size() + 2;
  return status.substr(value, status.find('\n', value) - value);
}

TEST_P(Sandboxed, RunsTheAgentAsFirstProcessOfItsOwnNamespace) {
  Session session(GetParam());
  const Sandbox sandbox = session.start();
  EXPECT_TRUE(session.engine().alive(session.state_dir()));
  EXPECT_THAT(read_proc(sandbox.pid, "status"), HasSubstr("\t1\n"));  // NSpid
  EXPECT_THAT(session.run("read name < /proc/1/comm; echo \"$name\"; hostname"),
              HasSubstr("runbus-agent\nrunbus\nexit 0"));
}

TEST_P(Sandboxed, PassesTheAgentItsArgumentsAndNoDescriptorBeyondFour) {
  Session session(GetParam());
  session.spec().agent_args = {"--extra", "a b"};
  const Sandbox sandbox = session.start();
  std::string command = read_proc(sandbox.pid, "cmdline");
  std::replace(command.begin(), command.end(), '\0', '|');
  EXPECT_EQ(
      "/run/runbus/runbus-agent|--listen-fd|3|--log-dir-fd|4|--workspace|/workspace|--extra|a b|",
      command);
  std::size_t count = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator("/proc/" + std::to_string(sandbox.pid) + "/fd")) {
    EXPECT_LE(std::stoi(entry.path().filename().string()), 4);
    ++count;
  }
  EXPECT_EQ(5U, count);
}

TEST_P(Sandboxed, HasNoPrivilegesAndASystemCallFilter) {
  Session session(GetParam());
  const Sandbox sandbox = session.start();
  const std::string status = read_proc(sandbox.pid, "status");
  for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}) {
    EXPECT_EQ("0000000000000000", status_line(status, set)) << set;
  }
  EXPECT_EQ("1", status_line(status, "NoNewPrivs"));
  EXPECT_EQ("2", status_line(status, "Seccomp"));
}

TEST_P(Sandboxed, IsAnUnprivilegedHostUserOfItsOwn) {
  if (::geteuid() != 0) {
    GTEST_SKIP() << "host uids of their own need root";
  }
  Session one(GetParam());
  Session two(GetParam());
  const std::string first = status_line(read_proc(one.start().pid, "status"), "Uid");
  const std::string second = status_line(read_proc(two.start().pid, "status"), "Uid");
  EXPECT_NE(first, second);
  for (const std::string& ids : {first, second}) {
    EXPECT_GE(std::stoul(ids), EngineOptions{}.first_uid);
  }
  EXPECT_THAT(one.run("id -u; touch made; stat -c %u made"), HasSubstr("1000\n1000\nexit 0"));
}

TEST_P(Sandboxed, SeesNothingOfTheHost) {
  Session session(GetParam());
  session.start();
  EXPECT_THAT(session.run("ls -a /"), Not(HasSubstr("home")));
  for (const char* path : {"/etc/shadow", "/root", "/home", "/sys", "/boot", "/opt", "/srv", "/mnt",
                           "/proc/1/root/", "/proc/1/environ", "/proc/1/fd/3", "/proc/kcore"}) {
    EXPECT_THAT(session.run(std::string("test -s ") + path + " && cat " + path + "/* " + path),
                Not(HasSubstr("exit 0")))
        << path;
  }
  if (::geteuid() == 0) {  // an ordinary user's OCI root is a folder of the state directory
    EXPECT_THAT(session.run("cat /proc/self/mountinfo"), Not(HasSubstr(session.state_dir())));
  }
  EXPECT_THAT(session.run("cat /etc/passwd"), HasSubstr("runbus:x:1000"));
}

TEST_P(Sandboxed, CannotChangeAnythingOutsideItsOwnFolders) {
  Session session(GetParam());
  session.start();
  for (const char* path :
       {"/x", "/usr/x", "/etc/x", "/etc/passwd", "/dev/x", "/run/x", "/run/runbus/x",
        "/run/runbus/runbus-agent", "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger",
        "/proc/1/oom_score_adj"}) {
    EXPECT_THAT(session.run(std::string("echo x >> ") + path), Not(HasSubstr("exit 0"))) << path;
  }
}

TEST_P(Sandboxed, HasOnlyALoopbackInterface) {
  Session session(GetParam());
  session.start();
  const std::string devices = session.run("cat /proc/net/dev");
  EXPECT_THAT(devices, HasSubstr("lo:"));
  EXPECT_EQ(3, std::count(devices.begin(), devices.end(), '\n') - 1) << devices;
}

TEST_P(Sandboxed, SharesTheHostsNetworkWhenAsked) {
  Session session(GetParam());
  session.spec().network = true;
  const Sandbox sandbox = session.start();
  const std::string inside = "/proc/" + std::to_string(sandbox.pid) + "/ns/net";
  if (::geteuid() != 0) {
    GTEST_SKIP() << "only root may look at another namespace";
  }
  EXPECT_EQ(std::filesystem::read_symlink("/proc/self/ns/net"),
            std::filesystem::read_symlink(inside));
}

TEST_P(Sandboxed, RefusesDangerousSystemCalls) {
  Session session(GetParam());
  session.start();
  const std::string told = session.attack("calls");
  EXPECT_THAT(told, HasSubstr("denied device node"));
  EXPECT_THAT(told, Not(HasSubstr("ALLOWED")));
  EXPECT_THAT(told, HasSubstr("exit 0"));
}

TEST_P(Sandboxed, LetsDebuggersTerminalsAndSocketsWork) {
  Session session(GetParam());
  session.start();
  const std::string told = session.attack("useful");
  EXPECT_THAT(told, HasSubstr("ok urandom"));
  EXPECT_THAT(told, Not(HasSubstr("BROKEN")));
}

TEST_P(Sandboxed, BoundsTmpfs) {
  Session session(GetParam());
  session.spec().limits.tmp = 4U << 20;
  session.start();
  for (const char* folder : {"/tmp", "/dev/shm"}) {
    EXPECT_THAT(session.run(std::string("head -c 8000000 /dev/zero > ") + folder + "/big"),
                Not(HasSubstr("exit 0")));
    EXPECT_THAT(session.run(std::string("head -c 1000000 /dev/zero > ") + folder + "/big"),
                HasSubstr("exit 0"));
  }
}

TEST_P(Sandboxed, BoundsTheSizeOfAFile) {
  Session session(GetParam());
  session.spec().limits.disk = 1U << 20;
  session.start();
  EXPECT_THAT(session.run("head -c 3000000 /dev/zero > big"), Not(HasSubstr("exit 0")));
  EXPECT_THAT(session.run("truncate -s 1T sparse"), Not(HasSubstr("exit 0")));
  EXPECT_THAT(session.run("stat -c %s big"), HasSubstr("1048576"));
}

// Whether a loop device is still of this folder.
bool has_loop_device(const std::string& folder) {
  std::error_code ignored;
  for (std::filesystem::directory_iterator it("/sys/block", ignored), end; it != end;
       it.increment(ignored)) {
    if (read_small_file(it->path().string() + "/loop/backing_file").starts_with(folder)) {
      return true;
    }
  }
  return false;
}

TEST_P(Sandboxed, BoundsAWorkspaceOfItsOwnFileSystemAndLeavesNoDevice) {
  if (!enforced("disk", "hard")) {
    GTEST_SKIP() << "no loop devices: " << probe_of(GetParam()).why.at("disk");
  }
  Session session(GetParam(), RUNBUS_TEST_AGENT, "loop");
  session.spec().limits.disk = 8U << 20;
  session.start();
  EXPECT_TRUE(has_loop_device(session.state_dir()));
  EXPECT_THAT(session.run("stat -c '%u %a' /workspace; ls -A /workspace"),
              HasSubstr("1000 700\nexit 0"));
  EXPECT_THAT(session.run("head -c 4000000 /dev/zero > fits"), HasSubstr("exit 0"));
  EXPECT_THAT(session.run("head -c 6000000 /dev/zero > large"), Not(HasSubstr("exit 0")));
  EXPECT_THAT(
      session.run("for i in 1 2 3 4; do mkdir -p $i/$i; echo x > $i/$i/file; done; rm large"),
      HasSubstr("exit 0"));
  // A second sandbox has a file system of its own.
  Session other(GetParam(), RUNBUS_TEST_AGENT, "loop");
  other.start();
  EXPECT_THAT(other.run("ls -A /workspace"), HasSubstr("exit 0"));
  EXPECT_THAT(other.run("ls -A /workspace"), Not(HasSubstr("fits")));
  EXPECT_TRUE(session.engine().destroy(session.state_dir()));
  EXPECT_TRUE(eventually([&] { return !has_loop_device(session.state_dir()); }));
}

TEST_P(Sandboxed, SurvivesAMemoryBombWhichTheKernelEndsAndCounts) {
  if (!enforced("memory", "cgroup")) {
    GTEST_SKIP() << "memory is not enforced: " << probe_of(GetParam()).why.at("memory");
  }
  Session session(GetParam());
  session.spec().limits.memory = 96U << 20;
  session.start();
  OomCounter counter = session.engine().oom_counter(session.state_dir());
  EXPECT_EQ(0U, counter.kills());
  EXPECT_THAT(session.attack("memory 16"), HasSubstr("ate it all"));
  EXPECT_THAT(session.attack("memory 400"), Not(HasSubstr("ate it all")));
  EXPECT_GE(counter.kills(), 1U);
  EXPECT_TRUE(session.engine().alive(session.state_dir()));
  EXPECT_THAT(session.run("echo still"), HasSubstr("still"));
}

TEST_P(Sandboxed, SurvivesAForkBomb) {
  if (enforced("pids", "none")) {
    GTEST_SKIP() << "processes are not bounded: " << probe_of(GetParam()).why.at("pids");
  }
  Session session(GetParam());
  session.spec().limits.processes = 40;
  session.start();
  const std::string told = session.attack("bomb 2000");
  ASSERT_THAT(told, HasSubstr("forked "));
  const int forked = std::stoi(told.substr(told.find("forked ") + 7));
  EXPECT_LE(forked, 40);
  EXPECT_GE(forked, 20);
  EXPECT_THAT(session.run("echo still"), HasSubstr("still"));
}

TEST_P(Sandboxed, StopsWhilePaused) {
  if (!enforced("pause", "cgroup")) {
    GTEST_SKIP() << "pausing is not possible: " << probe_of(GetParam()).why.at("pause");
  }
  Session session(GetParam());
  session.start();
  ASSERT_TRUE(session.engine().pause(session.state_dir()));
  const UniqueFd fd = session.connect();
  ASSERT_EQ(8, ::send(fd.get(), "echo hi\n", 8, MSG_NOSIGNAL));
  const timeval briefly{0, 200000};
  ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &briefly, sizeof briefly);
  char byte = 0;
  EXPECT_EQ(-1, ::read(fd.get(), &byte, 1));
  ASSERT_TRUE(session.engine().resume(session.state_dir()));
  const timeval long_enough{30, 0};
  ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &long_enough, sizeof long_enough);
  EXPECT_EQ(1, ::read(fd.get(), &byte, 1));
}

// A process that was in vfork() while its group was being frozen kept the group from ever being
// so (cgroup.cc); shells do little else.
TEST_P(Sandboxed, IsPausedWhateverItsProcessesAreDoing) {
  if (!enforced("pause", "cgroup")) {
    GTEST_SKIP() << "pausing is not possible: " << probe_of(GetParam()).why.at("pause");
  }
  Session session(GetParam());
  session.start();
  session.run(
      "for i in 1 2 3; do setsid sh -c 'while :; do /bin/true; done' > /dev/null 2>&1 & done");
  for (int round = 0; round < 60; ++round) {
    const Result<void> paused = session.engine().pause(session.state_dir());
    ASSERT_TRUE(paused) << "round " << round << ": " << to_string(paused.error());
    ASSERT_TRUE(session.engine().resume(session.state_dir()));
  }
  EXPECT_THAT(session.run("echo still"), HasSubstr("still"));
}

TEST_P(Sandboxed, IsDestroyedWithAllItsProcessesAlsoWhilePaused) {
  for (const bool paused : {false, true}) {
    Session session(GetParam());
    const Sandbox sandbox = session.start();
    session.run(
        "for i in 1 2 3 4 5; do setsid sh -c 'trap \"\" TERM; sleep 1000' > /dev/null 2>&1 & done");
    const Result<EngineState> state = EngineState::load(session.state_dir());
    ASSERT_TRUE(state);
    if (paused && enforced("pause", "cgroup")) {
      ASSERT_TRUE(session.engine().pause(session.state_dir()));
    }
    const Result<void> destroyed = session.engine().destroy(session.state_dir());
    EXPECT_TRUE(destroyed) << to_string(destroyed.error());
    EXPECT_FALSE(session.engine().alive(session.state_dir()));
    EXPECT_FALSE(std::filesystem::exists("/proc/" + std::to_string(sandbox.pid)) &&
                 state->first.alive());
    EXPECT_FALSE(state->monitor.alive());
    for (const std::string& folder : state->cgroup.folders) {
      EXPECT_FALSE(std::filesystem::exists(folder)) << folder;
    }
    EXPECT_THAT(read_small_file("/proc/self/mountinfo"), Not(HasSubstr(session.state_dir())));
    EXPECT_TRUE(session.engine().destroy(session.state_dir()));  // again: nothing to do
  }
}

TEST_P(Sandboxed, IsFoundAndEndedByAnotherEngineObject) {
  Session session(GetParam());
  session.start();
  const auto later = engine_of(GetParam());
  EXPECT_TRUE(later->alive(session.state_dir()));
  EXPECT_EQ(ErrorCode::kConflict, later->create(session.spec()).error().code);
  EXPECT_TRUE(later->destroy(session.state_dir()));
  EXPECT_FALSE(session.engine().alive(session.state_dir()));
  EXPECT_TRUE(later->create(session.spec()));  // and starts anew in the same place
  EXPECT_THAT(session.run("echo again"), HasSubstr("again"));
}

TEST_P(Sandboxed, OutlivesTheProcessThatMadeIt) {
  Session session(GetParam());
  const pid_t worker = ::fork();
  if (worker == 0) {
    ::_exit(engine_of(GetParam())->create(session.spec()) ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(worker, ::waitpid(worker, &status, 0));
  ASSERT_EQ(0, status);
  EXPECT_TRUE(session.engine().alive(session.state_dir()));
  EXPECT_THAT(session.run("echo alive"), HasSubstr("alive"));
}

TEST_P(Sandboxed, IsNotAliveOnceItsAgentEnded) {
  Session session(GetParam());
  const Sandbox sandbox = session.start();
  ::kill(sandbox.pid, SIGKILL);
  EXPECT_TRUE(eventually([&] { return !session.engine().alive(session.state_dir()); }));
}

TEST_P(Sandboxed, TellsWhatKeptItFromStarting) {
  Session session(GetParam());
  session.spec().agent = session.state_dir() + "/log";  // a folder cannot be executed
  const Result<Sandbox> made = session.engine().create(session.spec());
  ASSERT_FALSE(made);
  EXPECT_FALSE(made.error().internal.empty());
  EXPECT_FALSE(session.engine().alive(session.state_dir()));
  EXPECT_FALSE(EngineState::load(session.state_dir()));
}

TEST_P(Sandboxed, LeavesTheHostsDevicesAlone) {
  struct stat before {};
  ASSERT_EQ(0, ::stat("/dev/null", &before));
  {
    Session session(GetParam());
    session.start();
    session.run("true");
  }
  struct stat after {};
  ASSERT_EQ(0, ::stat("/dev/null", &after));
  EXPECT_EQ(before.st_uid, after.st_uid);
  EXPECT_EQ(before.st_mode, after.st_mode);
}

TEST_P(Sandboxed, GivesTheAgentALogFolderThatLeadsNowhereElse) {
  Session session(GetParam());
  const Sandbox sandbox = session.start();
  if (::geteuid() != 0) {
    GTEST_SKIP() << "a detached folder needs root";
  }
  const std::string folder = "/proc/" + std::to_string(sandbox.pid) + "/fd/4";
  std::ofstream(folder + "/spill") << "kept";
  EXPECT_EQ("kept", read_small_file(session.state_dir() + "/log/spill"));
  EXPECT_FALSE(std::filesystem::exists(folder + "/../engine.json"));
  EXPECT_TRUE(std::filesystem::exists(session.state_dir() + "/engine.json"));
}

// The negative control: what the sandboxes refuse is there without them.
TEST(ProcessEngine, RefusesNothing) {
  Session session("process");
  session.start();
  const std::string told = session.attack("calls");
  for (const char* name : {"mount", "keyctl", "open suid", "TIOCSTI", "chroot", "clone"}) {
    EXPECT_THAT(told, HasSubstr(std::string("ALLOWED ") + name + "\n"));
  }
}

TEST(ProcessEngine, EndsWithAllItsProcesses) {
  Session session("process");
  const Sandbox sandbox = session.start();
  EXPECT_THAT(session.run("pwd"), HasSubstr(session.spec().workspace));
  EXPECT_TRUE(session.engine().destroy(session.state_dir()));
  EXPECT_FALSE(ProcessId::of(sandbox.pid).alive());
}

TEST(ProcessEngine, NeedsInsecure) {
  EngineOptions options;
  options.engine = "process";
  const auto made = make_engine(options);
  ASSERT_FALSE(made);
  EXPECT_EQ(ErrorCode::kValidation, made.error().code);
}

TEST(Engines, AreChosenByWhatWorks) {
  const auto made = make_engine(EngineOptions{});
  if (probe_of("oci").works || probe_of("bubblewrap").works) {
    ASSERT_TRUE(made) << to_string(made.error());
    EXPECT_EQ(probe_of("oci").works ? "oci" : "bubblewrap", (*made)->name());
  } else {
    ASSERT_FALSE(made);
    EXPECT_EQ(ErrorCode::kUnavailable, made.error().code);
    EXPECT_THAT(made.error().internal, HasSubstr("bubblewrap: does not work"));
  }
}

TEST(Engines, RejectUnknownNames) {
  EngineOptions options;
  options.engine = "vm";
  EXPECT_THAT(make_engine(options).error().detail, HasSubstr("\"vm\""));
}

TEST(Engines, ForgetASandboxOfAnEarlierStartOfTheMachine) {
  Session session("process");
  session.start();
  const std::string path = session.state_dir() + "/engine.json";
  const std::string text = read_small_file(path);
  std::string stale = text;
  stale.replace(stale.find("boot\":\"") + 7, 8, "00000000");
  std::ofstream(path) << stale;
  EXPECT_FALSE(session.engine().alive(session.state_dir()));
  std::ofstream(path) << text;
  EXPECT_TRUE(session.engine().alive(session.state_dir()));
}

}  // namespace
}  // namespace runbus::session
