#include "tools/runbus/follow.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include "proto/wire/transcoder.h"
#include "tests/unit/tools/testing.h"
#include "tools/runbus/commands.h"
#include "tools/runbus/text_server.h"

// `runbus exec` in a process of its own, against a gateway that the test plays.
namespace runbus::cli {
namespace {

using testing::content_of;
using testing::TemporaryDirectory;
using testing::wait_for_child;

class FollowTest : public ::testing::Test {
 protected:
  using Peer = std::shared_ptr<TextServer::Peer>;

  FollowTest()
      : server_(io_, {.on_text =
                          [this](const Peer& peer, std::string_view text) {
                            rapidjson::Document request;
                            request.Parse(text.data(), text.size());
                            on_text(peer, request);
                          },
                      .admit = {}}) {}

  void on_text(const Peer& peer, const rapidjson::Document& request) {
    const std::string method = request["method"].GetString();
    const std::string id = std::to_string(request["id"].GetUint64());
    if (method == "connection.info") {
      peer->send("{\"id\":" + id + ",\"result\":{\"session_id\":\"s1\"}}");
      return;
    }
    calls_ += method + " ";
    params_.CopyFrom(request["params"], params_.GetAllocator());
    on_call_(peer, method, id);
  }

  static std::string item(const std::string& method, const std::string& params) {
    return "{\"method\":\"" + method + "\",\"params\":{\"execution_id\":\"e1\"" + params + "}}";
  }
  static std::string output(std::uint64_t offset, const std::string& text,
                            const std::string& stream = "stdout") {
    std::string json =
        ",\"stream\":\"" + stream + "\",\"offset\":" + std::to_string(offset) + ",\"text\":";
    wire::append_json_string(text, json);
    return item("execute.output", json);
  }
  static std::string result(const std::string& id, const std::string& members) {
    return "{\"id\":" + id + ",\"result\":{\"execution_id\":\"e1\"," + members + "}}";
  }
  static std::string ended(const std::string& id) {
    return result(id, R"("status":"completed","exit_code":0,"signal":null,"limit":null)");
  }

  // Returns the exit code; stdout and stderr are in the files out and err.
  int run(const std::string& input = {}, bool start = true) {
    const pid_t pid = begin(input, start);
    return wait_for_child(pid, [this] { io_.run_for(std::chrono::milliseconds(5)); });
  }

  pid_t begin(const std::string& input, bool start) {
    std::ofstream(directory_ / "in") << input;
    FollowOptions options{
        .gateway = {.host = "127.0.0.1", .port = std::to_string(server_.port()), .token = {}},
        .execution = "e1",
        .session = {},
        .start = start ? std::optional<std::string>("{\"execution_id\":\"e1\"}") : std::nullopt,
        .offset = 0,
        .forward_stdin = true,
        .json = false};
    const pid_t pid = ::fork();
    if (pid == 0) {
      ::dup2(::open((directory_ / "in").c_str(), O_RDONLY), 0);
      ::dup2(::open((directory_ / "out").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), 1);
      ::dup2(::open((directory_ / "err").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), 2);
      ::_exit(Follow(std::move(options)).run());
    }
    return pid;
  }

  std::string out() const { return content_of(directory_ / "out"); }
  std::string err() const { return content_of(directory_ / "err"); }

  boost::asio::io_context io_{1};
  TemporaryDirectory directory_;
  std::function<void(const Peer&, const std::string& method, const std::string& id)> on_call_;
  std::string calls_;
  rapidjson::Document params_;
  TextServer server_;
};

TEST_F(FollowTest, StreamsAndExitCodeAreThePrograms) {
  on_call_ = [](const Peer& peer, const std::string& method, const std::string& id) {
    if (method == "execute.code_streaming") {
      peer->send(item("execute.started", ",\"session_id\":\"s1\""));
      peer->send(output(0, "out\n"));
      peer->send(output(4, "err\n", "stderr"));
      peer->send(item("execute.output", ",\"stream\":\"stdout\",\"offset\":8,\"data\":\"/wA=\""));
      peer->send(result(id, R"("status":"failed","exit_code":3,"signal":null)"));
    }
  };
  EXPECT_EQ(run(), 3);
  EXPECT_EQ(out(), std::string("out\n\xff\0", 6));
  EXPECT_EQ(err(), "err\n");
}

TEST_F(FollowTest, SignalBecomesItsExitCode) {
  on_call_ = [](const Peer& peer, const std::string&, const std::string& id) {
    peer->send(
        result(id, R"("status":"timeout","exit_code":null,"signal":"SIGKILL","limit":"time")"));
  };
  EXPECT_EQ(run(), 137);
  EXPECT_NE(err().find("ended by its limit of time"), std::string::npos);
}

TEST_F(FollowTest, TimeoutWithoutASignalIsTold) {
  on_call_ = [](const Peer& peer, const std::string&, const std::string& id) {
    peer->send(result(id, R"("status":"timeout","exit_code":null,"signal":null,"limit":"time")"));
  };
  EXPECT_EQ(run(), 124);
}

TEST_F(FollowTest, AttachesAgainWhenTheMethodIsMissingForAMoment) {
  on_call_ = [](const Peer& peer, const std::string& method, const std::string& id) {
    if (method == "execute.code_streaming") {
      peer->send(item("execute.started", ",\"session_id\":\"s1\""));
      peer->send("{\"id\":" + id + R"(,"error":{"code":-32601,"message":"Method not found"}})");
    } else if (method == "execute.attach") {
      peer->send(output(0, "on"));
      peer->send(ended(id));
    }
  };
  EXPECT_EQ(run(), 0);
  EXPECT_EQ(out(), "on");
}

TEST_F(FollowTest, ErrorOfTheCallIsNotThePrograms) {
  on_call_ = [](const Peer& peer, const std::string&, const std::string& id) {
    peer->send("{\"id\":" + id +
               R"(,"error":{"code":-32601,"message":"Method not found","data":{"detail":"x"}}})");
  };
  EXPECT_EQ(run(), kRunbusFailed);
  EXPECT_NE(err().find("Method not found: x"), std::string::npos);
}

TEST_F(FollowTest, GoesOnAtTheSameByteAfterALostConnection) {
  on_call_ = [this](const Peer& peer, const std::string& method, const std::string& id) {
    if (method == "execute.code_streaming") {
      peer->send(output(0, "one "));
      // Cut once the client has surely read it: it then sends its input's end.
    } else if (method == "execute.input") {
      peer->drop();
    } else if (method == "execute.attach") {
      EXPECT_EQ(params_["offset"].GetUint64(), 4U);
      EXPECT_STREQ(params_["session_id"].GetString(), "s1");
      peer->send(output(2, "e two"));  // also what was seen before
      peer->send(ended(id));
    }
  };
  EXPECT_EQ(run(), 0);
  EXPECT_EQ(out(), "one two");
  EXPECT_NE(err().find("connecting again"), std::string::npos);
  EXPECT_EQ(calls_.find("code_streaming"), calls_.rfind("code_streaming")) << calls_;
}

TEST_F(FollowTest, TellsOfBytesThatAreNoLongerKept) {
  on_call_ = [](const Peer& peer, const std::string& method, const std::string& id) {
    if (method == "execute.attach") {
      peer->send(item("execute.gap", ",\"from\":0,\"to\":100"));
      peer->send(output(100, "late"));
      peer->send(ended(id));
    }
  };
  EXPECT_EQ(run({}, false), 0);
  EXPECT_EQ(out(), "late");
  EXPECT_NE(err().find("bytes 0 to 100 of the output are no longer kept"), std::string::npos);
}

TEST_F(FollowTest, SendsAgainTheInputThatWasNotAccepted) {
  std::string input;
  for (int i = 0; i < 50'000; ++i) {
    input += std::to_string(i) + "\n";
  }
  std::string received;
  bool eof = false;
  std::string call;
  on_call_ = [&](const Peer& peer, const std::string& method, const std::string& id) {
    if (method == "execute.code_streaming") {
      call = id;
      peer->send(item("execute.started", ",\"session_id\":\"s1\""));
      return;
    }
    ASSERT_EQ(method, "execute.input");
    ASSERT_FALSE(eof);
    const auto data = wire::decode_base64(params_["data"].GetString());
    ASSERT_TRUE(data);
    const std::size_t accepted = std::min<std::size_t>(data->size(), 40'000);
    received += data->substr(0, accepted);
    eof = params_.HasMember("eof") && accepted == data->size();
    peer->send("{\"id\":" + id + ",\"result\":{\"accepted\":" + std::to_string(accepted) + "}}");
    if (eof) {
      peer->send(ended(call));
    }
  };
  EXPECT_EQ(run(input), 0);
  EXPECT_TRUE(eof);
  EXPECT_TRUE(received == input) << received.size() << " of " << input.size();
}

TEST_F(FollowTest, FirstInterruptIsThePrograms) {
  std::string call;
  pid_t pid = -1;
  on_call_ = [&](const Peer& peer, const std::string& method, const std::string& id) {
    if (method == "execute.code_streaming") {
      call = id;
      peer->send(item("execute.started", ",\"session_id\":\"s1\""));
    } else if (method == "execute.input") {
      ::kill(pid, SIGINT);
    } else if (method == "execute.signal") {
      EXPECT_STREQ(params_["signal"].GetString(), "SIGINT");
      ::kill(pid, SIGINT);
    } else if (method == "execute.cancel") {
      peer->send(result(call, R"("status":"cancelled","exit_code":null,"signal":"SIGTERM")"));
    }
  };
  pid = begin({}, true);
  EXPECT_EQ(wait_for_child(pid, [this] { io_.run_for(std::chrono::milliseconds(5)); }),
            128 + SIGTERM);
  EXPECT_NE(calls_.find("execute.signal execute.cancel"), std::string::npos) << calls_;
}

TEST_F(FollowTest, UnfinishedOutputWaitsForItsReaderWithoutStoppingTheLoop) {
  // stdout is a pipe that is read only after the program was interrupted through the same client.
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const std::string big(1U << 20U, 'x');
  std::string call;
  pid_t pid = -1;
  on_call_ = [&](const Peer& peer, const std::string& method, const std::string& id) {
    if (method == "execute.attach") {
      call = id;
      peer->send(output(0, big));
    } else if (method == "execute.input") {
      ::kill(pid, SIGINT);
    } else if (method == "execute.signal") {
      peer->send(ended(call));
      ::fcntl(ends[0], F_SETFL, O_NONBLOCK);
    }
  };
  pid = ::fork();
  if (pid == 0) {
    ::dup2(ends[1], 1);
    ::dup2(::open("/dev/null", O_RDONLY), 0);
    ::close(ends[0]);
    ::_exit(
        Follow(
            {.gateway = {.host = "127.0.0.1", .port = std::to_string(server_.port()), .token = {}},
             .execution = "e1",
             .session = {},
             .start = std::nullopt,
             .offset = 0,
             .forward_stdin = true,
             .json = false})
            .run());
  }
  ::close(ends[1]);
  std::string read_here;
  const int code = wait_for_child(pid, [&] {
    io_.run_for(std::chrono::milliseconds(5));
    if (calls_.find("execute.signal") != std::string::npos) {
      std::string buffer(65536, '\0');
      for (ssize_t count = 1; count > 0;) {
        count = ::read(ends[0], buffer.data(), buffer.size());
        read_here.append(buffer.data(), static_cast<std::size_t>(std::max<ssize_t>(count, 0)));
      }
    }
  });
  EXPECT_EQ(code, 0);
  std::string rest(1U << 17U, '\0');
  const ssize_t count = ::read(ends[0], rest.data(), rest.size());
  read_here.append(rest.data(), static_cast<std::size_t>(std::max<ssize_t>(count, 0)));
  ::close(ends[0]);
  EXPECT_TRUE(read_here == big) << read_here.size();
}

}  // namespace
}  // namespace runbus::cli
