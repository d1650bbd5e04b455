#include "tools/runbus/up.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <rapidjson/document.h>

#include "tests/unit/tools/testing.h"

// `runbus up` against children that are shell scripts.
namespace runbus::cli {
namespace {

using testing::content_of;
using testing::is_alive;
using testing::make_script;
using testing::mode_of;
using testing::pid_in;
using testing::TemporaryDirectory;
using testing::wait_for_child;
using testing::wait_until;

class UpTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directory(bin_);
    program("runbus-broker", "echo ready >&3\nexec sleep 1000\n");
    program("runbus-gateway", "echo 127.0.0.1:4711 >&3\nexec sleep 1000\n");
    program("runbus-worker", "[ $1 = --destroy-sessions ] && { echo destroyed >> " + log_ +
                                 "; exit 0; }\necho ready >&3\nexec sleep 1000\n");
    program("runbus", "echo checked >> " + log_ + "\necho '  it works'\n");
  }

  void TearDown() override {
    if (up_ > 0) {
      ::kill(up_, SIGTERM);
      wait_for_child(up_);
    }
  }

  // Each start is logged, and its pid is in NAME.pid.
  void program(const std::string& name, const std::string& body) {
    make_script(bin_ + "/" + name, "echo \"" + name + " $*\" >> " + log_ + "\necho $$ > " +
                                       (directory_ / name) + ".new; mv " + (directory_ / name) +
                                       ".new " + (directory_ / name) + ".pid\n" + body);
  }
  pid_t pid(const std::string& name) const { return pid_in(directory_ / (name + ".pid")); }

  UpOptions options() const {
    UpOptions up;
    up.listen = "127.0.0.1:0";
    up.state_dir = state_;
    up.json = true;
    up.bin_dir = bin_;
    return up;
  }

  // In a process of its own, since it takes over signals and children; stdout and stderr go to
  // files.
  pid_t start(const UpOptions& options) {
    const pid_t pid = ::fork();
    if (pid == 0) {
      ::dup2(::open((directory_ / "out").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600), 1);
      ::dup2(::open((directory_ / "err").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600), 2);
      ::_exit(up(options));
    }
    return pid;
  }

  // Starts it and waits until it says that it is ready.
  rapidjson::Document start_and_wait(const UpOptions& options) {
    up_ = start(options);
    EXPECT_TRUE(wait_until([&] { return content_of(directory_ / "out").ends_with('\n'); }))
        << content_of(directory_ / "err");
    rapidjson::Document ready;
    ready.Parse(content_of(directory_ / "out").c_str());
    return ready;
  }

  int stop() {
    ::kill(up_, SIGTERM);
    return wait_for_child(std::exchange(up_, -1));
  }

  TemporaryDirectory directory_;
  std::string bin_ = directory_ / "bin";
  std::string log_ = directory_ / "log";
  std::string state_ = directory_ / "state";
  pid_t up_ = -1;
};

TEST_F(UpTest, SaysInOneLineOfJsonWhereItListens) {
  const rapidjson::Document ready = start_and_wait(options());
  ASSERT_TRUE(ready.IsObject()) << content_of(directory_ / "out");
  const std::string token = ready["token"].GetString();
  EXPECT_EQ(ready["url"].GetString(), "http://127.0.0.1:4711/?token=" + token);
  EXPECT_EQ(ready["ws_url"].GetString(), "ws://127.0.0.1:4711/ws?token=" + token);
  EXPECT_EQ(ready["pid"].GetInt(), up_);
  EXPECT_EQ(content_of(state_ + "/url"), "http://127.0.0.1:4711\n");
  EXPECT_EQ(content_of(state_ + "/token"), token + "\n");
  EXPECT_EQ(stop(), 0);
}

TEST_F(UpTest, CleansUpChecksAndStartsInOrder) {
  start_and_wait(options());
  std::string order;
  std::istringstream lines(content_of(log_));
  for (std::string line; std::getline(lines, line);) {
    order += line.substr(0, line.find(' ', line.starts_with("runbus-worker") ? 15 : 0)) + "\n";
  }
  EXPECT_EQ(
      order,
      "runbus-worker --destroy-sessions\ndestroyed\nrunbus-broker\nrunbus-gateway\nrunbus-worker "
      "execution\n"
      "runbus\nchecked\n");
}

TEST_F(UpTest, TokenIsInNoArgumentOfAChild) {
  UpOptions with_token = options();
  with_token.token = "very-secret-token";
  start_and_wait(with_token);
  EXPECT_EQ(content_of(log_).find("very-secret-token"), std::string::npos);
  EXPECT_NE(content_of(log_).find("--token-file " + state_ + "/token"), std::string::npos);
  EXPECT_EQ(mode_of(state_ + "/token"), 0600);
  EXPECT_EQ(content_of(state_ + "/token"), "very-secret-token\n");
}

TEST_F(UpTest, StopLeavesNothingBehind) {
  start_and_wait(options());
  const std::vector<pid_t> children{pid("runbus-broker"), pid("runbus-gateway")};
  EXPECT_EQ(stop(), 0);
  for (const pid_t child : children) {
    EXPECT_FALSE(is_alive(child));
  }
  EXPECT_FALSE(std::filesystem::exists(state_ + "/url"));
  EXPECT_TRUE(std::filesystem::is_empty(state_ + "/run"));
  const std::string log = content_of(log_);
  EXPECT_NE(log.rfind("--destroy-sessions"), log.find("--destroy-sessions"));
}

TEST_F(UpTest, TwoOnOneStateDirectoryAreRefused) {
  start_and_wait(options());
  EXPECT_EQ(wait_for_child(start(options())), 1);
  EXPECT_NE(content_of(directory_ / "err").find("another `runbus up` runs on the state directory"),
            std::string::npos);
  EXPECT_EQ(stop(), 0);
}

TEST_F(UpTest, FailsWithTheReasonWhenAPartCannotStart) {
  program("runbus-gateway", "echo 'address in use' >&2\nexit 1\n");
  EXPECT_EQ(wait_for_child(start(options())), 1);
  EXPECT_NE(content_of(directory_ / "err").find("cannot start: gateway ended with status 1"),
            std::string::npos)
      << content_of(directory_ / "err");
  EXPECT_FALSE(is_alive(pid("runbus-broker")));
  EXPECT_EQ(content_of(directory_ / "out"), "");
}

TEST_F(UpTest, CheckRunsAProgramAndEnds) {
  UpOptions check = options();
  check.check = true;
  EXPECT_EQ(wait_for_child(start(check)), 0) << content_of(directory_ / "err");
  EXPECT_NE(content_of(log_).find("checked"), std::string::npos);
  EXPECT_FALSE(is_alive(pid("runbus-broker")));
}

TEST_F(UpTest, CheckFailsWhenTheProgramDoes) {
  program("runbus", "exit 1\n");
  UpOptions check = options();
  check.check = true;
  EXPECT_EQ(wait_for_child(start(check)), 1);
  EXPECT_NE(content_of(directory_ / "err").find("a program could not be run"), std::string::npos);
}

TEST_F(UpTest, GatewayThatIsKilledComesBackOnTheSamePort) {
  start_and_wait(options());
  const pid_t first = pid("runbus-gateway");
  ::kill(first, SIGKILL);
  EXPECT_TRUE(wait_until([&] { return pid("runbus-gateway") != first; }));
  EXPECT_NE(content_of(log_).find("runbus-gateway --listen 127.0.0.1:4711"), std::string::npos)
      << content_of(log_);
  EXPECT_EQ(stop(), 0);
}

TEST_F(UpTest, PassesItsOptionsOn) {
  UpOptions all = options();
  all.workers = 2;
  all.engine = "bubblewrap";
  all.insecure = true;
  all.allow_origin = {"http://a"};
  all.broker_listen = "tcp://127.0.0.1:70";
  all.authorized_keys = directory_ / "keys";
  start_and_wait(all);
  const std::string log = content_of(log_);
  EXPECT_NE(log.find("--engine bubblewrap --insecure"), std::string::npos) << log;
  EXPECT_NE(log.find("--allow-origin http://a"), std::string::npos);
  EXPECT_NE(log.find("--listen tcp://127.0.0.1:70 --events-listen tcp://127.0.0.1:71 "
                     "--curve-secret-file " +
                     state_ + "/server.secret --authorized-keys "),
            std::string::npos)
      << log;
  EXPECT_EQ(mode_of(state_ + "/server.secret"), 0600);
  std::size_t workers = 0;
  for (std::size_t at = log.find("runbus-worker execution"); at != std::string::npos;
       at = log.find("runbus-worker execution", at + 1)) {
    ++workers;
  }
  EXPECT_EQ(workers, 2U);
}

TEST_F(UpTest, BrokerOnTcpWithoutAuthorizedKeysIsRefused) {
  UpOptions open = options();
  open.broker_listen = "tcp://127.0.0.1:0";
  EXPECT_EQ(wait_for_child(start(open)), 1);
  EXPECT_NE(content_of(directory_ / "err").find("--broker-listen needs --authorized-keys"),
            std::string::npos);
}

}  // namespace
}  // namespace runbus::cli
