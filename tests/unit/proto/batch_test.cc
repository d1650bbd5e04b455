#include "proto/wire/batch.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "proto/wire/frame.h"
#include "tests/unit/proto/bus_fixture.h"

namespace runbus::wire {
namespace {

using Frames = std::vector<std::string>;
using Messages = std::vector<std::pair<std::string, std::string>>;

class BatchTest : public ::testing::Test {
 protected:
  BatchTest() {
    to.set(zmq::sockopt::sndhwm, 2);
    from.set(zmq::sockopt::rcvhwm, 2);
    from.set(zmq::sockopt::rcvtimeo, 20'000);
    from.bind("inproc://batch");
    to.connect("inproc://batch");
  }

  void put(const std::string& call, const std::string& body) {
    const v1::Header header = make_header(v1::ITEM, call);
    zmq::message_t frame = encode(header);
    zmq::message_t content(body);
    ASSERT_TRUE(outbox.push(header.kind(), call, frame, content));
  }

  Frames receive() {
    Frames frames;
    for (bool more = true; more;) {
      zmq::message_t frame;
      if (!from.recv(frame)) {
        ADD_FAILURE() << "nothing came";
        return frames;
      }
      more = frame.more();
      frames.push_back(frame.to_string());
    }
    return frames;
  }

  // Calls and bodies of a batch.
  static Messages read(std::string_view batch) {
    Messages messages;
    EXPECT_TRUE(read_batch(batch, [&](std::string_view head, std::string_view body) {
      v1::Header header;
      EXPECT_EQ(parse_header(head, header), "");
      messages.emplace_back(header.call_id(), body);
    }));
    return messages;
  }

  zmq::context_t context{1};
  zmq::socket_t from{context, zmq::socket_type::pair};
  zmq::socket_t to{context, zmq::socket_type::pair};
  Outbox outbox{64U << 20U, 100'000};
};

TEST_F(BatchTest, CarriesSeveralMessagesInOrderInOneFrame) {
  put("a", "1");
  put("b", "");
  put("a", std::string(300, 'x'));
  ASSERT_EQ(send_first(to, {}, 64, outbox), Sent::kYes);
  EXPECT_TRUE(outbox.empty());
  const Frames frames = receive();
  ASSERT_EQ(frames.size(), 1U);
  EXPECT_EQ(read(frames[0]), (Messages{{"a", "1"}, {"b", ""}, {"a", std::string(300, 'x')}}));
  v1::Batch batch;
  ASSERT_TRUE(batch.ParseFromString(frames[0])) << "any reader of protobuf can read it";
  ASSERT_EQ(batch.frames_size(), 6);
  EXPECT_EQ(batch.frames(1), "1");
}

TEST_F(BatchTest, SendsOneMessageByItselfToWhoTakesNoMore) {
  for (const std::size_t max : {0U, 1U}) {
    put("a", "1");
    put("b", "2");
    for (const char* body : {"1", "2"}) {
      ASSERT_EQ(send_first(to, {}, max, outbox), Sent::kYes);
      const Frames frames = receive();
      ASSERT_EQ(frames.size(), 2U);
      EXPECT_EQ(frames[1], body);
    }
  }
}

TEST_F(BatchTest, IsBoundedByWhatThePeerTakesAndByWhatMakesABatch) {
  for (std::size_t i = 0; i < kBatchMessages + 1; ++i) {
    put("c", std::to_string(i));
  }
  ASSERT_EQ(send_first(to, {}, 3, outbox), Sent::kYes);
  EXPECT_EQ(read(receive().front()).size(), 3U);
  put("c", "x");
  put("c", "y");
  put("c", "z");
  ASSERT_EQ(send_first(to, {}, 1'000'000, outbox), Sent::kYes);
  EXPECT_EQ(read(receive().front()).size(), kBatchMessages);
  EXPECT_EQ(outbox.messages(), 1U);
}

TEST_F(BatchTest, LeavesALargeMessageToItself) {
  put("a", "1");
  put("b", "2");
  put("large", std::string(kBatchBytes, 'x'));
  put("c", "3");
  ASSERT_EQ(send_first(to, {}, 64, outbox), Sent::kYes);
  EXPECT_EQ(read(receive().front()).size(), 2U);
  ASSERT_EQ(send_first(to, {}, 64, outbox), Sent::kYes);
  EXPECT_EQ(receive().size(), 2U);
  ASSERT_EQ(send_first(to, {}, 64, outbox), Sent::kYes);
  EXPECT_EQ(receive().back(), "3");
  EXPECT_TRUE(outbox.empty());
}

TEST_F(BatchTest, LosesNothingToASocketThatIsFull) {
  int sent = 0;
  for (;; sent += 2) {
    put("a", std::to_string(sent));
    put("b", std::to_string(sent + 1));
    if (send_first(to, {}, 64, outbox) != Sent::kYes) {
      break;
    }
    ASSERT_LT(sent, 1000) << "it is never full";
  }
  EXPECT_EQ(outbox.messages(), 2U);
  outbox.stall();
  int next = 0;
  while (next < sent) {
    for (const auto& [call, body] : read(receive().front())) {
      EXPECT_EQ(body, std::to_string(next++));
    }
  }
  zmq::pollitem_t room{to.handle(), 0, ZMQ_POLLOUT, 0};
  ASSERT_EQ(zmq::poll(&room, 1, std::chrono::seconds(20)), 1);
  ASSERT_EQ(send_first(to, {}, 64, outbox), Sent::kYes);
  EXPECT_EQ(read(receive().front()),
            (Messages{{"a", std::to_string(next)}, {"b", std::to_string(next + 1)}}));
}

TEST_F(BatchTest, SaysThatARouterDoesNotKnowThePeer) {
  zmq::socket_t router(context, zmq::socket_type::router);
  router.set(zmq::sockopt::router_mandatory, true);
  router.bind("inproc://router");
  put("a", "1");
  put("b", "2");
  EXPECT_EQ(send_first(router, "nobody", 64, outbox), Sent::kUnreachable);
  EXPECT_EQ(outbox.messages(), 2U);
}

TEST(ReadBatch, StopsAtWhatItCannotRead) {
  v1::Batch batch;
  for (const char* frame : {"h1", "b1", "h2", "b2"}) {
    batch.add_frames(frame);
  }
  const std::string whole = batch.SerializeAsString();
  batch.add_frames("a header without a body");
  const std::string odd = batch.SerializeAsString();
  struct Case {
    std::string bytes;
    int messages;
    bool sound;
  };
  for (const Case& one :
       std::vector<Case>{{whole, 2, true},
                         {"", 0, true},
                         {odd, 2, false},
                         {whole.substr(0, whole.size() - 1), 1, false},
                         {whole + "\x12", 2, false},
                         {whole + "\x0a\xff\xff\xff\xff\x7f", 2, false},
                         {"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 0, false},
                         {"junk", 0, false}}) {
    int messages = 0;
    const bool sound =
        read_batch(one.bytes, [&](std::string_view, std::string_view) { ++messages; });
    EXPECT_EQ(messages, one.messages) << testing::PrintToString(one.bytes);
    EXPECT_EQ(sound, one.sound) << testing::PrintToString(one.bytes);
  }
}

TEST(ReadBatch, TakesNoMoreThanItSays) {
  v1::Batch batch;
  for (std::uint32_t i = 0; i < kMaxBatchMessages; ++i) {
    batch.add_frames("h");
    batch.add_frames("");
  }
  std::uint32_t messages = 0;
  const auto count = [&](std::string_view, std::string_view) { ++messages; };
  EXPECT_TRUE(read_batch(batch.SerializeAsString(), count));
  EXPECT_EQ(messages, kMaxBatchMessages);
  batch.add_frames("h");
  batch.add_frames("");
  messages = 0;
  EXPECT_FALSE(read_batch(batch.SerializeAsString(), count));
  EXPECT_EQ(messages, kMaxBatchMessages);
}

}  // namespace
}  // namespace runbus::wire
