#pragma once

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "broker/server.h"
#include "proto/support/id.h"
#include "proto/wire/bus_link.h"
#include "proto/wire/curve_keys.h"
#include "proto/wire/frame.h"
#include "tests/unit/temporary_directory.h"

// A broker in a thread, and peers on one loop that is run until something has come to be.
namespace runbus::broker {

inline constexpr std::chrono::seconds kPatience{40};

class RunningServer {
 public:
  explicit RunningServer(ServerOptions options)
      : server_(std::make_unique<Server>(std::move(options))),
        thread_([this] { server_->run(); }) {}
  ~RunningServer() {
    server_->stop();
    thread_.join();
  }
  RunningServer(const RunningServer&) = delete;
  RunningServer& operator=(const RunningServer&) = delete;
  const Server& server() const { return *server_; }

 private:
  std::unique_ptr<Server> server_;
  std::thread thread_;
};

class ServerTest : public ::testing::Test {
 protected:
  ServerOptions options() const {
    ServerOptions result;
    result.listen = {ipc("bus")};
    result.events_listen = {ipc("events")};
    result.core.heartbeat_interval = 200;
    return result;
  }

  std::string ipc(const std::string& name) const { return "ipc://" + directory.file(name); }

  void start() { start(options()); }
  void start(const ServerOptions& wanted) { server = std::make_unique<RunningServer>(wanted); }

  // Runs the loop until `done`; false after a long time.
  bool until(const std::function<bool()>& done) {
    const auto end = std::chrono::steady_clock::now() + kPatience;
    while (!done()) {
      if (std::chrono::steady_clock::now() > end) {
        return false;
      }
      io.restart();
      io.run_one_for(std::chrono::milliseconds(20));
    }
    return true;
  }

  TemporaryDirectory directory;
  boost::asio::io_context io{1};
  zmq::context_t context{1};
  std::unique_ptr<RunningServer> server;
};

// A gateway that counts what it gets.
struct TestGateway {
  TestGateway(boost::asio::io_context& io, zmq::context_t& context, const std::string& endpoint,
              wire::CurveKeys keys = {})
      : link(io, context, make_options(endpoint, std::move(keys)),
             [this] { return introduction(); },
             {[this](const v1::Welcome& message, bool new_broker) {
                welcome = message;
                ++connected;
                new_brokers += new_broker ? 1 : 0;
              },
              [this] { ++disconnected; },
              [this](v1::Header& header, zmq::message_t& body) { on_message(header, body); }}) {}

  static wire::BusLinkOptions make_options(const std::string& endpoint, wire::CurveKeys keys) {
    wire::BusLinkOptions options;
    options.endpoint = endpoint;
    options.curve = std::move(keys);
    return options;
  }

  v1::Ready introduction() const {
    v1::Ready ready;
    ready.set_role(v1::GATEWAY);
    ready.set_peer_id(id);
    return ready;
  }

  void on_message(v1::Header& header, const zmq::message_t& body) {
    if (header.kind() == v1::SERVICES) {
      v1::Services list;
      list.ParseFromArray(body.data(), static_cast<int>(body.size()));
      services = list.services_size();
    } else if (header.kind() == v1::RESULT) {
      ++results;
      last_body.assign(wire::view(body));
    } else if (header.kind() == v1::ERROR) {
      v1::ErrorBody error;
      error.ParseFromArray(body.data(), static_cast<int>(body.size()));
      errors.push_back(error.code());
    }
  }

  Result<void> call(std::string_view body, const std::string& method = "echo.say") {
    v1::Header header;
    header.set_kind(v1::CALL);
    header.set_call_id(make_uuid());
    header.set_method(method);
    header.set_origin(id);
    return link.send(header, body);
  }

  std::string id = make_uuid();
  v1::Welcome welcome;
  int connected = 0;
  int new_brokers = 0;
  int disconnected = 0;
  int services = 0;
  int results = 0;
  std::string last_body;
  std::vector<int> errors;
  wire::BusLink link;
};

// A worker that answers each call with its own body.
struct TestWorker {
  TestWorker(boost::asio::io_context& io, zmq::context_t& context, const std::string& endpoint,
             wire::CurveKeys keys = {}, std::string node_name = "n1")
      : node(std::move(node_name)),
        link(io, context, TestGateway::make_options(endpoint, std::move(keys)),
             [this] { return introduction(); },
             {[this](const v1::Welcome&, bool) { ++connected; }, [this] { ++disconnected; },
              [this](v1::Header& header, zmq::message_t& body) { on_message(header, body); }}) {}

  v1::Ready introduction() const {
    v1::Ready ready;
    ready.set_role(v1::WORKER);
    ready.set_peer_id(id);
    ready.set_node(node);
    ready.set_name("echo");
    auto& offer = *ready.add_services();
    offer.set_service("test.Echo");
    offer.set_capacity(1000);
    offer.add_methods("echo.say");
    return ready;
  }

  void on_message(const v1::Header& header, zmq::message_t& body) {
    if (header.kind() != v1::CALL) {
      return;
    }
    ++calls;
    if (silent) {
      return;
    }
    v1::Header reply;
    reply.set_kind(v1::ACCEPTED);
    reply.set_call_id(header.call_id());
    reply.set_origin(header.origin());
    reply.set_worker_id(id);
    EXPECT_TRUE(link.send(reply, std::string_view()).has_value());
    reply.set_kind(v1::RESULT);
    reply.set_sequence(1);
    EXPECT_TRUE(link.send(reply, std::move(body)).has_value());
  }

  std::string id = make_uuid();
  std::string node;
  int connected = 0;
  int disconnected = 0;
  int calls = 0;
  bool silent = false;
  wire::BusLink link;
};

}  // namespace runbus::broker
