#include "services/session/agent_client.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/write.hpp>
#include <optional>

#include "proto/wire/agent_frame.h"
#include "services/session/unix_path.h"
#include "tests/unit/session/loop.h"

namespace runbus::session {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// The other end of the socket, under the test's control.
class FakeAgent {
 public:
  FakeAgent(boost::asio::io_context& io, const std::string& path)
      : acceptor_(io, boost::asio::local::stream_protocol(), listen_unix(path).value().release()),
        socket_(io) {
    acceptor_.async_accept(socket_, [this](const boost::system::error_code& error) {
      if (!error) {
        read();
      }
    });
  }

  void send(const agent_v1::AgentReply& reply, const std::string& payload = {}) {
    std::string bytes;
    ASSERT_TRUE(wire::append_frame(bytes, reply, payload));
    send_bytes(bytes);
  }
  void send_bytes(const std::string& bytes) {
    boost::system::error_code ignored;  // the client may have hung up
    boost::asio::write(socket_, boost::asio::buffer(bytes), ignored);
  }
  void hang_up() { socket_.close(); }

  bool welcome = true;
  bool closed = false;
  std::vector<agent_v1::AgentRequest> requests;  // without Hello
  std::vector<std::string> payloads;

 private:
  void read() {
    const auto room = parser_.prepare(65536);
    socket_.async_read_some(boost::asio::buffer(room.data(), room.size()),
                            [this](const boost::system::error_code& error, std::size_t size) {
                              if (error) {
                                closed = true;
                                return;
                              }
                              parser_.commit(size);
                              take();
                              read();
                            });
  }
  void take() {
    wire::FrameParser::Frame frame;
    while (parser_.next(frame) == wire::FrameParser::Status::kFrame) {
      agent_v1::AgentRequest request;
      ASSERT_TRUE(
          request.ParseFromArray(frame.message.data(), static_cast<int>(frame.message.size())));
      if (!request.has_hello()) {
        requests.push_back(request);
        payloads.emplace_back(frame.payload);
      } else if (welcome) {
        agent_v1::AgentReply reply;
        reply.set_request_id(request.request_id());
        reply.mutable_welcome()->set_version("test");
        send(reply);
      }
    }
  }

  boost::asio::local::stream_protocol::acceptor acceptor_;
  boost::asio::local::stream_protocol::socket socket_;
  wire::FrameParser parser_;
};

class Recorder : public AgentClient::Reader {
 public:
  void on_attached(const agent_v1::Attached&) override { log.emplace_back("attached"); }
  void on_output(int stream, std::uint64_t offset, std::string_view bytes) override {
    log.push_back(std::to_string(stream) + "@" + std::to_string(offset) + " " + std::string(bytes));
  }
  void on_gap(std::uint64_t from, std::uint64_t to) override {
    log.push_back("gap " + std::to_string(from) + "-" + std::to_string(to));
  }
  void on_exited(const agent_v1::Exited& exited) override {
    log.push_back("exited " + std::to_string(exited.code()));
  }
  void on_lost(const Error& error) override {
    log.push_back("lost " + std::to_string(static_cast<int>(error.code)));
  }
  std::vector<std::string> log;
};

class AgentClientTest : public ::testing::Test {
 protected:
  void TearDown() override {
    if (client) {
      client->close();
    }
  }
  void connect() {
    agent.emplace(loop.io, path());
    bool is_ready = false;
    client = AgentClient::connect(loop.io.get_executor(), path(), [&](const Result<void>& ready) {
      EXPECT_TRUE(ready.has_value());
      is_ready = true;
    });
    ASSERT_TRUE(loop.until([&] { return is_ready; }));
    ASSERT_TRUE(client->connected());
  }
  std::string path() const { return directory.path() + "/agent.sock"; }
  void wait_for_requests(std::size_t count) {
    ASSERT_TRUE(loop.until([&] { return agent->requests.size() >= count; }));
  }
  static agent_v1::AgentRequest list() {
    agent_v1::AgentRequest request;
    request.mutable_list();
    return request;
  }
  static agent_v1::AgentReply output(const std::string& id, std::uint64_t offset) {
    agent_v1::AgentReply reply;
    reply.mutable_output()->set_execution_id(id);
    reply.mutable_output()->set_stream(1);
    reply.mutable_output()->set_offset(offset);
    return reply;
  }
  // Answers the attach that came as request number `index`.
  void confirm_attach(std::size_t index) {
    agent_v1::AgentReply reply;
    reply.set_request_id(agent->requests[index].request_id());
    reply.mutable_attached()->set_execution_id(agent->requests[index].attach().execution_id());
    agent->send(reply);
  }

  testing::TemporaryDirectory directory;
  testing::Loop loop;
  std::optional<FakeAgent> agent;
  std::shared_ptr<AgentClient> client;
};

TEST_F(AgentClientTest, SendsARequestWithItsPayloadAndGivesTheAnswerOnce) {
  connect();
  agent_v1::AgentRequest write;
  write.mutable_write_file()->set_path("a");
  int answers = 0;
  client->request(write, "content", [&](const Result<agent_v1::AgentReply>& reply) {
    EXPECT_TRUE(reply.has_value());
    ++answers;
  });
  EXPECT_EQ(answers, 0);
  wait_for_requests(1);
  EXPECT_EQ(agent->payloads[0], "content");
  agent_v1::AgentReply done;
  done.set_request_id(agent->requests[0].request_id());
  done.mutable_done();
  agent->send(done);
  agent->send(done);  // a second answer, and one to nothing at all
  done.set_request_id(999);
  agent->send(done);
  client->request(list(), {}, [&](const Result<agent_v1::AgentReply>&) { answers += 10; });
  wait_for_requests(2);
  EXPECT_EQ(answers, 1);
}

TEST_F(AgentClientTest, TurnsFailedIntoAnErrorOfTheCatalogue) {
  connect();
  const std::vector<std::pair<agent_v1::Failed::Reason, ErrorCode>> cases = {
      {agent_v1::Failed::INVALID, ErrorCode::kValidation},
      {agent_v1::Failed::NOT_FOUND, ErrorCode::kNotFound},
      {agent_v1::Failed::EXISTS, ErrorCode::kConflict},
      {agent_v1::Failed::LIMIT, ErrorCode::kQuota},
      {agent_v1::Failed::SYSTEM, ErrorCode::kInternal}};
  for (std::size_t index = 0; index < cases.size(); ++index) {
    std::optional<Error> error;
    client->request(list(), {},
                    [&](const Result<agent_v1::AgentReply>& reply) { error = reply.error(); });
    wait_for_requests(index + 1);
    agent_v1::AgentReply failed;
    failed.set_request_id(agent->requests[index].request_id());
    failed.mutable_failed()->set_reason(cases[index].first);
    failed.mutable_failed()->set_detail("why\n");
    agent->send(failed);
    ASSERT_TRUE(loop.until([&] { return error.has_value(); }));
    EXPECT_EQ(error->code, cases[index].second);
    EXPECT_THAT(error->detail, HasSubstr("why\\x0a"));
  }
}

TEST_F(AgentClientTest, GivesAReaderItsOutputInOrderToTheEnd) {
  connect();
  const auto reader = std::make_shared<Recorder>();
  client->attach("e", 5, 100, reader);
  wait_for_requests(1);
  EXPECT_EQ(agent->requests[0].attach().offset(), 5U);
  confirm_attach(0);
  agent->send(output("e", 5), "ab");
  agent->send(output("other", 0), "never attached");
  agent_v1::AgentReply gap;
  gap.mutable_gap()->set_execution_id("e");
  gap.mutable_gap()->set_from(7);
  gap.mutable_gap()->set_to(9);
  agent->send(gap);
  agent_v1::AgentReply exited;
  exited.mutable_exited()->set_execution_id("e");
  exited.mutable_exited()->set_code(3);
  agent->send(exited);
  agent->send(output("e", 9), "after the end");
  ASSERT_TRUE(loop.until([&] { return reader->log.size() >= 4; }));
  EXPECT_THAT(reader->log, ElementsAre("attached", "1@5 ab", "gap 7-9", "exited 3"));
}

TEST_F(AgentClientTest, GivesNothingOfAReplacedAttachmentToTheNewReader) {
  connect();
  const auto first = std::make_shared<Recorder>();
  const auto second = std::make_shared<Recorder>();
  client->attach("e", 0, 100, first);
  client->attach("e", 2, 100, second);
  wait_for_requests(2);
  confirm_attach(0);
  agent->send(output("e", 0), "old");
  confirm_attach(1);
  agent->send(output("e", 2), "new");
  ASSERT_TRUE(loop.until([&] { return second->log.size() >= 2; }));
  EXPECT_THAT(first->log, ElementsAre());
  EXPECT_THAT(second->log, ElementsAre("attached", "1@2 new"));
}

TEST_F(AgentClientTest, EndsTheConnectionOfAnAgentThatSendsJunk) {
  connect();
  const auto reader = std::make_shared<Recorder>();
  std::optional<Error> error;
  bool closed = false;
  client->attach("e", 0, 100, reader);
  client->request(list(), {},
                  [&](const Result<agent_v1::AgentReply>& reply) { error = reply.error(); });
  client->on_closed([&] {
    EXPECT_TRUE(error.has_value());  // told before
    closed = true;
  });
  wait_for_requests(2);
  agent->send_bytes("\xff\xff\xff\xff\xff\xff\xff\xffjunk");
  ASSERT_TRUE(loop.until([&] { return closed; }));
  EXPECT_EQ(error->code, ErrorCode::kConnection);
  EXPECT_THAT(reader->log, ElementsAre("lost -32004"));
  EXPECT_FALSE(client->connected());
  ASSERT_TRUE(loop.until([&] { return agent->closed; }));
}

TEST_F(AgentClientTest, EndsTheConnectionOfAnAgentThatSendsMoreThanItMay) {
  connect();
  const auto reader = std::make_shared<Recorder>();
  client->attach("e", 0, 4, reader);
  wait_for_requests(1);
  confirm_attach(0);
  agent->send(output("e", 0), "1234");
  client->grant("e", 6);
  wait_for_requests(2);
  EXPECT_EQ(agent->requests[1].credit().credit(), 6U);
  agent->send(output("e", 4), "567");
  ASSERT_TRUE(loop.until([&] { return !client->connected(); }));
  ASSERT_TRUE(loop.until([&] { return reader->log.size() >= 3; }));
  EXPECT_THAT(reader->log, ElementsAre("attached", "1@0 1234", "lost -32004"));
}

TEST_F(AgentClientTest, AnswersEveryRequestWhenTheConnectionBreaks) {
  connect();
  int broken = 0;
  for (int index = 0; index < 3; ++index) {
    client->request(list(), {}, [&](const Result<agent_v1::AgentReply>& reply) {
      broken += reply.error().code == ErrorCode::kConnection ? 1 : 0;
    });
  }
  wait_for_requests(3);
  agent->hang_up();
  ASSERT_TRUE(loop.until([&] { return broken == 3; }));
  client->request(list(), {}, [&](const Result<agent_v1::AgentReply>&) { ++broken; });
  EXPECT_EQ(broken, 3);
  ASSERT_TRUE(loop.until([&] { return broken == 4; }));
}

TEST_F(AgentClientTest, SaysThatNobodyListens) {
  std::optional<Error> error;
  client = AgentClient::connect(loop.io.get_executor(), path(),
                                [&](const Result<void>& ready) { error = ready.error(); });
  EXPECT_FALSE(error.has_value());
  ASSERT_TRUE(loop.until([&] { return error.has_value(); }));
  EXPECT_EQ(error->code, ErrorCode::kUnavailable);
}

TEST(UnixPath, TakesPathsLongerThanASocketAddress) {
  const testing::TemporaryDirectory directory;
  std::string path = directory.path();
  for (int depth = 0; depth < 4; ++depth) {
    path += "/" + std::string(100, 'd');
    ASSERT_EQ(::mkdir(path.c_str(), 0700), 0);
  }
  path += "/agent.sock";
  const auto listener = listen_unix(path);
  ASSERT_TRUE(listener.has_value());
  EXPECT_TRUE(connect_unix(path).has_value());
}

}  // namespace
}  // namespace runbus::session
