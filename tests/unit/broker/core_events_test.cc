#include "tests/unit/broker/core_fixture.h"

namespace runbus::broker {
namespace {

class CoreEvents : public CoreTest {
 protected:
  CoreEvents() { attach(); }
  void attach() {
    attach_gateway("g1");
    out.published.clear();
  }

  void publish(const std::string& topic, const std::string& text = "x") {
    v1::Event event;
    event.set_topic(topic);
    event.set_offset(999);
    event.set_epoch("forged");
    (*event.mutable_data()->mutable_fields())["text"].set_string_value(text);
    say("@g1", header(v1::EVENT), event.SerializeAsString());
  }

  v1::HistoryResponse history(const std::string& topic, std::uint64_t after,
                              const std::string& epoch = {}, std::uint32_t max_events = 0) {
    v1::HistoryRequest request;
    request.set_topic(topic);
    request.set_after(after);
    request.set_epoch(epoch);
    request.set_max_events(max_events);
    return ask<v1::HistoryResponse>("bus.history", request);
  }
};

TEST_F(CoreEvents, NumbersTheEventsOfEachTopicAndStampsThem) {
  publish("user.a");
  publish("user.a");
  publish("user.b");
  ASSERT_EQ(out.published.size(), 3U);
  EXPECT_EQ(out.published[0].offset(), 1U);
  EXPECT_EQ(out.published[1].offset(), 2U);
  EXPECT_EQ(out.published[2].offset(), 1U);
  EXPECT_EQ(out.published[0].epoch(), core->epoch());
  EXPECT_EQ(out.published[0].timestamp().seconds(), static_cast<std::int64_t>(now.wall_ms / 1000));
}

TEST_F(CoreEvents, RemembersWhatCameAfterAPosition) {
  for (int i = 1; i <= 5; ++i) {
    publish("user.a", std::to_string(i));
  }
  const auto all = history("user.a", 0);
  EXPECT_EQ(all.last(), 5U);
  ASSERT_EQ(all.events_size(), 5);
  EXPECT_EQ(all.events(4).data().fields().at("text").string_value(), "5");
  const auto later = history("user.a", 3, core->epoch());
  ASSERT_EQ(later.events_size(), 2);
  EXPECT_EQ(later.events(0).offset(), 4U);
  EXPECT_EQ(history("user.a", 3, "another epoch").events_size(), 5);
  EXPECT_EQ(history("user.a", 0, {}, 2).events_size(), 2);
  EXPECT_EQ(history("user.none", 0).last(), 0U);
}

TEST_F(CoreEvents, ForgetsTheOldestEventsOfATopicBeyondItsCount) {
  CoreOptions options;
  options.history_events = 3;
  start(options);
  attach();
  for (int i = 0; i < 10; ++i) {
    publish("user.a");
  }
  const auto kept = history("user.a", 0);
  ASSERT_EQ(kept.events_size(), 3);
  EXPECT_EQ(kept.events(0).offset(), 8U);
  EXPECT_EQ(kept.last(), 10U);
}

TEST_F(CoreEvents, ForgetsTheOldestOfAllBeyondTheBytes) {
  CoreOptions options;
  options.history_bytes = 10'000;
  start(options);
  attach();
  publish("user.first", std::string(4000, 'x'));
  publish("user.second", std::string(4000, 'x'));
  publish("user.second", std::string(4000, 'x'));
  EXPECT_EQ(history("user.first", 0).events_size(), 0);
  EXPECT_EQ(history("user.first", 0).last(), 1U);
  EXPECT_EQ(history("user.second", 0).events_size(), 2);
}

TEST_F(CoreEvents, NumbersNeverRepeatWhenATopicHadToMakeRoom) {
  CoreOptions options;
  options.max_topics = 2;
  start(options);
  attach();
  publish("user.a");
  publish("user.a");
  publish("user.b");
  publish("user.c");
  publish("user.a");
  EXPECT_GT(out.published.back().offset(), 2U);
}

TEST_F(CoreEvents, ListsTheTopicsThatHadEventsSinceItWasAsked) {
  const auto names = [](const v1::TopicsResponse& response) {
    std::vector<std::string> found;
    for (const v1::TopicPosition& position : response.topics()) {
      found.push_back(position.topic() + " " + std::to_string(position.base()) + " " +
                      std::to_string(position.last()));
    }
    return found;
  };
  CoreOptions options;
  options.max_topics = 3;
  start(options);
  attach();
  publish("user.a");
  publish("user.a");
  publish("user.b");
  publish("other");
  v1::TopicsRequest request;
  request.add_prefixes("user.");
  const auto first = ask<v1::TopicsResponse>("bus.topics", request);
  EXPECT_EQ(names(first), (std::vector<std::string>{"user.b 0 1", "user.a 0 2"}));
  EXPECT_EQ(first.epoch(), core->epoch());
  request.set_epoch(first.epoch());
  request.set_after(first.events());
  EXPECT_EQ(ask<v1::TopicsResponse>("bus.topics", request).topics_size(), 0);
  publish("other");
  publish("user.b");
  publish("user.c");  // user.a makes room
  EXPECT_EQ(names(ask<v1::TopicsResponse>("bus.topics", request)),
            (std::vector<std::string>{"user.c 2 3", "user.b 0 2"}));
  request.set_epoch("another");
  request.clear_prefixes();
  EXPECT_EQ(names(ask<v1::TopicsResponse>("bus.topics", request)),
            (std::vector<std::string>{"user.c 2 3", "user.b 0 2", "other 0 2"}));
  EXPECT_EQ(history("user.c", 0).base(), 2U);
}

TEST_F(CoreEvents, SaysWhichEventsOfATopicCameSinceThen) {
  const auto places = [this](std::uint64_t after) {
    v1::TopicsRequest request;
    request.set_epoch(core->epoch());
    request.set_after(after);
    const auto response = ask<v1::TopicsResponse>("bus.topics", request);
    std::vector<std::string> found;
    for (const v1::TopicPosition& position : response.topics()) {
      found.push_back(position.topic() + " " + std::to_string(position.before()) +
                      (position.forgotten() ? " forgotten" : ""));
    }
    return found;
  };
  CoreOptions options;
  options.history_events = 2;
  start(options);
  attach();
  for (const char* topic : {"user.a", "user.b", "user.a", "user.a"}) {
    publish(topic);
  }
  using Places = std::vector<std::string>;
  EXPECT_EQ(places(3), Places{"user.a 2"});
  EXPECT_EQ(places(2), Places{"user.a 1 forgotten"}) << "its first may have come later";
  EXPECT_EQ(places(1), (Places{"user.a 1 forgotten", "user.b 0"}));
  publish("user.a");
  EXPECT_EQ(places(3), Places{"user.a 2 forgotten"});
}

TEST_F(CoreEvents, ListsABoundedNumberOfTopics) {
  for (int i = 0; i < 1025; ++i) {
    publish("user." + std::to_string(i));
  }
  const auto listed = ask<v1::TopicsResponse>("bus.topics", v1::TopicsRequest());
  EXPECT_EQ(listed.topics_size(), 1024);
  EXPECT_TRUE(listed.more());
  EXPECT_EQ(listed.topics(0).topic(), "user.1024");
}

TEST_F(CoreEvents, DropsEventsThatAreTooLargeBadlyNamedOrItsOwn) {
  publish("user.a", std::string(70'000, 'x'));
  publish("");
  publish("user..a");
  publish("user.a b");
  publish(std::string(129, 'a'));
  publish("worker.lost");
  EXPECT_TRUE(out.published.empty());
  EXPECT_EQ(dropped("event_size"), 1U);
  EXPECT_EQ(dropped("event_topic"), 5U);
}

TEST_F(CoreEvents, BoundsTheRateOfAPeer) {
  CoreOptions options;
  options.event_rate = 10;
  options.event_burst = 5;
  start(options);
  attach();
  for (int i = 0; i < 8; ++i) {
    publish("user.a");
  }
  EXPECT_EQ(out.published.size(), 5U);
  EXPECT_EQ(dropped("event_rate"), 3U);
  now.steady_ms += 200;
  publish("user.a");
  EXPECT_EQ(out.published.size(), 6U);
}

TEST_F(CoreEvents, TellsAPublisherThatAsksWhereItsEventIs) {
  v1::Event event;
  event.set_topic("user.a");
  publish("user.a");
  const auto published = ask<v1::Published>("bus.publish", event);
  EXPECT_EQ(published.epoch(), core->epoch());
  EXPECT_EQ(published.offset(), 2U);
  ASSERT_EQ(out.published.size(), 2U);
  EXPECT_EQ(out.published[1].offset(), 2U);
}

TEST_F(CoreEvents, TellsAPublisherThatAsksWhyItsEventIsRefused) {
  CoreOptions options;
  options.event_burst = 3;
  start(options);
  attach();
  v1::Event event;
  event.set_topic("user.a");
  const auto refusal = [this, &event](const std::string& id, bool again = false) {
    v1::Header call = call_header(id, {}, "bus.publish");
    call.set_again(again);
    say("@g1", call, event.SerializeAsString());
    return error_of(id);
  };
  // Whether it was published before the connection was lost, nobody knows.
  EXPECT_EQ(refusal("again", true).code(), -32004);
  event.set_topic("worker.lost");
  EXPECT_EQ(refusal("topic").code(), -32602);
  event.set_topic("user.a");
  (*event.mutable_data()->mutable_fields())["x"].set_string_value(std::string(70'000, 'x'));
  EXPECT_EQ(refusal("size").limit(), "event_bytes");
  event.clear_data();
  EXPECT_EQ(refusal("first").code(), 0);
  EXPECT_EQ(refusal("second").code(), 0);
  const v1::ErrorBody rate = refusal("third");
  EXPECT_EQ(rate.code(), -32002);
  EXPECT_EQ(rate.limit(), "event_rate");
  EXPECT_EQ(out.published.size(), 2U);
}

TEST_F(CoreEvents, RelaysPlainPublishersUnderTheSameRules) {
  v1::Event event;
  event.set_topic("fs.created");
  core->on_published("fs.created", event.SerializeAsString(), now);
  core->on_published("fs.other", event.SerializeAsString(), now);
  core->on_published("fs.created", "\xff\xff", now);
  ASSERT_EQ(out.published.size(), 1U);
  EXPECT_EQ(out.published[0].offset(), 1U);
  EXPECT_EQ(history("fs.created", 0).events_size(), 1);
}

TEST_F(CoreEvents, AnnouncesWorkers) {
  attach_worker("w1", "n1");
  ASSERT_EQ(out.published.size(), 1U);
  EXPECT_EQ(out.published[0].topic(), "worker.attached");
  const auto& fields = out.published[0].data().fields();
  EXPECT_EQ(fields.at("node").string_value(), "n1");
  EXPECT_EQ(fields.at("services").list_value().values(0).string_value(), "test.Echo");
  attach_worker("w1", "n1");
  EXPECT_EQ(out.published.size(), 1U) << "an introduction that is only repeated is no news";
}

}  // namespace
}  // namespace runbus::broker
