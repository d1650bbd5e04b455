#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <boost/asio/io_context.hpp>
#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "echo.pb.h"
#include "services/worker/worker.h"
#include "tests/unit/worker/fake_broker.h"

namespace runbus::worker {

namespace echo = example::echo::v1;

// example.echo.v1.EchoService with handlers that a test writes; calls it leaves alone wait for
// ever.
class ScriptedService : public Service {
 public:
  explicit ScriptedService(std::uint32_t capacity)
      : Service(*echo::SayRequest::descriptor()->file()->FindServiceByName("EchoService"),
                capacity) {
    on<echo::SayRequest>("Say", [this](CallPtr call, const echo::SayRequest& request) {
      ++runs;
      if (say) {
        say(call, request);
      } else {
        echo::SayResponse response;
        response.set_text(request.text());
        call->finish(response);
      }
    });
    on<echo::CountRequest>("Count", [this](CallPtr call, const echo::CountRequest& request) {
      ++runs;
      count(call, request);
    });
    on<echo::ChatRequest>("Chat", [this](CallPtr call, const echo::ChatRequest& request) {
      ++runs;
      chat(call, request);
    });
  }

  std::function<void(CallPtr, const echo::SayRequest&)> say;
  std::function<void(CallPtr, const echo::CountRequest&)> count;
  std::function<void(CallPtr, const echo::ChatRequest&)> chat;
  int runs = 0;
};

// A worker on its loop and a fake broker, both driven by the test's thread.
class WorkerFixture : public testing::Test {
 protected:
  WorkerFixture() {
    std::string pattern =
        (std::filesystem::temp_directory_path() / "runbus-worker-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) {
      throw std::runtime_error("mkdtemp failed");
    }
    directory_ = pattern;
    endpoint_ = "ipc://" + directory_ + "/bus";
  }

  ~WorkerFixture() override {
    // What the tests' handlers hold goes while the loop still exists.
    worker_.reset();
    broker_.reset();
    second_.reset();
    std::filesystem::remove_all(directory_);
  }

  void start(std::unique_ptr<Service> service,
             std::chrono::seconds drain_timeout = std::chrono::seconds(60),
             std::chrono::milliseconds heartbeat_timeout = std::chrono::seconds(60)) {
    broker_ = std::make_unique<FakeBroker>(endpoint_, heartbeat_timeout);
    WorkerOptions options;
    options.brokers = {endpoint_};
    if (second_) {
      options.brokers.push_back(second_endpoint());
    }
    options.node = "node-1";
    options.name = "test";
    options.drain_timeout = drain_timeout;
    worker_ = std::make_unique<Worker>(io_, std::move(options));
    worker_->add(std::move(service));
    worker_->start();
    ASSERT_TRUE(until([&] { return broker_->attached() && (!second_ || second_->attached()); }));
  }

  std::string second_endpoint() const { return endpoint_ + "-2"; }
  // Before start(): the worker attaches to this one as well.
  void start_second(std::chrono::milliseconds heartbeat_timeout) {
    second_ = std::make_unique<FakeBroker>(second_endpoint(), heartbeat_timeout);
  }

  ScriptedService& start_scripted(std::uint32_t capacity = 16,
                                  std::chrono::seconds drain_timeout = std::chrono::seconds(60)) {
    auto service = std::make_unique<ScriptedService>(capacity);
    ScriptedService& scripted = *service;
    start(std::move(service), drain_timeout);
    return scripted;
  }

  void turn() {
    if (broker_) {
      broker_->poll();
    }
    if (second_) {
      second_->poll();
    }
    io_.restart();
    io_.run_for(std::chrono::milliseconds(1));
  }

  // Turns broker and worker until `condition` holds; false after a long while.
  bool until(const std::function<bool()>& condition,
             std::chrono::seconds patience = std::chrono::seconds(40)) {
    const auto deadline = std::chrono::steady_clock::now() + patience;
    while (!condition()) {
      if (std::chrono::steady_clock::now() > deadline) {
        return false;
      }
      turn();
    }
    return true;
  }

  bool until_received(v1::Kind kind, const std::string& call_id, std::size_t count = 1) {
    return until([&] { return broker_->count(kind, call_id) >= count; });
  }

  // What was sent to the worker before has been dealt with: it answers in order.
  void settle() {
    for (int i = 0; i < 3; ++i) {
      const std::string id = "settle-" + std::to_string(++settled_);
      broker_->call(id, "no.such.method", echo::SayRequest());
      ASSERT_TRUE(until_received(v1::ERROR, id));
    }
  }

  v1::ErrorBody only_error(const std::string& call_id) {
    EXPECT_TRUE(until_received(v1::ERROR, call_id));
    const auto errors = broker_->of(v1::ERROR, call_id);
    return errors.size() == 1 ? error_of(errors.front()) : v1::ErrorBody();
  }

  boost::asio::io_context io_{1};
  std::string directory_;
  std::string endpoint_;
  std::unique_ptr<FakeBroker> broker_;
  std::unique_ptr<FakeBroker> second_;
  std::unique_ptr<Worker> worker_;

 private:
  int settled_ = 0;
};

inline echo::SayRequest say(const std::string& text) {
  echo::SayRequest request;
  request.set_text(text);
  return request;
}

inline echo::CountItem counted(std::uint32_t number, std::size_t padding = 0) {
  echo::CountItem item;
  item.mutable_counted()->set_number(number);
  item.mutable_counted()->set_padding(std::string(padding, '.'));
  return item;
}

inline echo::CountItem count_result(std::uint32_t number) {
  echo::CountItem item;
  item.mutable_result()->set_counted(number);
  return item;
}

}  // namespace runbus::worker
