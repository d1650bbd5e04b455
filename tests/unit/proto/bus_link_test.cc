#include "proto/wire/bus_link.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <vector>

#include "proto/support/id.h"
#include "proto/wire/batch.h"
#include "proto/wire/frame.h"
#include "tests/unit/proto/bus_fixture.h"

namespace runbus::wire {
namespace {

// Against a broker that does what the test says.
class BusLinkTest : public ::testing::Test {
 protected:
  BusLinkTest() { open_router(); }

  void open_router() {
    router.emplace(context, zmq::socket_type::router);
    router->set(zmq::sockopt::linger, 0);
    router->set(zmq::sockopt::router_mandatory, true);
    router->bind(endpoint());
  }

  std::string endpoint() const { return "ipc://" + directory.file("bus"); }

  void open_link(std::size_t outbox_bytes = 64U << 20U) {
    BusLinkOptions options;
    options.endpoint = endpoint();
    options.max_outbox_bytes = outbox_bytes;
    const auto make_ready = [this] {
      called_early = called_early || !link;
      v1::Ready ready;
      ready.set_peer_id("p1");
      return ready;
    };
    link.emplace(
        io, context, options, make_ready,
        BusLink::Events{[this](const v1::Welcome& message, bool fresh) {
                          welcome = message;
                          connected.push_back(fresh);
                        },
                        [this] { ++disconnected; },
                        [this](v1::Header& header, zmq::message_t& body) {
                          calls.push_back(header.call_id() + ":" + std::string(view(body)));
                          if (on_message) {
                            on_message();
                          }
                        }});
  }

  bool until(const std::function<bool()>& done) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(40);
    while (!done()) {
      if (std::chrono::steady_clock::now() > end) {
        return false;
      }
      io.restart();
      io.run_one_for(std::chrono::milliseconds(10));
    }
    return true;
  }

  // The next message of the link; its header is `heard`.
  bool hear() {
    zmq::message_t id;
    zmq::message_t header;
    if (!router->recv(id, zmq::recv_flags::dontwait)) {
      return false;
    }
    EXPECT_TRUE(router->recv(header).has_value());
    EXPECT_TRUE(router->recv(heard_body).has_value());
    EXPECT_EQ(parse_header(view(header), heard), "");
    peer = id.to_string();
    return true;
  }
  bool hear(v1::Kind kind) {
    return until([&] { return hear() && heard.kind() == kind; });
  }

  // The calls of a message or of a batch, if there is one; how many.
  std::size_t hear_some(std::vector<std::string>& heard_calls) {
    zmq::message_t id;
    zmq::message_t frame;
    if (!router->recv(id, zmq::recv_flags::dontwait)) {
      return 0;
    }
    const std::size_t before = heard_calls.size();
    const auto take = [&](std::string_view header, std::string_view /*body*/) {
      EXPECT_EQ(parse_header(header, heard), "");
      if (heard.kind() != v1::HEARTBEAT) {
        heard_calls.push_back(heard.call_id());
      }
    };
    EXPECT_TRUE(router->recv(frame).has_value());
    if (frame.more()) {
      EXPECT_TRUE(router->recv(heard_body).has_value());
      take(view(frame), {});
    } else {
      EXPECT_TRUE(read_batch(view(frame), take));
    }
    return heard_calls.size() - before;
  }

  void say(const v1::Header& header, zmq::message_t body = {}) {
    router->send(zmq::buffer(peer), zmq::send_flags::sndmore);
    router->send(encode(header), zmq::send_flags::sndmore);
    router->send(std::move(body), zmq::send_flags::none);
  }

  void say_welcome(const std::string& epoch, std::uint32_t timeout = 60'000) {
    v1::Welcome message;
    message.set_epoch(epoch);
    message.set_heartbeat_interval_ms(50);
    message.set_heartbeat_timeout_ms(timeout);
    message.set_max_body_bytes(1000);
    message.set_max_batch(max_batch);
    say(make_header(v1::READY), encode(message));
  }

  bool meet(std::uint32_t timeout = 60'000) {
    const std::size_t before = connected.size();
    if (!hear(v1::READY)) {
      return false;
    }
    say_welcome("e1", timeout);
    return until([&] { return connected.size() > before; });
  }

  TemporaryDirectory directory;
  boost::asio::io_context io{1};
  zmq::context_t context{1};
  std::optional<zmq::socket_t> router;
  std::optional<BusLink> link;
  v1::Welcome welcome;
  std::vector<bool> connected;
  bool called_early = false;  // before the constructor had returned
  int disconnected = 0;
  std::vector<std::string> calls;
  std::function<void()> on_message;
  std::uint32_t max_batch = 0;  // that the router takes
  v1::Header heard;
  zmq::message_t heard_body;
  std::string peer;
};

TEST_F(BusLinkTest, IntroducesItselfAndIsWelcomed) {
  open_link();
  EXPECT_FALSE(link->connected());
  EXPECT_EQ(link->send(make_header(v1::CREDIT, "c"), "").error().code, ErrorCode::kUnavailable);
  ASSERT_TRUE(hear(v1::READY));
  v1::Ready ready;
  ASSERT_TRUE(ready.ParseFromArray(heard_body.data(), static_cast<int>(heard_body.size())));
  EXPECT_EQ(ready.peer_id(), "p1");
  say_welcome("e1");
  ASSERT_TRUE(until([&] { return link->connected(); }));
  EXPECT_EQ(connected, std::vector<bool>{true});
}

// A broker that is up may answer an introduction within microseconds; the owner then has to have
// the link that it is told about.
TEST_F(BusLinkTest, CallsNothingFromItsConstructor) {
  open_link();
  ASSERT_TRUE(meet());
  EXPECT_FALSE(called_early);
}

TEST_F(BusLinkTest, CarriesMessagesBothWaysInOrder) {
  open_link();
  ASSERT_TRUE(meet());
  for (int i = 0; i < 600; ++i) {
    v1::Header header = make_header(v1::CALL, "c" + std::to_string(i));
    header.set_method("m");
    ASSERT_TRUE(link->send(header, "body").has_value());
  }
  for (int i = 0; i < 600; ++i) {
    ASSERT_TRUE(hear(v1::CALL));
    ASSERT_EQ(heard.call_id(), "c" + std::to_string(i));
    say(make_header(v1::RESULT, heard.call_id()), zmq::message_t(std::to_string(i)));
  }
  ASSERT_TRUE(until([&] { return calls.size() == 600; }));
  EXPECT_EQ(calls.front(), "c0:0");
  EXPECT_EQ(calls.back(), "c599:599");
}

TEST_F(BusLinkTest, SendsHeartbeatsWhenItHasNothingElse) {
  open_link();
  ASSERT_TRUE(meet());
  EXPECT_TRUE(hear(v1::HEARTBEAT));
  EXPECT_TRUE(hear(v1::HEARTBEAT));
}

TEST_F(BusLinkTest, NoticesASilentBrokerAndTriesAgain) {
  open_link();
  ASSERT_TRUE(meet(300));
  ASSERT_TRUE(until([&] { return disconnected == 1; }));
  EXPECT_FALSE(link->connected());
  ASSERT_TRUE(hear(v1::READY));
  say_welcome("e1");
  ASSERT_TRUE(until([&] { return connected.size() == 2; }));
  EXPECT_EQ(connected, (std::vector<bool>{true, false})) << "the same broker";
}

TEST_F(BusLinkTest, IntroducesItselfToABrokerThatDoesNotKnowIt) {
  open_link();
  ASSERT_TRUE(meet());
  v1::GoodbyeBody goodbye;
  goodbye.set_reason("unknown");
  say(make_header(v1::GOODBYE), encode(goodbye));
  ASSERT_TRUE(until([&] { return disconnected == 1; }));
  ASSERT_TRUE(hear(v1::READY));
  say_welcome("e2");
  ASSERT_TRUE(until([&] { return connected.size() == 2; }));
  EXPECT_TRUE(connected.back()) << "a new epoch is a new broker";
}

TEST_F(BusLinkTest, FindsABrokerThatComesBack) {
  open_link();
  ASSERT_TRUE(meet(1000));
  router.reset();
  open_router();
  ASSERT_TRUE(hear(v1::READY));
  say_welcome("e2");
  EXPECT_TRUE(until([&] { return connected.size() == 2; }));
}

TEST_F(BusLinkTest, IgnoresMessagesThatAreNotSound) {
  open_link();
  ASSERT_TRUE(meet());
  router->send(zmq::buffer(peer), zmq::send_flags::sndmore);
  router->send(zmq::str_buffer("\xff\xff"), zmq::send_flags::sndmore);
  router->send(zmq::message_t(), zmq::send_flags::none);
  router->send(zmq::buffer(peer), zmq::send_flags::sndmore);
  router->send(encode(make_header(v1::RESULT, "one-frame")), zmq::send_flags::none);  // no batch
  for (int i = 0; i < 5; ++i) {
    router->send(
        i == 0 ? zmq::buffer(peer) : zmq::buffer(view(encode(make_header(v1::RESULT, "many")))),
        i < 4 ? zmq::send_flags::sndmore : zmq::send_flags::none);
  }
  say(make_header(v1::RESULT, "good"));
  ASSERT_TRUE(until([&] { return !calls.empty(); }));
  EXPECT_EQ(calls, std::vector<std::string>{"good:"});
}

TEST_F(BusLinkTest, SendsWhatNobodyWaitsForWithTheNextMessage) {
  max_batch = 8;
  open_link();
  ASSERT_TRUE(meet());
  ASSERT_TRUE(link->send_along(make_header(v1::EVENT, "a"), "").has_value());
  ASSERT_TRUE(link->send(make_header(v1::CREDIT, "b"), "").has_value());
  std::vector<std::string> heard_calls;
  ASSERT_TRUE(until([&] { return hear_some(heard_calls) > 0; }));
  EXPECT_EQ(heard_calls, (std::vector<std::string>{"a", "b"})) << "one batch, in order";
}

TEST_F(BusLinkTest, SendsItByItselfWhenNothingElseComes) {
  open_link();
  ASSERT_TRUE(meet());
  for (const std::string id : {"a", "b"}) {
    ASSERT_TRUE(link->send_along(make_header(v1::EVENT, id), "").has_value());
    EXPECT_GT(link->outbox_bytes(), 0U);
    ASSERT_TRUE(hear(v1::EVENT));
    EXPECT_EQ(heard.call_id(), id);
    EXPECT_EQ(link->outbox_bytes(), 0U);
  }
}

TEST_F(BusLinkTest, SendsBatchesToABrokerThatTakesThem) {
  open_link();
  ASSERT_TRUE(hear(v1::READY));
  v1::Ready ready;
  ASSERT_TRUE(ready.ParseFromArray(heard_body.data(), static_cast<int>(heard_body.size())));
  EXPECT_EQ(ready.max_batch(), kMaxBatchMessages);
  max_batch = 8;
  say_welcome("e1");
  ASSERT_TRUE(until([&] { return link->connected(); }));
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(link->send(make_header(v1::CREDIT, "c" + std::to_string(i)), "").has_value());
  }
  std::vector<std::string> heard_calls;
  std::size_t largest = 0;
  ASSERT_TRUE(until([&] {
    largest = std::max(largest, hear_some(heard_calls));
    return heard_calls.size() == 20;
  }));
  EXPECT_EQ(heard_calls.front(), "c0");
  EXPECT_EQ(heard_calls.back(), "c19");
  EXPECT_EQ(largest, 8U);
}

TEST_F(BusLinkTest, TakesBatches) {
  open_link();
  ASSERT_TRUE(meet());
  v1::Batch batch;
  for (const char* call : {"a", "b"}) {
    batch.add_frames(make_header(v1::RESULT, call).SerializeAsString());
    batch.add_frames(call);
  }
  batch.add_frames("\xff\xff");  // harms nobody else
  batch.add_frames("");
  batch.add_frames(make_header(v1::RESULT, "c").SerializeAsString());
  batch.add_frames("c");
  router->send(zmq::buffer(peer), zmq::send_flags::sndmore);
  router->send(encode(batch), zmq::send_flags::none);
  ASSERT_TRUE(until([&] { return calls.size() == 3; }));
  EXPECT_EQ(calls, (std::vector<std::string>{"a:a", "b:b", "c:c"}));
  // The callback for the first of a batch closes the link: nothing is said of the others.
  on_message = [this] { link.reset(); };
  router->send(zmq::buffer(peer), zmq::send_flags::sndmore);
  router->send(encode(batch), zmq::send_flags::none);
  ASSERT_TRUE(until([&] { return !link.has_value(); }));
  EXPECT_EQ(calls.size(), 4U);
}

TEST_F(BusLinkTest, BoundsItsOutboxAndTellsWhenItHasDrained) {
  open_link(100'000);
  ASSERT_TRUE(meet());
  int drained = 0;
  link->on_drained([&] { ++drained; });
  v1::Header header = make_header(v1::CALL, "c");
  header.set_method("m");
  const std::string body(1000, 'x');
  Result<void> sent;
  int count = 0;
  for (; sent.has_value() && count < 100'000; ++count) {
    sent = link->send(header, body);
  }
  ASSERT_FALSE(sent.has_value());
  EXPECT_EQ(sent.error().code, ErrorCode::kBusy);
  EXPECT_GT(link->outbox_bytes(), 50'000U);
  EXPECT_LE(link->outbox_bytes(), 100'000U);
  int heard_calls = 0;
  ASSERT_TRUE(until([&] {
    while (hear()) {
      heard_calls += heard.kind() == v1::CALL ? 1 : 0;
    }
    return heard_calls == count - 1;
  }));
  ASSERT_TRUE(until([&] { return drained > 0; }));
  EXPECT_EQ(drained, 1);
  EXPECT_EQ(link->outbox_bytes(), 0U);
}

TEST_F(BusLinkTest, RefusesABodyThatTheBrokerWouldNotTake) {
  open_link();
  ASSERT_TRUE(meet());
  const auto sent = link->send(make_header(v1::RESULT, "c"), std::string(1001, 'x'));
  ASSERT_FALSE(sent.has_value());
  EXPECT_EQ(sent.error().limit, "max_body_bytes");
  EXPECT_TRUE(link->send(make_header(v1::RESULT, "c"), std::string(1000, 'x')).has_value());
}

TEST_F(BusLinkTest, SaysGoodbyeAndCallsNothingAfterwards) {
  open_link();
  ASSERT_TRUE(meet());
  ASSERT_TRUE(link->send(make_header(v1::RESULT, "last"), "").has_value());
  link->close();
  link->close();
  EXPECT_FALSE(link->connected());
  EXPECT_TRUE(hear(v1::RESULT));
  EXPECT_TRUE(hear(v1::GOODBYE));
  EXPECT_EQ(disconnected, 0);
}

TEST_F(BusLinkTest, IsNotDestroyedBeforeItHasSentWhatItGathered) {
  open_link();
  ASSERT_TRUE(meet());
  ASSERT_TRUE(link->send(make_header(v1::RESULT, "last"), "").has_value());
  link.reset();
  EXPECT_TRUE(hear(v1::RESULT));
  EXPECT_TRUE(hear(v1::GOODBYE));
}

TEST_F(BusLinkTest, CloseEmptiesTheOutboxFirst) {
  open_link(200'000);
  ASSERT_TRUE(meet());
  v1::Header header = make_header(v1::CALL, "c");
  header.set_method("m");
  int count = 0;
  while (link->send(header, std::string(1000, 'x')).has_value()) {
    ++count;
  }
  ASSERT_GT(link->outbox_bytes(), 0U);
  const auto start = std::chrono::steady_clock::now();
  link->close();
  int heard_calls = 0;
  EXPECT_TRUE(until([&] {
    while (hear() && heard.kind() != v1::GOODBYE) {
      heard_calls += heard.kind() == v1::CALL ? 1 : 0;
    }
    return heard.kind() == v1::GOODBYE;
  }));
  // It gives itself a second at most; a machine that needs longer proves nothing.
  if (std::chrono::steady_clock::now() - start < std::chrono::milliseconds(900)) {
    EXPECT_EQ(heard_calls, count);
  }
}

TEST_F(BusLinkTest, MayBeClosedOrDestroyedByItsOwnCallback) {
  open_link();
  ASSERT_TRUE(meet());
  on_message = [this] { link.reset(); };
  for (int i = 0; i < 10; ++i) {
    say(make_header(v1::RESULT, "c" + std::to_string(i)));
  }
  ASSERT_TRUE(until([&] { return !link.has_value(); }));
  io.restart();
  io.run_for(std::chrono::milliseconds(50));
  EXPECT_EQ(calls.size(), 1U);
}

TEST_F(BusLinkTest, FillsInTheHostOfABrokerThatListensEverywhere) {
  router.reset();
  router.emplace(context, zmq::socket_type::router);
  router->set(zmq::sockopt::linger, 0);
  router->bind("tcp://127.0.0.1:*");
  BusLinkOptions options;
  options.endpoint = router->get(zmq::sockopt::last_endpoint);
  BusLink tcp_link(io, context, options, [] { return v1::Ready(); },
                   {[this](const v1::Welcome& message, bool) { welcome = message; }, {}, {}});
  ASSERT_TRUE(hear(v1::READY));
  v1::Welcome message;
  message.set_epoch("e1");
  message.set_heartbeat_interval_ms(50);
  message.set_heartbeat_timeout_ms(60'000);
  message.set_events_endpoint("tcp://*:1234");
  say(make_header(v1::READY), encode(message));
  ASSERT_TRUE(until([&] { return tcp_link.connected(); }));
  EXPECT_EQ(welcome.events_endpoint(), "tcp://127.0.0.1:1234");
}
}  // namespace
}  // namespace runbus::wire
