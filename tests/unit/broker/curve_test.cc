#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "broker/authenticator.h"
#include "proto/support/unique_fd.h"
#include "tests/unit/broker/server_fixture.h"

namespace runbus::broker {
namespace {

// A broker with tcp endpoints and a directory of keys.
class RemoteServer : public ServerTest {
 protected:
  RemoteServer() {
    std::filesystem::create_directory(directory.file("keys"));
    EXPECT_TRUE(wire::write_secret_file(directory.file("secret"), broker_keys).has_value());
    ServerOptions wanted = options();
    wanted.listen.emplace_back("tcp://127.0.0.1:0");
    wanted.events_listen.emplace_back("tcp://127.0.0.1:0");
    wanted.curve_secret_file = directory.file("secret");
    wanted.authorized_keys = directory.file("keys");
    start(wanted);
    endpoint = server->server().endpoints().back();
  }

  wire::CurveKeys keys_for(const wire::KeyPair& pair) const {
    return {broker_keys.public_key, pair.public_key, pair.secret_key};
  }

  wire::CurveKeys authorize(const std::string& name, const std::string& role,
                            const std::string& node = {}) const {
    const wire::KeyPair pair = wire::make_key_pair();
    EXPECT_TRUE(wire::write_public_file(directory.file("keys/" + name + ".pub"),
                                        {role, pair.public_key, node})
                    .has_value());
    return keys_for(pair);
  }

  UniqueFd connect_plainly() const {
    UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port =
        htons(static_cast<std::uint16_t>(std::stoi(endpoint.substr(endpoint.rfind(':') + 1))));
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast): the socket API wants it so
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    return fd;
  }

  wire::KeyPair broker_keys = wire::make_key_pair();
  std::string endpoint;
};

TEST_F(RemoteServer, BindsARealPort) {
  EXPECT_TRUE(endpoint.starts_with("tcp://127.0.0.1:"));
  EXPECT_NE(endpoint, "tcp://127.0.0.1:0");
}

TEST_F(RemoteServer, AListedKeyServesCallsAndAnUnlistedOneIsRefused) {
  TestWorker worker(io, context, endpoint, authorize("pi", "worker"), "remote");
  TestWorker stranger(io, context, endpoint, keys_for(wire::make_key_pair()), "remote2");
  TestGateway gateway(io, context, ipc("bus"));
  ASSERT_TRUE(until([&] { return gateway.services == 1; }));
  ASSERT_TRUE(gateway.call("over the network").has_value());
  ASSERT_TRUE(until([&] { return gateway.results == 1; }));
  ASSERT_TRUE(gateway.call("", "bus.workers").has_value());
  ASSERT_TRUE(until([&] { return gateway.results == 2; }));
  v1::WorkersResponse workers;
  ASSERT_TRUE(workers.ParseFromString(gateway.last_body));
  ASSERT_EQ(workers.workers_size(), 1);
  EXPECT_EQ(workers.workers(0).identity(), "pi");
  EXPECT_EQ(stranger.connected, 0);
}

TEST_F(RemoteServer, AKeyThatIsAddedLaterCounts) {
  const wire::KeyPair pair = wire::make_key_pair();
  TestWorker worker(io, context, endpoint, keys_for(pair), "remote");
  TestGateway gateway(io, context, ipc("bus"));
  ASSERT_TRUE(until([&] { return gateway.connected == 1; }));
  EXPECT_EQ(worker.connected, 0);
  ASSERT_TRUE(
      wire::write_public_file(directory.file("keys/late.pub"), {"worker", pair.public_key, {}})
          .has_value());
  EXPECT_TRUE(until([&] { return worker.connected == 1; }));
}

TEST_F(RemoteServer, AWorkersKeyMakesNoGatewayAndABoundOneStaysOnItsNode) {
  TestGateway false_gateway(io, context, endpoint, authorize("pi", "worker"));
  TestWorker elsewhere(io, context, endpoint, authorize("bound", "worker", "n1"), "n2");
  TestWorker at_home(io, context, endpoint, authorize("bound2", "worker", "n3"), "n3");
  TestGateway gateway(io, context, endpoint, authorize("edge", "gateway"));
  ASSERT_TRUE(until([&] { return at_home.connected == 1 && gateway.services == 1; }));
  ASSERT_TRUE(gateway.call("", "bus.stats").has_value());
  ASSERT_TRUE(until([&] { return gateway.results == 1; }));
  v1::StatsResponse stats;
  ASSERT_TRUE(stats.ParseFromString(gateway.last_body));
  EXPECT_EQ(stats.gateways(), 1U);
  EXPECT_EQ(stats.workers(), 1U);
  EXPECT_EQ(false_gateway.connected, 0);
  EXPECT_EQ(elsewhere.connected, 0);
}

TEST_F(RemoteServer, EventsReachAListedSubscriber) {
  const wire::CurveKeys keys = authorize("screen", "subscriber");
  TestGateway gateway(io, context, endpoint, authorize("edge", "gateway"));
  ASSERT_TRUE(until([&] { return gateway.connected == 1; }));
  EXPECT_TRUE(gateway.welcome.events_endpoint().starts_with("tcp://127.0.0.1:"));
  int events = 0;
  wire::EventSubscriber subscriber(io, context, gateway.welcome.events_endpoint(), keys,
                                   [&](const v1::Event&) { ++events; });
  subscriber.subscribe("user.");
  v1::Header header;
  header.set_kind(v1::EVENT);
  v1::Event event;
  event.set_topic("user.x");
  EXPECT_TRUE(until([&] {
    EXPECT_TRUE(gateway.link.send(header, wire::encode(event)).has_value());
    return events > 0;
  }));
}

TEST_F(RemoteServer, ASubscriberWhoseKeyIsAddedLaterGetsEvents) {
  TestGateway gateway(io, context, endpoint, authorize("edge", "gateway"));
  ASSERT_TRUE(until([&] { return gateway.connected == 1; }));
  const wire::KeyPair pair = wire::make_key_pair();
  int events = 0;
  wire::EventSubscriber subscriber(io, context, gateway.welcome.events_endpoint(), keys_for(pair),
                                   [&](const v1::Event&) { ++events; });
  subscriber.subscribe("user.");
  v1::Header header;
  header.set_kind(v1::EVENT);
  v1::Event event;
  event.set_topic("user.x");
  const auto publish = [&] {
    EXPECT_TRUE(gateway.link.send(header, wire::encode(event)).has_value());
  };
  // Long enough for its first attempt to be refused.
  const auto refused = std::chrono::steady_clock::now() + std::chrono::seconds(1);
  ASSERT_TRUE(until([&] {
    publish();
    return std::chrono::steady_clock::now() > refused;
  }));
  EXPECT_EQ(events, 0);
  ASSERT_TRUE(
      wire::write_public_file(directory.file("keys/late.pub"), {"subscriber", pair.public_key, {}})
          .has_value());
  EXPECT_TRUE(until([&] {
    publish();
    return events > 0;
  }));
}

TEST_F(RemoteServer, JunkAndHalfOpenConnectionsChangeNothing) {
  std::vector<UniqueFd> half_open;
  for (int i = 0; i < 50; ++i) {
    half_open.push_back(connect_plainly());
  }
  for (const std::string& junk :
       {std::string(5000, '\xff'), std::string("GET / HTTP/1.1\r\n\r\n"),
        std::string("\xff\0\0\0\0\0\0\0\x01\x7f\x03\x00NULL", 16), std::string(64, '\0')}) {
    const UniqueFd fd = connect_plainly();
    EXPECT_GT(::send(fd.get(), junk.data(), junk.size(), MSG_NOSIGNAL), 0);
  }
  TestWorker worker(io, context, endpoint, authorize("pi", "worker"), "remote");
  TestGateway gateway(io, context, ipc("bus"));
  ASSERT_TRUE(until([&] { return gateway.services == 1; }));
  ASSERT_TRUE(gateway.call("alive").has_value());
  EXPECT_TRUE(until([&] { return gateway.results == 1; }));
}

TEST_F(RemoteServer, NeedsItsSecretAndADirectory) {
  ServerOptions wanted = options();
  wanted.listen = {"tcp://127.0.0.1:0"};
  wanted.events_listen.clear();
  EXPECT_THROW(Server{wanted}, std::runtime_error);
  wanted.curve_secret_file = directory.file("secret");
  wanted.authorized_keys = directory.file("nowhere");
  EXPECT_THROW(Server{wanted}, std::runtime_error);
  wanted.authorized_keys = directory.file("keys");
  std::filesystem::permissions(directory.file("secret"), std::filesystem::perms::group_read,
                               std::filesystem::perm_options::add);
  EXPECT_THROW(Server{wanted}, std::runtime_error);
}

class AuthenticatorTest : public ::testing::Test {
 protected:
  // The answer's status and user for a key under a domain.
  static std::vector<std::string> request(const std::string& domain, const std::string& public_key,
                                          const std::string& mechanism = "CURVE") {
    std::string bytes(32, '\0');
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast): libzmq's type for bytes
    zmq_z85_decode(reinterpret_cast<std::uint8_t*>(bytes.data()), public_key.c_str());
    return {"1.0", "7", domain, "10.0.0.1", "", mechanism, bytes};
  }

  void list(const std::string& file, const std::string& role, const std::string& key) const {
    ASSERT_TRUE(wire::write_public_file(directory.file(file), {role, key, {}}).has_value());
  }

  TemporaryDirectory directory;
  wire::KeyPair worker = wire::make_key_pair();
  wire::KeyPair screen = wire::make_key_pair();
};

TEST_F(AuthenticatorTest, GrantsByRoleAndDomain) {
  list("w.pub", "worker", worker.public_key);
  list("s.pub", "subscriber", screen.public_key);
  Authenticator authenticator(directory.file(""));
  const auto bus = authenticator.answer(request("bus", worker.public_key), 1);
  ASSERT_EQ(bus.size(), 6U);
  EXPECT_EQ(bus[1], "7");
  EXPECT_EQ(bus[2], "200");
  EXPECT_EQ(bus[4], "worker:w");
  EXPECT_EQ(authenticator.answer(request("events", worker.public_key), 1)[2], "200");
  EXPECT_EQ(authenticator.answer(request("events", screen.public_key), 1)[2], "200");
  EXPECT_EQ(authenticator.answer(request("bus", screen.public_key), 1)[2], "400");
  EXPECT_EQ(authenticator.answer(request("", worker.public_key, "NULL"), 1)[2], "400");
  EXPECT_EQ(authenticator.answer(request("bus", wire::make_key_pair().public_key), 1)[2], "400");
  EXPECT_TRUE(authenticator.answer({"1.0"}, 1).empty());
}

TEST_F(AuthenticatorTest, FollowsTheDirectory) {
  Authenticator authenticator(directory.file(""));
  EXPECT_EQ(authenticator.answer(request("bus", worker.public_key), 1000)[2], "400");
  list("w.pub", "worker", worker.public_key);
  EXPECT_EQ(authenticator.answer(request("bus", worker.public_key), 2500)[2], "200");
  std::filesystem::remove(directory.file("w.pub"));
  EXPECT_EQ(authenticator.answer(request("bus", worker.public_key), 4000)[2], "400");
}

TEST_F(AuthenticatorTest, ABadFileDoesNotSpoilTheOthers) {
  list("w.pub", "worker", worker.public_key);
  std::filesystem::create_directory(directory.file("folder.pub"));
  std::filesystem::create_symlink("/dev/zero", directory.file("zero.pub"));
  std::filesystem::create_symlink("nowhere", directory.file("dangling.pub"));
  Authenticator authenticator(directory.file(""));
  EXPECT_EQ(authenticator.answer(request("bus", worker.public_key), 1)[2], "200");
}

}  // namespace
}  // namespace runbus::broker
