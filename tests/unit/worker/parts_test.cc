#include <gtest/gtest.h>

#include <vector>

#include "echo.pb.h"
#include "services/worker/deadlines.h"
#include "services/worker/recent_calls.h"
#include "services/worker/service.h"

// The SDK's parts by themselves.
namespace runbus::worker {
namespace {

namespace echo = example::echo::v1;
using std::chrono::seconds;

class SilentHost : public CallHost {
 public:
  boost::asio::io_context& io() override { return io_; }
  Result<void> transmit(std::size_t, const v1::Header& header, zmq::message_t body) override {
    if (refuse_all) {
      return make_error(ErrorCode::kBusy);
    }
    last = header;
    last_body = body.to_string();
    return {};
  }
  const std::string& worker_id() const override { return id_; }
  std::size_t max_body_bytes() const override { return 1U << 20U; }
  void settled(CallState&) override {}

  bool refuse_all = false;
  v1::Header last;
  std::string last_body;

 private:
  boost::asio::io_context io_;
  std::string id_ = "w";
};

std::shared_ptr<CallState> ended_call(SilentHost& host, const std::string& id, std::size_t bytes) {
  v1::Header header;
  header.set_kind(v1::CALL);
  header.set_call_id(id);
  static const google::protobuf::MethodDescriptor* const kSay =
      echo::SayRequest::descriptor()
          ->file()
          ->FindServiceByName("EchoService")
          ->FindMethodByName("Say");
  auto call =
      std::make_shared<CallState>(host, header, 0, kSay, &echo::SayRequest::default_instance());
  echo::SayResponse response;
  response.set_text(std::string(bytes, 'x'));
  call->finish(response);
  return call;
}

TEST(RecentCalls, ForgetsTheOldestBeyondItsNumber) {
  SilentHost host;
  RecentCalls recent({.calls = 2});
  for (const char* id : {"a", "b", "c"}) {
    recent.add(ended_call(host, id, 1));
  }
  EXPECT_EQ(recent.size(), 2U);
  EXPECT_EQ(recent.take("a"), nullptr);
  EXPECT_NE(recent.take("b"), nullptr);
  EXPECT_EQ(recent.take("b"), nullptr);
  EXPECT_NE(recent.take("c"), nullptr);
  EXPECT_EQ(recent.bytes(), 0U);
}

TEST(RecentCalls, ForgetsWhatIsTooOld) {
  SilentHost host;
  RecentCalls recent({.age = seconds(60)});
  const RecentCalls::Clock::time_point start{};
  recent.add(ended_call(host, "a", 1), start);
  recent.add(ended_call(host, "b", 1), start + seconds(30));
  EXPECT_EQ(recent.take("a", start + seconds(61)), nullptr);
  EXPECT_NE(recent.take("b", start + seconds(61)), nullptr);
}

TEST(RecentCalls, GivesBackWhatEndedSince) {
  SilentHost host;
  RecentCalls recent;
  const RecentCalls::Clock::time_point start{};
  for (int i = 0; i < 4; ++i) {
    recent.add(ended_call(host, "c" + std::to_string(i), 1), start + seconds(i));
  }
  const auto taken = recent.take_since(start + seconds(2), 0);
  ASSERT_EQ(taken.size(), 2U);
  EXPECT_EQ(taken[0]->header().call_id(), "c2");
  EXPECT_EQ(recent.size(), 2U);
  recent.add(ended_call(host, "c9", 1), start + seconds(9));
  EXPECT_EQ(recent.size(), 3U);
}

TEST(RecentCalls, BeyondItsBytesACallIsKnownButItsAnswerLost) {
  SilentHost host;
  RecentCalls recent({.bytes = 25'000});
  for (const char* id : {"a", "b", "c"}) {
    recent.add(ended_call(host, id, 10'000));
  }
  EXPECT_EQ(recent.size(), 3U);
  EXPECT_LE(recent.bytes(), 25'000U);
  const auto lost = recent.take("a");
  ASSERT_NE(lost, nullptr);
  lost->resend(0, lost->header());
  ASSERT_EQ(host.last.kind(), v1::ERROR);
  v1::ErrorBody error;
  ASSERT_TRUE(error.ParseFromString(host.last_body));
  EXPECT_EQ(error.code(), -32010);
  const auto kept = recent.take("c");
  kept->resend(0, kept->header());
  EXPECT_EQ(host.last.kind(), v1::RESULT);
}

TEST(CallState, CancelDoesNotAddASecondEnd) {
  SilentHost host;
  const auto call = ended_call(host, "a", 1);
  ASSERT_EQ(host.last.kind(), v1::RESULT);
  host.refuse_all = true;
  call->restored(0);  // the link is busy: the answer waits to be sent again
  call->cancel(make_error(ErrorCode::kCancelled));
  host.refuse_all = false;
  call->pump();
  EXPECT_EQ(host.last.kind(), v1::RESULT);
  EXPECT_EQ(host.last.sequence(), 1U);
}

TEST(Deadlines, FireInTheirOrderAndNotWhenRemoved) {
  boost::asio::io_context io;
  std::vector<std::string> fired;
  Deadlines deadlines(io, [&](const std::string& key) { fired.push_back(key); });
  const auto now = std::chrono::system_clock::now();
  deadlines.add(now + std::chrono::milliseconds(60), "late");
  const auto removed = deadlines.add(now + std::chrono::milliseconds(20), "removed");
  deadlines.add(now + std::chrono::milliseconds(30), "early");
  deadlines.remove(removed);
  io.run();
  EXPECT_EQ(fired, (std::vector<std::string>{"early", "late"}));
}

class Wrong : public Service {
 public:
  explicit Wrong(const std::string& what)
      : Service(*echo::SayRequest::descriptor()->file()->FindServiceByName("EchoService"), 1) {
    const auto say = [](const CallPtr&, const echo::SayRequest&) {};
    if (what == "unknown") {
      on<echo::SayRequest>("Shout", say);
    } else if (what == "twice") {
      on<echo::SayRequest>("Say", say);
      on<echo::SayRequest>("Say", say);
    } else if (what == "type") {
      on<echo::CountRequest>("Say", [](const CallPtr&, const echo::CountRequest&) {});
    }
  }
};

TEST(Service, RefusesHandlersThatDoNotFitTheDescriptor) {
  EXPECT_NO_THROW(Wrong("not at all"));
  EXPECT_THROW(Wrong("unknown"), std::logic_error);
  EXPECT_THROW(Wrong("twice"), std::logic_error);
  EXPECT_THROW(Wrong("type"), std::logic_error);
}

}  // namespace
}  // namespace runbus::worker
