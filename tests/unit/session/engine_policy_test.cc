// The parts of the engines that need no sandbox.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <vector>

#include "services/session/doctor.h"
#include "services/session/engine_uid.h"
#include "services/session/launch.h"
#include "services/session/rootfs.h"
#include "services/session/seccomp_policy.h"

namespace runbus::session {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

struct Call {
  long number;
  long arguments[4];
  int error;  // expected; each call is aimed at nothing, so an allowed one fails too
};

// Index of the first call that behaves otherwise under the policy, plus one; 0 when none does.
int first_surprise(const std::vector<Call>& calls) {
  const std::string program = seccomp_program().value();
  const pid_t child = ::fork();
  if (child == 0) {
    sock_fprog filter{static_cast<unsigned short>(program.size() / sizeof(sock_filter)),
                      reinterpret_cast<sock_filter*>(const_cast<char*>(program.data()))};
    ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) {
      ::_exit(255);
    }
    for (std::size_t index = 0; index < calls.size(); ++index) {
      const Call& call = calls[index];
      const long result = ::syscall(call.number, call.arguments[0], call.arguments[1],
                                    call.arguments[2], call.arguments[3]);
      if (result != -1 || errno != call.error) {
        ::_exit(static_cast<int>(index) + 1);
      }
    }
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

TEST(SeccompPolicy, RefusesTwoTerminalRequestsAndNoOther) {
  std::vector<Call> calls;
  for (const long request :
       {0L, 1L, 0x5401L, 0x5411L, 0x5413L, 0x541bL, 0x541dL, 0x5410L, 0x5402L, 0x541eL, 0x15412L,
        0x80005412L, 0xffffffffL, 0x1412L, 0x5412L ^ 0x40L}) {
    calls.push_back({SYS_ioctl, {-1, request}, EBADF});
  }
  for (const long request : {long{TIOCSTI}, long{TIOCLINUX}}) {
    calls.push_back({SYS_ioctl, {-1, request}, ENOSYS});
    calls.push_back({SYS_ioctl, {-1, request | 0x7f00000000L}, ENOSYS});
  }
  EXPECT_EQ(0, first_surprise(calls));
}

TEST(SeccompPolicy, RefusesSetIdModesOnlyWhereAFileIsMade) {
  const long nowhere = reinterpret_cast<long>("/nonexistent/x");
  EXPECT_EQ(0, first_surprise({
                   {SYS_openat, {AT_FDCWD, nowhere, O_RDONLY, 07777}, ENOENT},
                   {SYS_openat, {AT_FDCWD, nowhere, O_CREAT | O_WRONLY, 0777}, ENOENT},
                   {SYS_openat, {AT_FDCWD, nowhere, O_CREAT | O_WRONLY, 04755}, ENOSYS},
                   {SYS_openat, {AT_FDCWD, nowhere, O_CREAT | O_WRONLY, 02755}, ENOSYS},
                   {SYS_openat, {AT_FDCWD, nowhere, O_TMPFILE | O_WRONLY, 04755}, ENOSYS},
                   {SYS_fchmodat, {AT_FDCWD, nowhere, 0755}, ENOENT},
                   {SYS_fchmodat, {AT_FDCWD, nowhere, 04755}, EPERM},
                   {SYS_fchmod, {-1, 01777}, EBADF},
                   {SYS_fchmod, {-1, 02755}, EPERM},
                   {SYS_mknodat, {AT_FDCWD, nowhere, S_IFIFO | 0644}, ENOENT},
                   {SYS_mknodat, {AT_FDCWD, nowhere, S_IFBLK | 0644}, ENOSYS},
               }));
}

TEST(SeccompPolicy, IsADenyList) {
  // A call that no kernel has, and the control that an allowed one reaches the kernel.
  EXPECT_EQ(0,
            first_surprise({{9999, {}, ENOSYS}, {SYS_close, {-1}, EBADF}, {SYS_mount, {}, EPERM}}));
  EXPECT_EQ(1, first_surprise({{SYS_close, {-1}, EPERM}}));
}

TEST(Launch, RunsWithExactlyTheGivenDescriptorsAndEnvironment) {
  int pipe_ends[2];
  ASSERT_EQ(0, ::pipe(pipe_ends));  // not close-on-exec on purpose
  Launch launch;
  launch.argv = {"/bin/sh", "-c", "ls /proc/self/fd; env; pwd"};
  launch.environment = {"A=b"};
  launch.descriptors = {-1, pipe_ends[1], pipe_ends[1]};
  launch.working_directory = "/usr";
  EXPECT_EQ(
      0, run_program(launch, std::chrono::steady_clock::now() + std::chrono::seconds(30)).value());
  ::close(pipe_ends[1]);
  std::string output(4096, '\0');
  output.resize(static_cast<std::size_t>(::read(pipe_ends[0], output.data(), output.size())));
  ::close(pipe_ends[0]);
  EXPECT_EQ("0\n1\n2\n3\nA=b\nPWD=/usr\n/usr\n", output);  // 3 is what ls reads
}

TEST(Launch, NamesTheStageThatFailed) {
  Launch launch;
  launch.argv = {"/nonexistent/program"};
  EXPECT_THAT(start_program(launch).error().internal, HasSubstr("executing"));
  launch.argv = {"/bin/true"};
  launch.working_directory = "/nonexistent";
  EXPECT_THAT(start_program(launch).error().internal, HasSubstr("entering its folder"));
}

TEST(Launch, RunsNothingWhenTheRecordFails) {
  const auto folder =
      std::filesystem::temp_directory_path() / ("runbus-launch-" + std::to_string(::getpid()));
  Launch launch;
  launch.argv = {"/bin/mkdir", folder.string()};
  const auto started = start_program(
      launch, [](ProcessId) -> Result<void> { return make_error(ErrorCode::kInternal, "no"); });
  EXPECT_FALSE(started);
  EXPECT_FALSE(std::filesystem::exists(folder));
}

TEST(Launch, KillsAProgramAtItsDeadline) {
  Launch launch;
  launch.argv = {"/bin/sleep", "1000"};
  const auto ended =
      run_program(launch, std::chrono::steady_clock::now() + std::chrono::milliseconds(50));
  ASSERT_FALSE(ended);
  EXPECT_EQ(ErrorCode::kTimeout, ended.error().code);
}

TEST(ProcessIds, DoNotMistakeAnotherProcessOfTheSamePid) {
  ProcessId self = ProcessId::of(::getpid());
  EXPECT_TRUE(self.alive());
  ++self.start_time;
  EXPECT_FALSE(self.alive());
  EXPECT_FALSE(self.signal(SIGKILL));
}

TEST(Uids, AreClaimedByOneSandboxAtATimeAndFreedWithItsFolder) {
  if (::geteuid() != 0) {
    GTEST_SKIP() << "claims are made by root alone";
  }
  const auto base =
      std::filesystem::temp_directory_path() / ("runbus-uids-" + std::to_string(::getpid()));
  const std::string one = base / "one";
  const std::string two = base / "two";
  const std::string three = base / "three";
  for (const std::string& folder : {one, two, three}) {
    std::filesystem::create_directories(folder);
  }
  const auto first = claim_uid(900000, 2, "k", one);
  const auto second = claim_uid(900000, 2, "k", two);
  ASSERT_TRUE(first && second);
  EXPECT_NE(*first, *second);
  EXPECT_EQ(*first, claim_uid(900000, 2, "k", one).value());
  EXPECT_EQ(ErrorCode::kQuota, claim_uid(900000, 2, "k", three).error().code);
  std::filesystem::remove_all(one);  // its owner died without releasing
  EXPECT_EQ(*first, claim_uid(900000, 2, "k", three).value());
  release_uid(*first, two);  // not the holder
  release_uid(*second, two);
  EXPECT_EQ(*second, claim_uid(900000, 2, "k", two).value());
  release_uid(*first, three);
  release_uid(*second, two);
  std::filesystem::remove_all(base);
}

TEST(RootfsOfAnImage, ShowsItsTopLevelAndNothingOfTheHost) {
  const auto image =
      std::filesystem::temp_directory_path() / ("runbus-image-" + std::to_string(::getpid()));
  std::filesystem::create_directories(image / "usr/bin");
  std::filesystem::create_directories(image / "etc");
  std::filesystem::create_directories(image / "proc");
  std::filesystem::create_symlink("usr/bin", image / "bin");
  std::ofstream(image / "etc/passwd") << "x";
  const auto view = describe_rootfs(image, false);
  ASSERT_TRUE(view);
  for (const auto& [source, path] : view->binds) {
    EXPECT_THAT(source, HasSubstr(image.string()));
    EXPECT_NE("/proc", path);
  }
  ASSERT_EQ(1U, view->links.size());
  EXPECT_EQ("/bin", view->links[0].first);
  ASSERT_EQ(1U, view->files.size());
  EXPECT_EQ("/etc/passwd", view->files[0].first);
  std::filesystem::remove_all(image);
  EXPECT_EQ(ErrorCode::kValidation, describe_rootfs(image, false).error().code);
}

TEST(Doctor, SaysEachCauseInASentenceOfItsOwn) {
  Machine machine;
  machine.max_user_namespaces = 0;
  machine.apparmor_restricts_namespaces = 1;
  machine.container = true;
  const std::string text =
      explain_sandbox_failure("bubblewrap", machine, "bwrap: Operation not permitted\n\x1b[2J");
  EXPECT_THAT(text, HasSubstr("sudo sysctl user.max_user_namespaces=15000"));
  EXPECT_THAT(text, HasSubstr("apparmor_restrict_unprivileged_userns=1"));
  EXPECT_THAT(text, HasSubstr("This is a container"));
  EXPECT_THAT(text, Not(HasSubstr("\x1b")));
  EXPECT_THAT(missing_program("bwrap", "bubblewrap"), HasSubstr("apt-get install bubblewrap"));
}

TEST(Doctor, SaysThatARuntimeIsMissing) {
  for (const char* runtime : {"/opt/bin/runsc", "no-such-runtime"}) {
    EngineOptions options;
    options.engine = "oci";
    options.runtime = runtime;
    const Probe probe = make_engine(options).value()->probe();
    EXPECT_FALSE(probe.works);
    EXPECT_THAT(probe.why.at("works"), HasSubstr(std::string(runtime) + " is not installed"));
  }
}

TEST(Doctor, SaysWhatIsNotEnforcedAndWhy) {
  Probe probe;
  probe.works = true;
  probe.enforced = {{"memory", "none"}, {"pids", "rlimit"}};
  probe.why = {{"memory", "no cgroups"}};
  const std::string text = describe(probe, "bubblewrap");
  EXPECT_THAT(text, HasSubstr("bubblewrap: works"));
  EXPECT_THAT(text, HasSubstr("memory: NOT enforced (no cgroups)"));
  EXPECT_THAT(text, HasSubstr("pids: enforced by rlimit"));
}

}  // namespace
}  // namespace runbus::session
