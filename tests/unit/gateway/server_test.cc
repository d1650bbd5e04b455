// The gateway on real sockets, with a bus that is a fake.
#include "gateway/server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/asio/connect.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/buffers_to_string.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/websocket/stream.hpp>
#include <future>
#include <thread>

#include "tests/unit/gateway/fake_bus.h"

namespace runbus::gateway {
namespace {

namespace websocket = boost::beast::websocket;
using boost::asio::ip::tcp;
using test::FakeBus;
using test::Sent;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

class ServerTest : public testing::Test {
 protected:
  ServerTest() {
    bus.config.handshake_timeout = std::chrono::milliseconds(500);
    bus.config.keep_alive_timeout = std::chrono::milliseconds(20'000);
    bus.config.max_header_bytes = 4096;
    bus.config.max_frame_bytes = 1U << 20U;
    bus.config.max_connections = 20;
  }
  ~ServerTest() override {
    if (thread.joinable()) {
      boost::asio::post(bus.io, [this] { server->stop([this] { bus.io.stop(); }); });
      thread.join();
    }
    server.reset();
  }
  void start() {
    server = std::make_shared<Server>(bus.io, gateway);
    const std::string address = server->listen("127.0.0.1", 0);
    port = static_cast<std::uint16_t>(std::stoi(address.substr(address.rfind(':') + 1)));
    server->start();
    thread = std::thread([this] { bus.io.run(); });
  }
  tcp::socket connect() {
    tcp::socket socket(client_io);
    socket.connect(tcp::endpoint(boost::asio::ip::make_address("127.0.0.1"), port));
    return socket;
  }
  // What the server says until it closes or, with `until`, until that has come.
  static std::string read_all(tcp::socket& socket, const std::string& until = {}) {
    std::string text;
    std::array<char, 4096> chunk{};
    boost::system::error_code error;
    while (!error && (until.empty() || text.find(until) == std::string::npos)) {
      const std::size_t count = socket.read_some(boost::asio::buffer(chunk), error);
      text.append(chunk.data(), count);
    }
    return text;
  }
  std::string http(const std::string& head, const std::string& body = {}) {
    tcp::socket socket = connect();
    std::string request = head + "Host: 127.0.0.1\r\nConnection: close\r\n";
    if (!body.empty()) {
      request +=
          "Content-Type: application/json\r\nContent-Length: " + std::to_string(body.size()) +
          "\r\n";
    }
    request += "\r\n" + body;
    boost::system::error_code refused;  // the server may answer, and close, before it has it all
    boost::asio::write(socket, boost::asio::buffer(request), refused);
    return read_all(socket);
  }
  static std::string upgrade(const std::string& headers) {
    return "GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
           "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" +
           headers + "\r\n";
  }
  std::string handshake(const std::string& headers) {
    tcp::socket socket = connect();
    boost::asio::write(socket, boost::asio::buffer(upgrade(headers)));
    return read_all(socket, "\r\n\r\n");
  }
  using WebSocket = websocket::stream<tcp::socket>;
  std::unique_ptr<WebSocket> open() {
    auto stream = std::make_unique<WebSocket>(connect());
    stream->handshake("127.0.0.1", "/ws?token=secret-token");
    return stream;
  }
  static std::string read(WebSocket& stream) {
    boost::beast::flat_buffer buffer;
    boost::system::error_code error;
    stream.read(buffer, error);
    return error ? error.message() : boost::beast::buffers_to_string(buffer.cdata());
  }
  // Runs something on the gateway's thread.
  template <class Work>
  void on_loop(const Work& work) {
    std::promise<void> done;
    boost::asio::post(bus.io, [&] {
      work();
      done.set_value();
    });
    done.get_future().wait();
  }

  Connections connections;
  FakeBus bus;
  Auth auth{"secret-token", {"https://ide.example"}};
  Health health{bus.io, bus.client};
  Gateway gateway{bus.config, auth, connections, bus.rpc, health};
  std::shared_ptr<Server> server;
  std::thread thread;
  boost::asio::io_context client_io;
  std::uint16_t port = 0;
};

TEST_F(ServerTest, RefusesTheHandshakeWithoutAToken) {
  start();
  EXPECT_THAT(handshake({}),
              AllOf(StartsWith("HTTP/1.1 401"), HasSubstr("WWW-Authenticate: Bearer")));
  EXPECT_THAT(handshake("Authorization: Bearer wrong-token\r\n"), StartsWith("HTTP/1.1 401"));
  EXPECT_THAT(handshake("Authorization: Bearer secret-token\r\n"), StartsWith("HTTP/1.1 101"));
}

TEST_F(ServerTest, RefusesForeignOriginsBeforeTheHandshake) {
  start();
  const std::string token = "Authorization: Bearer secret-token\r\n";
  EXPECT_THAT(handshake(token + "Origin: http://evil.example\r\n"), StartsWith("HTTP/1.1 403"));
  EXPECT_THAT(handshake(token + "Origin: null\r\n"), StartsWith("HTTP/1.1 403"));
  EXPECT_THAT(handshake(token + "Origin: http://127.0.0.1\r\n"), StartsWith("HTTP/1.1 101"));
  EXPECT_THAT(handshake(token + "Origin: https://ide.example\r\n"), StartsWith("HTTP/1.1 101"));
}

TEST_F(ServerTest, ClosesAClientThatTakesTooLongToAsk) {
  start();
  tcp::socket socket = connect();
  boost::asio::write(socket, boost::asio::buffer(std::string("GET /health HTTP/1.1\r\nX-Slow: ")));
  EXPECT_EQ(read_all(socket), "");  // returns because the server closes
}

TEST_F(ServerTest, BoundsHeadersAndBodies) {
  start();
  EXPECT_THAT(http("GET / HTTP/1.1\r\nX-Large: " + std::string(8000, 'x') + "\r\n"),
              StartsWith("HTTP/1.1 431"));
  EXPECT_THAT(http("POST /rpc HTTP/1.1\r\nAuthorization: Bearer secret-token\r\n",
                   std::string(2U << 20U, ' ')),
              StartsWith("HTTP/1.1 413"));
}

TEST_F(ServerTest, SaysHowItIs) {
  start();
  EXPECT_THAT(http("GET /ready HTTP/1.1\r\n"), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(http("GET /nowhere HTTP/1.1\r\n"), StartsWith("HTTP/1.1 404"));
  EXPECT_THAT(http("GET / HTTP/1.1\r\nAccept: application/json\r\n"),
              HasSubstr("\"websocket\":\"/ws\""));
  EXPECT_THAT(http("GET / HTTP/1.1\r\nAccept: text/html\r\n"),
              AllOf(HasSubstr("<h1>runbus"), Not(HasSubstr("Set-Cookie"))));
  EXPECT_THAT(http("GET /?token=secret-token HTTP/1.1\r\n"),
              HasSubstr("Set-Cookie: runbus_token=secret-token;"));
  // The bus does not answer: it is said without waiting for ever.
  EXPECT_THAT(http("GET /health HTTP/1.1\r\n"),
              AllOf(StartsWith("HTTP/1.1 200"), HasSubstr(R"("status":"ok","version":")"),
                    HasSubstr(R"("workers":null,"enforced":null)")));
  on_loop([this] {
    bus.port.up = false;
    bus.client.on_disconnected(bus.port);
  });
  EXPECT_THAT(http("GET /ready HTTP/1.1\r\n"), StartsWith("HTTP/1.1 503"));
  EXPECT_THAT(http("GET /health HTTP/1.1\r\n"), HasSubstr(R"("status":"unavailable")"));
}

TEST_F(ServerTest, ServesCallsOverHttp) {
  bus.port.on_send = [this](const Sent& sent) {
    if (sent.header.kind() == v1::CALL && sent.header.method() == "subtract") {
      boost::asio::post(bus.io, [this, sent] { bus.result(sent, 1, R"({"difference":19})"); });
    }
  };
  start();
  const std::string head = "POST /rpc HTTP/1.1\r\nAuthorization: Bearer secret-token\r\n";
  EXPECT_THAT(http(head, R"({"jsonrpc":"2.0","method":"subtract","params":[42,23],"id":1})"),
              AllOf(StartsWith("HTTP/1.1 200"),
                    HasSubstr(R"({"jsonrpc":"2.0","result":{"difference":19},"id":1})")));
  EXPECT_THAT(http(head, R"({"jsonrpc":"2.0","method":"subtract","params":[42,23]})"),
              StartsWith("HTTP/1.1 204"));
  EXPECT_THAT(http("POST /rpc HTTP/1.1\r\n", "{}"), StartsWith("HTTP/1.1 401"));
  EXPECT_THAT(http(head + "Origin: http://evil.example\r\n", "{}"), StartsWith("HTTP/1.1 403"));
  EXPECT_THAT(http(head + "Origin: https://ide.example\r\n", "{}"),
              HasSubstr("Access-Control-Allow-Origin: https://ide.example"));
  EXPECT_THAT(http("OPTIONS /rpc HTTP/1.1\r\nOrigin: https://ide.example\r\n"),
              AllOf(StartsWith("HTTP/1.1 204"), HasSubstr("Access-Control-Allow-Methods: POST")));
  EXPECT_THAT(http("OPTIONS /rpc HTTP/1.1\r\nOrigin: http://evil.example\r\n"),
              StartsWith("HTTP/1.1 403"));
}

TEST_F(ServerTest, StreamsItemsAsServerSentEvents) {
  bus.port.on_send = [this](const Sent& sent) {
    if (sent.header.kind() == v1::CALL && sent.header.method() == "count") {
      boost::asio::post(bus.io, [this, sent] {
        bus.accept(sent);
        bus.item(sent, 1, R"({"number":{"value":1}})");
        bus.result(sent, 2, R"({"done":{"total":1}})");
      });
    }
  };
  start();
  const std::string head = "POST /rpc HTTP/1.1\r\nAuthorization: Bearer secret-token\r\n";
  const std::string body = R"({"jsonrpc":"2.0","method":"count","id":1})";
  const std::string events = http(head + "Accept: text/event-stream\r\n", body);
  EXPECT_THAT(events, HasSubstr("event: count.number\ndata: {\"call\":1,\"value\":1}\n\n"));
  EXPECT_THAT(
      events,
      HasSubstr(
          "event: response\ndata: {\"jsonrpc\":\"2.0\",\"result\":{\"total\":1},\"id\":1}\n\n"));
  EXPECT_THAT(http(head, body),
              AllOf(HasSubstr(R"("result":{"total":1})"), Not(HasSubstr("number"))));
}

TEST_F(ServerTest, AnHttpClientThatGoesAwayCallsItsCallOff) {
  start();
  {
    tcp::socket socket = connect();
    const std::string body = R"({"jsonrpc":"2.0","method":"sum","id":1})";
    boost::asio::write(
        socket,
        boost::asio::buffer("POST /rpc?token=secret-token HTTP/1.1\r\nHost: x\r\nContent-Length: " +
                            std::to_string(body.size()) + "\r\n\r\n" + body));
    bool called = false;
    while (!called) {
      on_loop([&] { called = bus.port.count(v1::CALL) > 0; });
    }
  }
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  std::size_t cancels = 0;
  while (cancels == 0 && std::chrono::steady_clock::now() < until) {
    on_loop([&] { cancels = bus.port.count(v1::CANCEL); });
  }
  EXPECT_EQ(cancels, 1U);
}

TEST_F(ServerTest, AnswersOnAWebSocketAndRefusesBinaryFramesWithoutEndingIt) {
  start();
  const auto stream = open();
  stream->binary(true);
  stream->write(boost::asio::buffer(std::string("{}")));
  EXPECT_THAT(read(*stream),
              AllOf(HasSubstr("-32600"), HasSubstr("binary frames are not accepted")));
  stream->text(true);
  for (int i = 0; i < 100; ++i) {
    stream->write(boost::asio::buffer(R"({"jsonrpc":"2.0","method":"connection.ping","id":)" +
                                      std::to_string(i) + "}"));
  }
  for (int i = 0; i < 100; ++i) {
    EXPECT_THAT(read(*stream), HasSubstr("\"id\":" + std::to_string(i) + "}"));
  }
  stream->close(websocket::close_code::normal);
}

TEST_F(ServerTest, ClosesAMessageThatIsTooBig) {
  start();
  const auto stream = open();
  stream->write(boost::asio::buffer(std::string(2U << 20U, ' ')));
  read(*stream);
  EXPECT_EQ(stream->reason().code, websocket::close_code::too_big);
}

TEST_F(ServerTest, ShutsDownWithGoingAway) {
  start();
  const auto stream = open();
  boost::asio::post(bus.io, [this] { server->stop([this] { bus.io.stop(); }); });
  read(*stream);
  EXPECT_EQ(stream->reason().code, websocket::close_code::going_away);
  thread.join();
  EXPECT_EQ(connections.size(), 0U);
}

TEST_F(ServerTest, BoundsConnections) {
  bus.config.max_connections = 2;
  start();
  const auto one = open();
  const auto two = open();
  EXPECT_THAT(http("GET /health HTTP/1.1\r\n"), StartsWith("HTTP/1.1 503"));
}

// A worker that sends numbers as far as its credit goes.
class Counting {
 public:
  Counting(FakeBus& bus, std::uint64_t total) : bus_(bus), total_(total) {}
  void on_send(const Sent& sent) {
    if (sent.header.kind() == v1::CALL && sent.header.method() == "count") {
      call_ = sent;
      boost::asio::post(bus_.io, [this] {
        bus_.accept(call_);
        go_on(call_.header.credit());
      });
    } else if (sent.header.kind() == v1::CREDIT) {
      const std::uint64_t credit = sent.header.credit();
      boost::asio::post(bus_.io, [this, credit] { go_on(credit); });
    }
  }
  std::uint64_t sent() const { return next_ - 1; }

 private:
  void go_on(std::uint64_t credit) {
    constexpr std::uint64_t kItem = 6;  // the bytes of one
    while (next_ <= total_ && next_ * kItem <= credit) {
      bus_.item(call_, next_, R"({"number":{"value":)" + std::to_string(1'000'000 + next_) + "}}");
      ++next_;
    }
    if (next_ == total_ + 1) {
      bus_.result(call_, next_++, R"({"done":{"total":7}})");
    }
  }
  FakeBus& bus_;
  std::uint64_t total_;
  Sent call_;
  std::uint64_t next_ = 1;
};

TEST_F(ServerTest, ASlowReaderHoldsItsStreamBackAndLosesNothing) {
  constexpr std::uint64_t kTotal = 200'000;
  bus.config.stream_window = 64U << 10U;
  Counting worker(bus, kTotal);
  bus.port.on_send = [&](const Sent& sent) { worker.on_send(sent); };
  start();
  const auto stream = open();
  stream->write(boost::asio::buffer(std::string(R"({"jsonrpc":"2.0","method":"count","id":1})")));
  // It comes to rest by itself, long before the end.
  std::uint64_t before = 0;
  std::uint64_t now = 1;
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (before != now && std::chrono::steady_clock::now() < until) {
    before = now;
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    on_loop([&] { now = worker.sent(); });
  }
  EXPECT_LT(now, kTotal);
  // Another connection is served meanwhile.
  const auto other = open();
  other->write(
      boost::asio::buffer(std::string(R"({"jsonrpc":"2.0","method":"connection.ping","id":2})")));
  EXPECT_THAT(read(*other), HasSubstr("pong"));
  for (std::uint64_t i = 1; i <= kTotal; ++i) {
    const std::string frame = read(*stream);
    const std::string wanted = "\"value\":" + std::to_string(1'000'000 + i) + "}";
    if (frame.find(wanted) == std::string::npos) {
      FAIL() << i << ": " << frame;
    }
  }
  EXPECT_THAT(read(*stream), HasSubstr(R"("result":{"total":7})"));
}

}  // namespace
}  // namespace runbus::gateway
