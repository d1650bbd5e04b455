#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>

#include "proto/support/unique_fd.h"
#include "tests/unit/worker/worker_fixture.h"

extern char** environ;

// A whole worker program, made by worker::run().
namespace runbus::worker {
namespace {

class ProgramTest : public WorkerFixture {
 protected:
  ~ProgramTest() override {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
  }

  void spawn(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), RUNBUS_EXAMPLE_ECHO);
    spawn_program(std::move(arguments));
  }

  // The same service, with methods pyecho.*, in Python.
  void spawn_python(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(),
                     {"/usr/bin/env", "PYTHONPATH=" RUNBUS_PYTHON_GENERATED,
                      "PYTHONDONTWRITEBYTECODE=1", "/usr/bin/python3", RUNBUS_PYECHO});
    spawn_program(std::move(arguments));
  }

  void spawn_program(std::vector<std::string> arguments) {
    std::vector<char*> argv;
    for (std::string& argument : arguments) {
      argv.push_back(argument.data());
    }
    argv.push_back(nullptr);
    ASSERT_EQ(::posix_spawn(&pid_, argv[0], nullptr, nullptr, argv.data(), environ), 0);
  }

  bool until_exited() {
    return until([&] {
      if (::waitpid(pid_, &status_, WNOHANG) != pid_) {
        return false;
      }
      pid_ = -1;
      return true;
    });
  }

  pid_t pid_ = -1;
  int status_ = 0;
};

TEST_F(ProgramTest, SaysWhenItIsReadyServesAndDrainsOnSigterm) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_NONBLOCK), 0);
  const UniqueFd read_end(ends[0]);
  UniqueFd write_end(ends[1]);
  ASSERT_EQ(::fcntl(read_end.get(), F_SETFD, FD_CLOEXEC), 0);
  broker_ = std::make_unique<FakeBroker>(endpoint_);
  spawn({"--broker", endpoint_, "--node", "n", "--ready-fd", std::to_string(write_end.get())});
  write_end.reset();
  std::array<char, 16> line{};
  ssize_t length = -1;
  ASSERT_TRUE(until([&] {
    length = ::read(read_end.get(), line.data(), line.size());
    return length >= 0;
  }));
  EXPECT_EQ(std::string(line.data(), static_cast<std::size_t>(length)), "ready\n");
  EXPECT_EQ(broker_->ready().node(), "n");

  broker_->call("c1", "echo.say", say("hi"));
  ASSERT_TRUE(until_received(v1::RESULT, "c1"));
  ASSERT_EQ(::kill(pid_, SIGTERM), 0);
  ASSERT_TRUE(until_exited());
  EXPECT_TRUE(WIFEXITED(status_));
  EXPECT_EQ(WEXITSTATUS(status_), 0);
  EXPECT_TRUE(until([&] { return broker_->count(v1::DRAIN) == 1; }));
}

TEST_F(ProgramTest, SecondSignalEndsItAtOnce) {
  broker_ = std::make_unique<FakeBroker>(endpoint_);
  spawn({"--broker", endpoint_, "--drain-timeout", "3600"});
  ASSERT_TRUE(until([&] { return broker_->attached(); }));
  broker_->call("c1", "echo.chat", echo::ChatRequest());
  ASSERT_TRUE(until_received(v1::ITEM, "c1"));
  ASSERT_EQ(::kill(pid_, SIGINT), 0);
  ASSERT_TRUE(until([&] { return broker_->count(v1::DRAIN) == 1; }));
  ASSERT_EQ(::kill(pid_, SIGINT), 0);
  ASSERT_TRUE(until_exited());
  EXPECT_EQ(WEXITSTATUS(status_), 128 + SIGINT);
}

TEST_F(ProgramTest, PythonWorkerStreamsUnderCreditAndAnswersAgain) {
  broker_ = std::make_unique<FakeBroker>(endpoint_, std::chrono::seconds(20));
  spawn_python({"--broker", endpoint_, "--node", "n"});
  ASSERT_TRUE(until([&] { return broker_->attached(); }));
  ASSERT_EQ(broker_->ready().services_size(), 1);
  EXPECT_EQ(broker_->ready().services(0).service(), "example.pyecho.v1.EchoService");

  echo::CountRequest request;
  request.set_to(5);
  request.set_padding(100);
  broker_->call("c1", "pyecho.count", request, [](v1::Header& header) { header.set_credit(350); });
  ASSERT_TRUE(until_received(v1::ITEM, "c1", 3));
  broker_->call("c2", "pyecho.say", say("hi"));
  ASSERT_TRUE(until_received(v1::RESULT, "c2"));
  EXPECT_EQ(broker_->count(v1::ITEM, "c1"), 3U);
  broker_->credit("c1", 10'000, 2);
  ASSERT_TRUE(until_received(v1::RESULT, "c1"));
  EXPECT_EQ(broker_->count(v1::ITEM, "c1"), 5U);

  broker_->forget();
  broker_->call("c1", "pyecho.count", request,
                [](v1::Header& header) { header.mutable_resume()->set_sequence(4); });
  ASSERT_TRUE(until_received(v1::ACCEPTED, "c1"));
  broker_->call("c1", "pyecho.count", request, [](v1::Header& header) {
    header.mutable_resume()->set_sequence(4);
    header.set_credit(10'000);
  });
  ASSERT_TRUE(until_received(v1::RESULT, "c1"));
  EXPECT_EQ(broker_->of(v1::ITEM, "c1").front().header.sequence(), 5U);
  EXPECT_EQ(broker_->of(v1::RESULT, "c1").front().header.sequence(), 6U);
}

TEST_F(ProgramTest, PythonWorkerChatsCancelsAndDrains) {
  broker_ = std::make_unique<FakeBroker>(endpoint_);
  spawn_python({"--broker", endpoint_});
  ASSERT_TRUE(until([&] { return broker_->attached(); }));
  echo::ChatRequest request;
  broker_->call("c1", "pyecho.chat", request);
  broker_->call("c2", "pyecho.chat", request);
  broker_->call("c3", "pyecho.shout", request);
  EXPECT_EQ(only_error("c3").code(), -32601);
  broker_->cancel("c1");
  EXPECT_EQ(only_error("c1").code(), -32011);
  ASSERT_EQ(::kill(pid_, SIGTERM), 0);
  ASSERT_TRUE(until([&] { return broker_->count(v1::DRAIN) == 1; }));
  request.set_done(true);
  broker_->input("c2", request);
  ASSERT_TRUE(until_received(v1::RESULT, "c2"));
  EXPECT_EQ(broker_->count(v1::ITEM, "c2"), 2U);
  ASSERT_TRUE(until_exited());
  EXPECT_TRUE(WIFEXITED(status_));
  EXPECT_EQ(WEXITSTATUS(status_), 0);
  EXPECT_TRUE(until([&] { return broker_->count(v1::GOODBYE) == 1; }));
}

TEST_F(ProgramTest, PythonWorkerComesBackToANewBroker) {
  const std::chrono::milliseconds heartbeat_timeout(2000);
  broker_ = std::make_unique<FakeBroker>(endpoint_, heartbeat_timeout);
  spawn_python({"--broker", endpoint_});
  ASSERT_TRUE(until([&] { return broker_->attached(); }));
  broker_->call("c1", "pyecho.chat", echo::ChatRequest());
  ASSERT_TRUE(until_received(v1::ITEM, "c1"));
  broker_.reset();
  broker_ = std::make_unique<FakeBroker>(endpoint_, heartbeat_timeout);
  ASSERT_TRUE(until([&] { return broker_->attached(); }));
  ASSERT_EQ(broker_->ready().calls_size(), 1);
  ASSERT_TRUE(until_received(v1::ITEM, "c1"));
  EXPECT_EQ(broker_->of(v1::ITEM, "c1").front().header.sequence(), 1U);
  echo::ChatRequest last;
  last.set_done(true);
  broker_->input("c1", last);
  EXPECT_TRUE(until_received(v1::RESULT, "c1"));
}

TEST_F(ProgramTest, RefusesTcpWithoutKeys) {
  spawn({"--broker", "tcp://127.0.0.1:1", "--log-level", "off"});
  ASSERT_TRUE(until_exited());
  EXPECT_EQ(WEXITSTATUS(status_), 1);
}

}  // namespace
}  // namespace runbus::worker
