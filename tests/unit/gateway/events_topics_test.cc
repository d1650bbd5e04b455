// Topics that a pattern matches and nobody has named.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/gateway/hub_fixture.h"

namespace runbus::gateway {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

class HubTopicsTest : public HubQuietTest {
 protected:
  HubTopicsTest() { say(0, {}); }

  // What a broker knows from now on: topics, and their last events.
  void say(std::size_t broker, const std::vector<std::pair<std::string, std::uint64_t>>& topics,
           std::uint64_t base = 0) {
    v1::TopicsResponse& response = history.listed[broker];
    response.Clear();
    response.set_epoch(broker == 0 ? epoch : "e2");
    for (const auto& [topic, offset] : topics) {
      v1::TopicPosition& position = *response.add_topics();
      position.set_topic(topic);
      position.set_base(base);
      position.set_last(offset);
      response.set_events(response.events() + offset);
    }
  }
  bool is_asked_for_topics(std::size_t times) {
    const std::size_t before = history.asked_for_topics.size();
    return until([&] { return history.asked_for_topics.size() >= before + times; });
  }
};

TEST_F(HubTopicsTest, TheOnlyEventOfATopicIsMissedToo) {
  subscribe("t*");
  say(0, {{"t1", 1}});
  remembered = {event("t1", 1)};
  ASSERT_TRUE(is_asked());
  EXPECT_EQ(history.asked.at(0).request.after(), 0U);
  answer_history();
  EXPECT_THAT(sink.take(), ElementsAre(HasSubstr("\"offset\":1")));
  EXPECT_TRUE(stays_quiet());
  EXPECT_THAT(sink.take(), IsEmpty());
  const v1::TopicsRequest& request = history.asked_for_topics.back();
  EXPECT_THAT(request.prefixes(), ElementsAre("t"));
  EXPECT_EQ(request.epoch(), "e1");
  EXPECT_EQ(request.after(), 1U);
}

TEST_F(HubTopicsTest, WhatWasBeforeTheSubscriptionIsNotGiven) {
  say(0, {{"t1", 3}});
  subscribe("t*");
  ASSERT_TRUE(is_asked_for_topics(3));
  EXPECT_TRUE(stays_quiet());
  say(0, {{"t1", 4}});
  remembered = {event("t1", 3), event("t1", 4)};
  ASSERT_TRUE(is_asked());
  EXPECT_EQ(history.asked.at(0).request.after(), 3U);
  answer_history();
  EXPECT_THAT(sink.take(), ElementsAre(HasSubstr("\"offset\":4")));
}

TEST_F(HubTopicsTest, TheFirstEventsOfANewTopicAreMissed) {
  subscribe("*");
  hub.on_event(0, event("t1", 3));
  EXPECT_THAT(sink.take(), IsEmpty());
  remembered = {event("t1", 1), event("t1", 2), event("t1", 3)};
  answer_history();
  EXPECT_THAT(sink.take(), SizeIs(3));
}

TEST_F(HubTopicsTest, ANewTopicMayBeginAboveOne) {
  subscribe("*");
  hub.on_event(0, event("t1", 8));
  ASSERT_THAT(history.asked, SizeIs(1));
  v1::HistoryResponse response;
  response.set_epoch("e1");
  response.set_base(6);
  response.set_last(8);
  *response.add_events() = event("t1", 7);
  *response.add_events() = event("t1", 8);
  std::exchange(history.asked, {}).at(0).done(response);
  EXPECT_THAT(sink.take(), ElementsAre(HasSubstr("\"offset\":7"), HasSubstr("\"offset\":8")))
      << "and nothing is lost";
}

TEST_F(HubTopicsTest, WhoMayNotKnowThemAllTakesATopicAsItComes) {
  history.listed[0].set_more(true);
  subscribe("t*");
  hub.on_event(0, event("t1", 3));
  EXPECT_THAT(sink.take(), ElementsAre(HasSubstr("\"offset\":3")));
  EXPECT_THAT(history.asked, IsEmpty());
}

TEST_F(HubTopicsTest, ABrokerThatIsNewHasNothingOfBefore) {
  subscribe("t*");
  epoch = "e9";
  say(0, {{"t1", 1}});
  remembered = {event("t1", 1, "e9")};
  hub.on_broker_lost(0);
  hub.on_broker(0, nullptr);
  ASSERT_TRUE(is_asked());
  answer_history();
  EXPECT_THAT(sink.take(), ElementsAre(HasSubstr("\"offset\":1")));
}

TEST_F(HubTopicsTest, ABrokerThatWasAwayHas) {
  subscribe("t*");
  say(1, {{"t1", 5}});
  std::vector<std::string> others;
  hub.on_broker(1, std::make_unique<test::FakeFeed>(others));
  ASSERT_TRUE(is_asked_for_topics(4));
  EXPECT_TRUE(stays_quiet());
  say(1, {{"t1", 5}, {"t2", 1}});
  remembered = {event("t2", 1, "e2")};
  ASSERT_TRUE(is_asked());
  EXPECT_EQ(history.asked.at(0).request.topic(), "t2");
  answer_history();
  EXPECT_THAT(sink.take(), ElementsAre(HasSubstr("\"offset\":1")));
}

TEST_F(HubTopicsTest, WhatIsNotForSubscribersStaysHidden) {
  std::vector<std::string> others;
  say(1, {});
  hub.on_broker(1, std::make_unique<test::FakeFeed>(others));
  subscribe("*");
  say(0, {{"gateway.probe.x.1", 2}});
  say(1, {{"worker.lost", 1}});
  ASSERT_TRUE(is_asked_for_topics(6));
  EXPECT_TRUE(stays_quiet());
}

// Every broker tells of the same workers: what one has told is not told again by the next.
TEST_F(HubTopicsTest, WhatABrokerToldIsNotToldByTheNext) {
  std::vector<std::string> others;
  say(1, {});
  hub.on_broker(1, std::make_unique<test::FakeFeed>(others));
  subscribe("*");
  say(1, {{"worker.lost", 1}});
  ASSERT_TRUE(is_asked_for_topics(4));
  hub.on_broker_lost(0);
  ASSERT_TRUE(is_asked_for_topics(4));
  EXPECT_TRUE(stays_quiet());
  hub.on_event(1, event("worker.lost", 2, "e2"));
  EXPECT_THAT(sink.take(), ElementsAre(HasSubstr("\"offset\":2")));
}

TEST_F(HubTopicsTest, NobodyAsksForTopicsThatAreNamed) {
  subscribe("t");
  ASSERT_TRUE(stays_quiet());
  EXPECT_THAT(history.asked_for_topics, IsEmpty());
  const std::string id = subscribe("t*");
  ASSERT_TRUE(is_asked_for_topics(2));
  EXPECT_TRUE(hub.unsubscribe(sink, id));
  const std::size_t asked = history.asked_for_topics.size();
  ASSERT_TRUE(stays_quiet());
  EXPECT_THAT(history.asked_for_topics, SizeIs(asked));
}

// What a client says to go on where its connection broke.
class HubPlacesTest : public HubTopicsTest {
 protected:
  HubPlacesTest() { history.listed[0].set_events(7); }
  void say_topic(const std::string& topic, std::uint64_t before, std::uint64_t last_offset,
                 bool forgotten = false) {
    v1::TopicPosition& position = *history.listed[0].add_topics();
    position.set_topic(topic);
    position.set_before(before);
    position.set_forgotten(forgotten);
    position.set_last(last_offset);
  }
  void subscribe_since(const std::vector<std::pair<std::string, std::uint64_t>>& places,
                       const std::string& of = "e1") {
    v1::SubscribeRequest request;
    request.add_topics("t*");
    for (const auto& [topic, offset] : places) {
      (*request.mutable_since())[topic].set_epoch(of);
      (*request.mutable_since())[topic].set_offset(offset);
    }
    HubTest::subscribe(request, sink);
  }
};

TEST_F(HubPlacesTest, TheAnswerSaysWhereANamedTopicStands) {
  history.stands["t"].set_epoch("e1");
  history.stands["t"].set_offset(3);
  subscribe("t");
  EXPECT_EQ(last.positions().at("t").epoch(), "e1");
  EXPECT_EQ(last.positions().at("t").offset(), 3U);
}

TEST_F(HubPlacesTest, WhichIsBeforeWhatIsStillToBeGiven) {
  history.stands["t"].set_epoch("e1");
  history.stands["t"].set_offset(3);
  confirm = false;
  bool answered = false;
  v1::SubscribeRequest request;
  request.add_topics("t");
  hub.subscribe(sink, request, [&](const Result<v1::SubscribeResponse>& response) {
    answered = true;
    last = *response;
  });
  hub.on_event(0, event("t", 3));
  hub.on_event(0, event("t", 4));
  ASSERT_TRUE(until([&] { return answered; }));
  EXPECT_EQ(last.positions().at("t").offset(), 2U);
  EXPECT_THAT(sink.take(), ElementsAre(HasSubstr("\"offset\":3"), HasSubstr("\"offset\":4")));
}

TEST_F(HubPlacesTest, TheAnswerSaysWhereAPatternStands) {
  subscribe("t*");
  EXPECT_EQ(last.positions().at("t*").epoch(), "e1");
  EXPECT_EQ(last.positions().at("t*").offset(), 7U);
}

TEST_F(HubPlacesTest, TopicsThatAreNewAreReplayed) {
  say_topic("t1", 0, 2);
  say_topic("x1", 0, 2);
  remembered = {event("t1", 1), event("t1", 2)};
  subscribe_since({{"t*", 7}});
  EXPECT_THAT(sink.take(), ElementsAre(HasSubstr("\"offset\":1"), HasSubstr("\"offset\":2")));
  EXPECT_EQ(last.positions().at("t1").offset(), 2U);
}

TEST_F(HubPlacesTest, AndOfOthersWhatCameSince) {
  say_topic("t1", 3, 5);
  say_topic("t2", 3, 5);
  remembered = {event("t1", 3), event("t1", 4), event("t1", 5), event("t2", 4), event("t2", 5)};
  subscribe_since({{"t*", 7}, {"t2", 4}});
  // In order within a topic.
  std::map<std::string, std::vector<std::string>> given;
  for (const std::string& frame : sink.take()) {
    given[frame.find("\"t1\"") == std::string::npos ? "t2" : "t1"].push_back(frame);
  }
  EXPECT_THAT(given["t1"], ElementsAre(HasSubstr("\"offset\":4"), HasSubstr("\"offset\":5")));
  EXPECT_THAT(given["t2"], ElementsAre(HasSubstr("\"offset\":5")));
}

TEST_F(HubPlacesTest, WhatTheBrokerHasForgottenIsTold) {
  say_topic("t1", 4, 5, true);
  remembered = {event("t1", 5)};
  subscribe_since({{"t*", 7}});
  EXPECT_THAT(sink.take(), ElementsAre(testing::AllOf(HasSubstr("events.lagged"), HasSubstr("t1")),
                                       HasSubstr("\"offset\":5")));
}

TEST_F(HubPlacesTest, OfABrokerThatIsNewAllIsReplayed) {
  say_topic("t1", 0, 1);
  remembered = {event("t1", 1)};
  subscribe_since({{"t*", 7}}, "gone");
  EXPECT_THAT(sink.take(), ElementsAre(testing::AllOf(HasSubstr("events.lagged"), HasSubstr("t*")),
                                       HasSubstr("\"offset\":1")));
}

TEST_F(HubPlacesTest, OfAnotherBrokerNothingIsCertain) {
  std::vector<std::string> others;
  say(1, {{"t1", 5}});
  hub.on_broker(1, std::make_unique<test::FakeFeed>(others));
  subscribe_since({{"t*", 7}});
  EXPECT_THAT(sink.take(),
              ElementsAre(testing::AllOf(HasSubstr("events.lagged"), HasSubstr("t*"))));
}

TEST_F(HubPlacesTest, APatternHasToBeOneOfTheTopics) {
  v1::SubscribeRequest request;
  request.add_topics("t*");
  (*request.mutable_since())["t1*"].set_epoch("e1");
  EXPECT_THAT(HubTest::subscribe(request, sink), HasSubstr("since"));
}

}  // namespace
}  // namespace runbus::gateway
