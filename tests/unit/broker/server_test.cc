#include <stdexcept>
#include <string_view>

#include "proto/wire/batch.h"
#include "tests/unit/broker/server_fixture.h"

namespace runbus::broker {
namespace {

class LocalServer : public ServerTest {};

TEST_F(LocalServer, CarriesCallsBetweenLinks) {
  start();
  TestGateway gateway(io, context, ipc("bus"));
  TestWorker worker(io, context, ipc("bus"));
  ASSERT_TRUE(until([&] { return gateway.services == 1; }));
  for (int i = 0; i < 500; ++i) {
    ASSERT_TRUE(gateway.call("hello " + std::to_string(i)).has_value());
  }
  ASSERT_TRUE(until([&] { return gateway.results == 500; }));
  EXPECT_EQ(gateway.last_body, "hello 499");
  EXPECT_EQ(worker.calls, 500);
}

TEST_F(LocalServer, CarriesLargeBodiesAndRefusesThoseThatAreTooLarge) {
  ServerOptions wanted = options();
  wanted.core.max_body_bytes = 8U << 20U;
  start(wanted);
  TestGateway gateway(io, context, ipc("bus"));
  TestWorker worker(io, context, ipc("bus"));
  ASSERT_TRUE(until([&] { return gateway.services == 1; }));
  const std::string large(8U << 20U, 'x');
  ASSERT_TRUE(gateway.call(large).has_value());
  ASSERT_TRUE(until([&] { return gateway.results == 1; }));
  EXPECT_EQ(gateway.last_body, large);
  const auto refused = gateway.call(large + "x");
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, ErrorCode::kValidation);
  EXPECT_EQ(refused.error().limit, "max_body_bytes");
  EXPECT_TRUE(gateway.link.connected());
}

TEST_F(LocalServer, LinksFindANewBrokerOnTheSameEndpoint) {
  start();
  TestGateway gateway(io, context, ipc("bus"));
  TestWorker worker(io, context, ipc("bus"));
  ASSERT_TRUE(until([&] { return gateway.services == 1; }));
  EXPECT_EQ(gateway.new_brokers, 1);
  const std::string first_epoch = gateway.welcome.epoch();
  server.reset();
  start();
  ASSERT_TRUE(until([&] { return gateway.connected == 2 && worker.connected == 2; }));
  EXPECT_EQ(gateway.new_brokers, 2);
  EXPECT_EQ(gateway.disconnected, 1);
  EXPECT_NE(gateway.welcome.epoch(), first_epoch);
  gateway.services = 0;
  ASSERT_TRUE(until([&] { return gateway.call("again").has_value() && gateway.results > 0; }));
}

TEST_F(LocalServer, NoticesAPeerThatFallsSilent) {
  start();
  TestGateway gateway(io, context, ipc("bus"));
  zmq::socket_t silent(context, zmq::socket_type::dealer);
  silent.set(zmq::sockopt::linger, 0);
  silent.connect(ipc("bus"));
  v1::Header header;
  header.set_kind(v1::READY);
  v1::Ready ready;
  ready.set_role(v1::WORKER);
  ready.set_peer_id("silent");
  ready.set_node("n1");
  auto& offer = *ready.add_services();
  offer.set_service("test.Echo");
  offer.set_capacity(1);
  offer.add_methods("echo.say");
  zmq::message_t frame = wire::encode(header);
  zmq::message_t body = wire::encode(ready);
  silent.send(frame, zmq::send_flags::sndmore);
  silent.send(body, zmq::send_flags::none);
  ASSERT_TRUE(until([&] { return gateway.services == 1; }));
  // The call reaches it, and it is never heard of again.
  ASSERT_TRUE(gateway.call("lost").has_value());
  TestWorker worker(io, context, ipc("bus"), {}, "n2");
  ASSERT_TRUE(until([&] { return gateway.results == 1; }));
  EXPECT_EQ(worker.calls, 1);
}

TEST_F(LocalServer, RelaysAndRemembersEvents) {
  ServerOptions wanted = options();
  wanted.events_publish = {ipc("publish")};
  start(wanted);
  TestGateway gateway(io, context, ipc("bus"));
  ASSERT_TRUE(until([&] { return gateway.connected == 1; }));
  std::vector<v1::Event> events;
  wire::EventSubscriber subscriber(io, context, gateway.welcome.events_endpoint(), {},
                                   [&](const v1::Event& event) { events.push_back(event); });
  subscriber.subscribe("user.");
  subscriber.subscribe("user.");
  subscriber.unsubscribe("user.");
  v1::Header header;
  header.set_kind(v1::EVENT);
  v1::Event event;
  event.set_topic("user.greeting");
  // Until the subscription has reached the broker, events pass it by.
  ASSERT_TRUE(until([&] {
    EXPECT_TRUE(gateway.link.send(header, wire::encode(event)).has_value());
    return !events.empty();
  }));
  EXPECT_EQ(events.front().topic(), "user.greeting");
  EXPECT_EQ(events.front().epoch(), gateway.welcome.epoch());

  zmq::socket_t publisher(context, zmq::socket_type::pub);
  publisher.set(zmq::sockopt::linger, 0);
  publisher.connect(ipc("publish"));
  event.set_topic("user.plain");
  ASSERT_TRUE(until([&] {
    publisher.send(zmq::str_buffer("user.plain"), zmq::send_flags::sndmore);
    publisher.send(wire::encode(event), zmq::send_flags::none);
    return events.back().topic() == "user.plain";
  }));
  subscriber.unsubscribe("user.");
}

// A gateway by hand: its frames are what the broker sends it.
struct RawGateway {
  RawGateway(zmq::context_t& context, const std::string& endpoint, const std::string& id,
             std::uint32_t max_batch)
      : socket(context, zmq::socket_type::dealer) {
    socket.set(zmq::sockopt::linger, 0);
    socket.set(zmq::sockopt::rcvtimeo, 20'000);
    socket.connect(endpoint);
    v1::Ready ready;
    ready.set_role(v1::GATEWAY);
    ready.set_peer_id(id);
    ready.set_max_batch(max_batch);
    v1::Header header;
    header.set_kind(v1::READY);
    socket.send(wire::encode(header), zmq::send_flags::sndmore);
    socket.send(wire::encode(ready), zmq::send_flags::none);
    while (!welcomed) {
      receive();
    }
  }

  // As one batch.
  void ask_for_stats(const std::string& id, int times) {
    v1::Batch batch;
    for (int i = 0; i < times; ++i) {
      v1::Header header;
      header.set_kind(v1::CALL);
      header.set_call_id(make_uuid());
      header.set_origin(id);
      header.set_method("bus.stats");
      batch.add_frames(header.SerializeAsString());
      batch.add_frames("");
    }
    socket.send(wire::encode(batch), zmq::send_flags::none);
  }

  // Whether the next that brings results is a batch.
  bool next_is_a_batch() {
    const int before = results;
    bool batch = false;
    while (results == before && !testing::Test::HasFailure()) {
      batch = receive();
    }
    return batch;
  }

  // A message or a batch; whether it is one.
  bool receive() {
    zmq::message_t frame;
    zmq::message_t body;
    if (!socket.recv(frame)) {
      throw std::runtime_error("nothing came");
    }
    if (!frame.more()) {
      EXPECT_TRUE(wire::read_batch(
          wire::view(frame),
          [this](std::string_view header, std::string_view content) { take(header, content); }));
      return true;
    }
    EXPECT_TRUE(socket.recv(body).has_value());
    take(wire::view(frame), wire::view(body));
    return false;
  }

  void take(std::string_view bytes, std::string_view content) {
    v1::Header header;
    EXPECT_EQ(wire::parse_header(bytes, header), "");
    welcomed = welcomed || header.kind() == v1::SERVICES;
    if (header.kind() == v1::RESULT) {
      ++results;
      EXPECT_TRUE(stats.ParseFromArray(content.data(), static_cast<int>(content.size())));
    }
  }

  zmq::socket_t socket;
  bool welcomed = false;
  int results = 0;
  v1::StatsResponse stats;
};

TEST_F(LocalServer, TakesBatchesAndSendsThemToWhoTakesThem) {
  start();
  RawGateway modern(context, ipc("bus"), "modern", 3);
  modern.ask_for_stats("modern", 4);
  EXPECT_TRUE(modern.next_is_a_batch());
  EXPECT_EQ(modern.results, 3);
  EXPECT_FALSE(modern.next_is_a_batch());
  EXPECT_EQ(modern.results, 4);
  RawGateway plain(context, ipc("bus"), "plain", 0);
  plain.ask_for_stats("plain", 3);
  for (int i = 1; i <= 3; ++i) {
    EXPECT_FALSE(plain.next_is_a_batch());
    EXPECT_EQ(plain.results, i);
  }
}

TEST_F(LocalServer, CountsWhatItCannotReadOfABatch) {
  start();
  RawGateway gateway(context, ipc("bus"), "g", 64);
  gateway.socket.send(zmq::str_buffer("no batch"), zmq::send_flags::none);
  for (int i = 0; i < 4; ++i) {
    gateway.socket.send(zmq::str_buffer("x"),
                        i < 3 ? zmq::send_flags::sndmore : zmq::send_flags::none);
  }
  gateway.ask_for_stats("g", 65);  // more than a batch has
  while (gateway.results < 64) {
    gateway.next_is_a_batch();
  }
  gateway.ask_for_stats("g", 1);
  gateway.next_is_a_batch();
  EXPECT_EQ(gateway.results, 65);
  EXPECT_EQ(gateway.stats.dropped().at("batch"), 2U);
  EXPECT_EQ(gateway.stats.dropped().at("frames"), 1U);
}

TEST_F(LocalServer, ItsSocketsAreForItsOwnerAlone) {
  start();
  struct stat info {};
  ASSERT_EQ(::stat(directory.file("bus").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777U, 0600U);
}

TEST_F(LocalServer, MakesItsDirectoryAndRefusesOneThatOthersCanWrite) {
  ServerOptions wanted = options();
  wanted.listen = {"ipc://" + directory.file("made/bus")};
  start(wanted);
  struct stat info {};
  ASSERT_EQ(::stat(directory.file("made").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777U, 0700U);
  std::filesystem::create_directory(directory.file("open"));
  std::filesystem::permissions(directory.file("open"), std::filesystem::perms::all);
  wanted.listen = {"ipc://" + directory.file("open/bus")};
  wanted.events_listen.clear();
  EXPECT_THROW(Server{wanted}, std::runtime_error);
}

TEST_F(LocalServer, DoesNotTakeOverAnEndpointInUse) {
  start();
  EXPECT_THROW(Server{options()}, std::runtime_error);
  TestGateway gateway(io, context, ipc("bus"));
  EXPECT_TRUE(until([&] { return gateway.connected == 1; }));
}

TEST_F(LocalServer, RefusesEndpointsItCannotGuard) {
  ServerOptions wanted = options();
  for (const char* endpoint : {"tcp://127.0.0.1:0", "inproc://x", "ipc://@abstract", "ipc://"}) {
    wanted.listen = {endpoint};
    EXPECT_THROW(Server{wanted}, std::runtime_error) << endpoint;
  }
  wanted = options();
  wanted.events_publish = {"tcp://127.0.0.1:0"};
  EXPECT_THROW(Server{wanted}, std::runtime_error);
}

TEST_F(LocalServer, APeerThatDoesNotReadDelaysNobodyAndIsSentAway) {
  ServerOptions wanted = options();
  wanted.outbox_bytes = 4U << 20U;
  start(wanted);
  TestGateway gateway(io, context, ipc("bus"));
  TestWorker worker(io, context, ipc("bus"));
  ASSERT_TRUE(until([&] { return gateway.services == 1; }));
  // A gateway that asks for much, says that it is alive and never reads an answer.
  zmq::socket_t deaf(context, zmq::socket_type::dealer);
  deaf.set(zmq::sockopt::linger, 0);
  deaf.set(zmq::sockopt::sndtimeo, 1000);
  deaf.set(zmq::sockopt::rcvhwm, 1);
  deaf.connect(ipc("bus"));
  const auto say = [&](v1::Header header, const std::string& text) {
    return deaf.send(wire::encode(header), zmq::send_flags::sndmore).has_value() &&
           deaf.send(zmq::buffer(text), zmq::send_flags::none).has_value();
  };
  v1::Ready ready;
  ready.set_role(v1::GATEWAY);
  ready.set_peer_id("deaf");
  v1::Header header;
  header.set_kind(v1::READY);
  ASSERT_TRUE(say(header, ready.SerializeAsString()));
  header.set_kind(v1::CALL);
  header.set_origin("deaf");
  header.set_method("echo.say");
  const std::string text(100'000, 'x');
  bool overflown = false;
  for (int i = 0; i < 5000 && !overflown; ++i) {
    header.set_call_id(make_uuid());
    say(header, text);
    io.restart();
    io.poll();
    ASSERT_TRUE(gateway.link.connected());
    // Once it is gone its calls reach nobody.
    overflown = i - worker.calls > 1500;
  }
  gateway.results = 0;
  ASSERT_TRUE(gateway.call("still here").has_value());
  ASSERT_TRUE(until([&] { return gateway.results == 1; }));
  EXPECT_EQ(gateway.last_body, "still here");
  ASSERT_TRUE(gateway.call("", "bus.stats").has_value());
  ASSERT_TRUE(until([&] { return gateway.results == 2; }));
  v1::StatsResponse stats;
  ASSERT_TRUE(stats.ParseFromString(gateway.last_body));
  EXPECT_EQ(stats.gateways(), 1U);
}

}  // namespace
}  // namespace runbus::broker
