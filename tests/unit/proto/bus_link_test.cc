#include "proto/wire/bus_link.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <optional>
#include <vector>

#include "proto/support/id.h"
#include "proto/wire/curve_keys.h"
#include "proto/wire/frame.h"
#include "proto/wire/outbox.h"

namespace runbus::wire {
namespace {

v1::Header make_header(v1::Kind kind, const std::string& call = {}) {
  v1::Header header;
  header.set_kind(kind);
  header.set_call_id(call);
  return header;
}

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string name = (std::filesystem::temp_directory_path() / "runbus-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) {
      throw std::runtime_error("mkdtemp");
    }
    path_ = name;
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  std::string file(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// --- frames

TEST(BusFrame, ReadsASoundHeader) {
  v1::Header header = make_header(v1::CALL, "call-1");
  header.set_method("execute.code");
  v1::Header parsed;
  EXPECT_EQ(parse_header(header.SerializeAsString(), parsed), "");
  EXPECT_EQ(parsed.method(), "execute.code");
}

TEST(BusFrame, NamesWhatIsWrongWithAHeader) {
  const auto problem = [](const v1::Header& header) {
    v1::Header parsed;
    return std::string(parse_header(header.SerializeAsString(), parsed));
  };
  v1::Header parsed;
  EXPECT_EQ(parse_header(std::string(kMaxHeaderBytes + 1, '\n'), parsed), "header_size");
  EXPECT_EQ(parse_header("\xff", parsed), "header_syntax");
  EXPECT_EQ(problem(v1::Header()), "header_kind");
  v1::Header strange;
  strange.set_kind(static_cast<v1::Kind>(99));
  EXPECT_EQ(problem(strange), "header_kind");
  EXPECT_EQ(problem(make_header(v1::RESULT)), "header_id");
  EXPECT_EQ(problem(make_header(v1::RESULT, "a/b")), "header_id");
  EXPECT_EQ(problem(make_header(v1::RESULT, std::string(129, 'a'))), "header_id");
  EXPECT_EQ(problem(make_header(v1::CALL, "c")), "header_text") << "a CALL without a method";
  v1::Header header = make_header(v1::HEARTBEAT);
  EXPECT_EQ(problem(header), "");
  header.set_origin("not an id");
  EXPECT_EQ(problem(header), "header_id");
  header.set_origin("");
  header.set_principal(std::string(2000, 'p'));
  EXPECT_EQ(problem(header), "header_text");
}

TEST(BusFrame, KnowsTopics) {
  for (const char* good : {"user.a", "code_execution.started", "a", "user.A-b_1.x"}) {
    EXPECT_TRUE(is_valid_topic(good)) << good;
  }
  for (const char* bad : {"", ".", "a.", ".a", "a..b", "a b", "a/b", "\xc3\xa9"}) {
    EXPECT_FALSE(is_valid_topic(bad)) << bad;
  }
}

// --- outbox

class OutboxTest : public ::testing::Test {
 protected:
  bool push(v1::Kind kind, const std::string& call, std::size_t size = 1) {
    zmq::message_t header(1);
    zmq::message_t body(size);
    return outbox.push(kind, call, header, body);
  }
  std::vector<std::string> drain() {
    std::vector<std::string> calls;
    for (; !outbox.empty(); outbox.pop()) {
      calls.push_back(outbox.front().call_id);
    }
    return calls;
  }
  Outbox outbox{10'000, 5};
};

TEST_F(OutboxTest, ControlOvertakesTheDataOfOtherCallsOnly) {
  push(v1::ITEM, "slow");
  push(v1::ITEM, "slow");
  push(v1::RESULT, "slow");
  push(v1::RESULT, "quick");
  push(v1::HEARTBEAT, "");
  EXPECT_EQ(drain(), (std::vector<std::string>{"quick", "", "slow", "slow", "slow"}));
  EXPECT_EQ(outbox.bytes(), 0U);
}

TEST_F(OutboxTest, ACallWhoseDataIsGoneMayOvertakeAgain) {
  push(v1::ITEM, "a");
  outbox.pop();
  push(v1::ITEM, "b");
  push(v1::RESULT, "a");
  EXPECT_EQ(drain(), (std::vector<std::string>{"a", "b"}));
}

TEST_F(OutboxTest, IsBoundedInMessagesAndBytes) {
  for (int i = 0; i < 5; ++i) {
    EXPECT_TRUE(push(v1::ITEM, "a"));
  }
  EXPECT_FALSE(push(v1::ITEM, "a"));
  outbox.clear();
  EXPECT_TRUE(push(v1::ITEM, "a", 9000));
  EXPECT_FALSE(push(v1::ITEM, "a", 9000));
  EXPECT_EQ(drain().size(), 1U);
  EXPECT_TRUE(push(v1::ITEM, "a", 9000));
}

// --- the link, against a broker that does what the test says

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
  router->send(encode(make_header(v1::RESULT, "one-frame")), zmq::send_flags::none);
  for (int i = 0; i < 5; ++i) {
    router->send(
        i == 0 ? zmq::buffer(peer) : zmq::buffer(view(encode(make_header(v1::RESULT, "many")))),
        i < 4 ? zmq::send_flags::sndmore : zmq::send_flags::none);
  }
  say(make_header(v1::RESULT, "good"));
  ASSERT_TRUE(until([&] { return !calls.empty(); }));
  EXPECT_EQ(calls, std::vector<std::string>{"good:"});
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

// --- keys

class CurveKeysTest : public ::testing::Test {
 protected:
  void write(const std::string& name, const std::string& text, mode_t mode = 0600) const {
    std::ofstream(directory.file(name)) << text;
    ASSERT_EQ(::chmod(directory.file(name).c_str(), mode), 0);
  }
  TemporaryDirectory directory;
  KeyPair pair = make_key_pair();
};

TEST_F(CurveKeysTest, WritesAndReadsASecretForItsOwnerAlone) {
  ASSERT_TRUE(write_secret_file(directory.file("s"), pair).has_value());
  struct stat info {};
  ASSERT_EQ(::stat(directory.file("s").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777U, 0600U);
  const auto read = read_secret_file(directory.file("s"));
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(read->public_key, pair.public_key);
  EXPECT_EQ(read->secret_key, pair.secret_key);
  EXPECT_EQ(write_secret_file(directory.file("s"), pair).error().code, ErrorCode::kConflict);
  ASSERT_EQ(::chmod(directory.file("s").c_str(), 0640), 0);
  EXPECT_EQ(read_secret_file(directory.file("s")).error().code, ErrorCode::kValidation);
  EXPECT_EQ(read_secret_file(directory.file("none")).error().code, ErrorCode::kNotFound);
}

TEST_F(CurveKeysTest, RefusesKeysThatDoNotBelongTogether) {
  ASSERT_TRUE(write_secret_file(directory.file("s"), {make_key_pair().public_key, pair.secret_key})
                  .has_value());
  EXPECT_FALSE(read_secret_file(directory.file("s")).has_value());
}

TEST_F(CurveKeysTest, WritesAndReadsAPublicFile) {
  ASSERT_TRUE(
      write_public_file(directory.file("pi.pub"), {"worker", pair.public_key, "n1"}).has_value());
  const auto key = read_public_file(directory.file("pi.pub"));
  ASSERT_TRUE(key.has_value());
  EXPECT_EQ(key->role, "worker");
  EXPECT_EQ(key->public_key, pair.public_key);
  EXPECT_EQ(key->node, "n1");
  EXPECT_FALSE(
      write_public_file(directory.file("x.pub"), {"king", pair.public_key, ""}).has_value());
}

TEST_F(CurveKeysTest, ReadsPublicFilesStrictly) {
  const std::string key = "public-key = \"" + pair.public_key + "\"\n";
  EXPECT_TRUE(parse_public_file("# a comment\n\nrole = \"worker\" # behind\n" + key).has_value());
  for (const std::string& bad :
       {std::string(), std::string("role = \"worker\"\n"), "role = worker\n" + key,
        "role = \"worker\"\n" + key + key, "role = \"worker\"\nnode = \"a/b\"\n" + key,
        "role = \"worker\"\nextra = \"1\"\n" + key, "role = \"worker\" junk\n" + key,
        std::string("role = \"worker\"\npublic-key = \"short\"\n"),
        "[section]\nrole = \"worker\"\n" + key, std::string(5000, '#')}) {
    EXPECT_FALSE(parse_public_file(bad).has_value()) << bad;
  }
}

}  // namespace
}  // namespace runbus::wire
