#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/asio/post.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gateway/events/hub.h"
#include "tests/unit/gateway/fake_bus.h"

namespace runbus::gateway {

inline v1::Event event(const std::string& topic, std::uint64_t offset,
                       const std::string& epoch = "e1") {
  v1::Event made;
  made.set_topic(topic);
  made.set_epoch(epoch);
  made.set_offset(offset);
  return made;
}

class HubTest : public testing::Test {
 protected:
  explicit HubTest(std::chrono::milliseconds asks = std::chrono::seconds(60))
      : hub(io, history, "gateway-1",
            HubOptions{1000, std::chrono::milliseconds(5), std::chrono::milliseconds(50),
                       std::chrono::milliseconds(5), asks, asks}) {
    hub.on_broker(0, std::make_unique<test::FakeFeed>(prefixes));
    // The broker confirms subscriptions at once.
    history.on_publish = [this](std::size_t broker, const v1::Event& probe) {
      if (confirm) {
        boost::asio::post(io, [this, broker, probe] { hub.on_event(broker, probe); });
      }
    };
  }
  std::string subscribe(const v1::SubscribeRequest& request, test::FakeSink& to) {
    std::string id;
    bool answered = false;
    hub.subscribe(to, request, [&](const Result<v1::SubscribeResponse>& response) {
      answered = true;
      id = response ? response->subscription() : "refused: " + response.error().detail;
      if (response) {
        last = *response;
      }
    });
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!answered && std::chrono::steady_clock::now() < until) {
      io.restart();
      io.run_one_for(std::chrono::milliseconds(5));
      answer_history(true);
    }
    EXPECT_TRUE(answered);
    return id;
  }
  bool until(const std::function<bool()>& done) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!done() && std::chrono::steady_clock::now() < end) {
      io.restart();
      io.run_one_for(std::chrono::milliseconds(5));
    }
    return done();
  }
  std::string subscribe(const std::string& glob) {
    v1::SubscribeRequest request;
    request.add_topics(glob);
    return subscribe(request, sink);
  }
  // Answers what was asked of the history from `remembered`.
  void answer_history(bool only_if_asked = false) {
    if (!only_if_asked) {
      ASSERT_THAT(history.asked, testing::Not(testing::IsEmpty()));
    }
    const auto asked = std::exchange(history.asked, {});
    for (const auto& one : asked) {
      v1::HistoryResponse response;
      response.set_epoch(one.broker == 0 ? epoch : "e2");
      const bool same = one.request.epoch() == response.epoch();
      for (const v1::Event& known : remembered) {
        if (known.epoch() != response.epoch()) {
          continue;
        }
        response.set_last(known.offset());
        if (known.topic() == one.request.topic() &&
            (!same || known.offset() > one.request.after())) {
          *response.add_events() = known;
        }
      }
      one.done(response);
    }
  }

  boost::asio::io_context io;
  test::FakeHistory history;
  std::vector<std::string> prefixes;
  Hub hub;
  test::FakeSink sink;
  v1::SubscribeResponse last;
  std::vector<v1::Event> remembered;
  std::string epoch = "e1";
  bool confirm = true;
};

// Asks its brokers often.
class HubQuietTest : public HubTest {
 protected:
  HubQuietTest() : HubTest(std::chrono::milliseconds(5)) {}
  bool is_asked() {
    return until([this] { return !history.asked.empty(); });
  }
  // Whether nothing is asked for several times as long as it takes to ask.
  bool stays_quiet() {
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(100);
    return until(
               [&] { return std::chrono::steady_clock::now() > end || !history.asked.empty(); }) &&
           history.asked.empty();
  }
};

}  // namespace runbus::gateway
