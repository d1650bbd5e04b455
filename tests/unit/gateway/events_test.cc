#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "gateway/events/glob.h"
#include "tests/unit/gateway/hub_fixture.h"

namespace runbus::gateway {
namespace {

using test::FakeFeed;
using test::FakeSink;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

TEST(Glob, MatchesLikeAShell) {
  EXPECT_TRUE(glob_match("code_execution.*", "code_execution.started"));
  EXPECT_TRUE(glob_match("*", "a.b.c"));
  EXPECT_TRUE(glob_match("a?c", "abc"));
  EXPECT_TRUE(glob_match("[a-c]x", "bx"));
  EXPECT_FALSE(glob_match("[!a-c]x", "bx"));
  EXPECT_TRUE(glob_match("a*b*c", "axxbyyc"));
  EXPECT_FALSE(glob_match("a*b", "axxc"));
  EXPECT_TRUE(glob_match("\\*", "*"));
  EXPECT_FALSE(glob_match("\\*", "x"));
  EXPECT_TRUE(glob_match("[x", "[x"));
  EXPECT_FALSE(glob_match("", "x"));
  EXPECT_TRUE(glob_match("", ""));
}

TEST(Glob, TakesPolynomialTime) {
  const std::string text(250, 'a');
  std::string pattern;
  for (int i = 0; i < 100; ++i) {
    pattern.append("a*");
  }
  EXPECT_FALSE(glob_match(pattern + "b", text));
}

TEST(Glob, PrefixIsWhatIsLiteral) {
  EXPECT_EQ(glob_prefix("fs.*"), "fs.");
  EXPECT_EQ(glob_prefix("fs.created"), "fs.created");
  EXPECT_EQ(glob_prefix("*"), "");
}

TEST_F(HubTest, GivesMatchingEventsToTheirSubscription) {
  const std::string id = subscribe("fs.*");
  EXPECT_THAT(prefixes, ElementsAre("fs."));
  hub.on_event(0, event("fs.created", 1));
  hub.on_event(0, event("terminal.opened", 1));
  const auto frames = sink.take();
  ASSERT_THAT(frames, SizeIs(1));
  EXPECT_THAT(
      frames[0],
      HasSubstr(R"({"jsonrpc":"2.0","method":"events.event","params":{"subscription":")" + id));
  EXPECT_THAT(frames[0], HasSubstr(R"("topic":"fs.created","epoch":"e1","offset":1)"));
}

TEST_F(HubTest, AnswersOnceTheBrokerHasTheSubscription) {
  confirm = false;
  bool answered = false;
  v1::SubscribeRequest request;
  request.add_topics("a.*");
  hub.subscribe(sink, request, [&](const auto&) { answered = true; });
  EXPECT_FALSE(answered);
  ASSERT_THAT(history.published, SizeIs(1));
  EXPECT_THAT(prefixes, ElementsAre("a.", history.published[0].topic()));
  hub.on_event(0, event("a.x", 1));
  EXPECT_THAT(sink.take(), IsEmpty());  // not before the answer
  hub.on_event(0, history.published[0]);
  EXPECT_TRUE(answered);
  EXPECT_THAT(sink.take(), SizeIs(1));
  EXPECT_THAT(prefixes, ElementsAre("a."));
}

TEST_F(HubTest, AnswersAlsoWhenTheBrokerNeverConfirms) {
  confirm = false;
  EXPECT_FALSE(subscribe("a.*").empty());
  EXPECT_GT(history.published.size(), 1U);
}

TEST_F(HubTest, AnswersAlsoWhenTheBrokerDoesNotSayWhereATopicStands) {
  history.silent = true;
  EXPECT_NE(subscribe("t"), "");
  hub.on_event(0, event("t", 4));
  EXPECT_THAT(sink.take(), SizeIs(1));
}

TEST_F(HubTest, FillsAGapFromTheHistory) {
  subscribe("t");
  hub.on_event(0, event("t", 1));
  remembered = {event("t", 2), event("t", 3), event("t", 4)};
  hub.on_event(0, event("t", 4));
  hub.on_event(0, event("t", 5));
  EXPECT_THAT(sink.take(), SizeIs(1));  // order is kept while it asks
  EXPECT_EQ(history.asked.at(0).request.after(), 1U);
  answer_history();
  const auto frames = sink.take();
  ASSERT_THAT(frames, SizeIs(4));
  for (std::size_t i = 0; i < frames.size(); ++i) {
    EXPECT_THAT(frames[i], HasSubstr("\"offset\":" + std::to_string(i + 2)));
  }
}

TEST_F(HubTest, TellsWhatTheHistoryNoLongerHas) {
  subscribe("t");
  hub.on_event(0, event("t", 1));
  remembered = {event("t", 8), event("t", 9)};
  hub.on_event(0, event("t", 9));
  answer_history();
  const auto frames = sink.take();
  ASSERT_THAT(frames, SizeIs(4));
  EXPECT_THAT(frames[1], HasSubstr("events.lagged"));
  EXPECT_THAT(frames[1], HasSubstr(R"("topic":"t","missed":6)"));
  EXPECT_THAT(frames[2], HasSubstr("\"offset\":8"));
}

TEST_F(HubTest, AFailedHistoryIsALoss) {
  subscribe("t");
  hub.on_event(0, event("t", 1));
  hub.on_event(0, event("t", 4));
  history.asked.at(0).done(make_error(ErrorCode::kTimeout));
  const auto frames = sink.take();
  ASSERT_THAT(frames, SizeIs(3));
  EXPECT_THAT(frames[1], HasSubstr(R"("missed":2)"));
  EXPECT_THAT(frames[2], HasSubstr("\"offset\":4"));
}

TEST_F(HubTest, ANewEpochIsALossOfUnknownSizeAndThenItsOwnHistory) {
  subscribe("t");
  hub.on_event(0, event("t", 7));
  sink.take();
  epoch = "e2";
  remembered = {event("t", 1, "e2"), event("t", 2, "e2")};
  hub.on_event(0, event("t", 2, "e2"));
  EXPECT_EQ(history.asked.at(0).request.epoch(), "e2");
  EXPECT_EQ(history.asked.at(0).request.after(), 0U);
  answer_history();
  const auto frames = sink.take();
  ASSERT_THAT(frames, SizeIs(3));
  EXPECT_THAT(frames[0], HasSubstr(R"("missed":0)"));
  EXPECT_THAT(frames[1], HasSubstr(R"("epoch":"e2","offset":1)"));
  EXPECT_THAT(frames[2], HasSubstr(R"("epoch":"e2","offset":2)"));
}

TEST_F(HubTest, AReconnectionAsksForWhatWasMissed) {
  subscribe("t");
  hub.on_event(0, event("t", 1));
  sink.take();
  remembered = {event("t", 1), event("t", 2)};
  hub.on_broker_lost(0);
  hub.on_broker(0, nullptr);
  answer_history();
  EXPECT_THAT(sink.take(), ElementsAre(HasSubstr("\"offset\":2")));
  hub.on_event(0, event("t", 2));
  EXPECT_THAT(sink.take(), IsEmpty());
}

TEST_F(HubTest, AnAnswerThatIsNotAllOfTheHistoryIsAskedToGoOn) {
  subscribe("t");
  hub.on_event(0, event("t", 1));
  hub.on_event(0, event("t", 9));
  sink.take();
  v1::HistoryResponse part;
  part.set_epoch("e1");
  part.set_last(9);
  *part.add_events() = event("t", 2);
  std::exchange(history.asked, {}).at(0).done(part);
  EXPECT_THAT(sink.take(), ElementsAre(HasSubstr("\"offset\":2")));
  EXPECT_EQ(history.asked.at(0).request.after(), 2U);
  remembered = {event("t", 8), event("t", 9)};
  answer_history();
  EXPECT_THAT(sink.take(), ElementsAre(HasSubstr(R"("missed":5)"), HasSubstr("\"offset\":8"),
                                       HasSubstr("\"offset\":9")));
}

TEST_F(HubQuietTest, TheLastEventOfATopicIsMissedToo) {
  subscribe("t*");
  hub.on_event(0, event("t", 1));
  sink.take();
  remembered = {event("t", 1), event("t", 2)};
  ASSERT_TRUE(is_asked());
  EXPECT_EQ(history.asked.at(0).request.after(), 1U);
  answer_history();
  EXPECT_THAT(sink.take(), ElementsAre(HasSubstr("\"offset\":2")));
  EXPECT_TRUE(stays_quiet());
  hub.on_event(0, event("t", 3));
  remembered.push_back(event("t", 3));
  EXPECT_THAT(sink.take(), SizeIs(1));
  ASSERT_TRUE(is_asked());
  answer_history();
  EXPECT_TRUE(stays_quiet());
  EXPECT_THAT(sink.take(), IsEmpty());
}

TEST_F(HubQuietTest, IsAskedAgainWhenThereIsNoAnswer) {
  subscribe("t*");
  hub.on_event(0, event("t", 1));
  ASSERT_TRUE(is_asked());
  std::exchange(history.asked, {}).at(0).done(make_error(ErrorCode::kTimeout));
  EXPECT_TRUE(is_asked());
}

TEST_F(HubQuietTest, AGapInOneTopicCastsDoubtOnAll) {
  subscribe("*");
  hub.on_event(0, event("a", 1));
  remembered = {event("a", 1)};
  ASSERT_TRUE(is_asked());
  answer_history();
  ASSERT_TRUE(stays_quiet());
  hub.on_event(0, event("b", 1));
  hub.on_event(0, event("b", 3));
  EXPECT_EQ(history.asked.at(0).request.topic(), "b");
  EXPECT_TRUE(until([this] { return history.asked.size() == 2; }));
  EXPECT_EQ(history.asked.at(1).request.topic(), "a");
}

TEST_F(HubQuietTest, TheFirstEventOfANamedTopicIsMissedToo) {
  history.stands["t"].set_epoch("e1");
  history.stands["t"].set_offset(3);
  subscribe("t");
  hub.on_event(0, event("t", 5));
  EXPECT_THAT(sink.take(), IsEmpty());
  EXPECT_EQ(history.asked.at(0).request.after(), 3U);
  remembered = {event("t", 4), event("t", 5)};
  answer_history();
  EXPECT_THAT(sink.take(), ElementsAre(HasSubstr("\"offset\":4"), HasSubstr("\"offset\":5")));
}

TEST_F(HubQuietTest, TheOnlyEventOfANamedTopicIsMissedToo) {
  history.stands["t"].set_epoch("e1");
  subscribe("t");
  remembered = {event("t", 1)};
  ASSERT_TRUE(is_asked());
  answer_history();
  EXPECT_THAT(sink.take(), ElementsAre(HasSubstr("\"offset\":1")));
}

TEST_F(HubQuietTest, WhatIsOnItsWayWhileItIsAskedWhereATopicStandsIsGiven) {
  history.stands["t"].set_epoch("e1");
  history.stands["t"].set_offset(3);
  subscribe("t");
  for (const std::uint64_t offset : {2U, 3U, 4U}) {
    hub.on_event(0, event("t", offset));
  }
  EXPECT_THAT(sink.take(), SizeIs(3));
}

TEST_F(HubTest, ReplaysSinceAPositionAndGoesOn) {
  remembered = {event("t", 3), event("t", 4), event("t", 5)};
  v1::SubscribeRequest request;
  request.add_topics("t");
  (*request.mutable_since())["t"].set_epoch("e1");
  (*request.mutable_since())["t"].set_offset(3);
  subscribe(request, sink);
  EXPECT_EQ(last.positions().at("t").offset(), 5U);
  EXPECT_EQ(last.positions().at("t").epoch(), "e1");
  hub.on_event(0, event("t", 5));  // late: the replay had it
  hub.on_event(0, event("t", 6));
  EXPECT_THAT(sink.take(), ElementsAre(HasSubstr("\"offset\":4"), HasSubstr("\"offset\":5"),
                                       HasSubstr("\"offset\":6")));
}

TEST_F(HubTest, ReplaySinceAnOldEpochTellsTheLossFirst) {
  remembered = {event("t", 1)};
  v1::SubscribeRequest request;
  request.add_topics("t");
  (*request.mutable_since())["t"].set_epoch("e0");
  (*request.mutable_since())["t"].set_offset(9);
  subscribe(request, sink);
  EXPECT_THAT(sink.take(), ElementsAre(HasSubstr(R"("missed":0)"), HasSubstr("\"offset\":1")));
}

TEST_F(HubTest, OfTwoBrokersEachTellsOfItsOwnEvents) {
  hub.on_broker(1, std::make_unique<FakeFeed>(prefixes));
  remembered = {event("t", 4)};
  v1::SubscribeRequest request;
  request.add_topics("*");
  (*request.mutable_since())["t"].set_epoch("e1");
  (*request.mutable_since())["t"].set_offset(3);
  subscribe(request, sink);
  sink.take();
  hub.on_event(1, event("t", 1, "e2"));
  hub.on_event(0, event("t", 4));  // late: the replay had it
  hub.on_event(0, event("t", 5));
  hub.on_event(1, event("t", 2, "e2"));
  EXPECT_THAT(sink.take(), ElementsAre(HasSubstr("\"offset\":1"), HasSubstr("\"offset\":5"),
                                       HasSubstr("\"offset\":2")));
}

TEST_F(HubTest, AWorkerThatAttachesToTwoBrokersIsToldOnce) {
  hub.on_broker(1, std::make_unique<FakeFeed>(prefixes));
  subscribe("worker.*");
  hub.on_event(1, event("worker.attached", 1, "e2"));
  hub.on_event(0, event("worker.attached", 1));
  EXPECT_EQ(sink.take().size(), 1U);
  hub.on_broker_lost(0);
  hub.on_event(1, event("worker.lost", 2, "e2"));
  EXPECT_EQ(sink.take().size(), 1U);
}

TEST_F(HubTest, OnePositionCannotCoverTwoBrokers) {
  hub.on_broker(1, std::make_unique<FakeFeed>(prefixes));
  v1::SubscribeRequest request;
  request.add_topics("t");
  (*request.mutable_since())["t"].set_epoch("e1");
  (*request.mutable_since())["t"].set_offset(3);
  bool answered = false;
  hub.subscribe(sink, request, [&](const auto&) { answered = true; });
  ASSERT_TRUE(until([&] { return history.asked.size() == 2; }));
  const auto asked = std::exchange(history.asked, {});
  for (const auto& one : asked) {
    v1::HistoryResponse response;
    response.set_epoch(one.broker == 0 ? "e1" : "e2");
    response.set_last(one.broker == 0 ? 4 : 7);
    if (one.broker == 0) {
      *response.add_events() = event("t", 4);
    }
    one.done(response);
  }
  EXPECT_TRUE(answered);
  EXPECT_THAT(sink.take(), ElementsAre(HasSubstr(R"("missed":0)"), HasSubstr("\"offset\":4")));
}

TEST_F(HubTest, ASlowSubscriberIsToldHowManyItMissed) {
  subscribe("t");
  FakeSink quick;
  v1::SubscribeRequest request;
  request.add_topics("t");
  subscribe(request, quick);
  sink.waiting = 2000;
  for (std::uint64_t i = 1; i <= 5; ++i) {
    hub.on_event(0, event("t", i));
  }
  EXPECT_THAT(sink.take(), IsEmpty());
  EXPECT_THAT(quick.take(), SizeIs(5));  // the other is not held up
  sink.waiting = 0;
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (sink.frames.empty() && std::chrono::steady_clock::now() < until) {
    io.restart();
    io.run_one_for(std::chrono::milliseconds(5));
  }
  EXPECT_THAT(sink.take(), ElementsAre(HasSubstr(R"("topic":"t","missed":5)")));
  hub.drop(quick);
}

TEST_F(HubTest, EndedSubscriptionsLeaveNothingBehind) {
  const std::string id = subscribe("t");
  FakeSink other;
  EXPECT_FALSE(hub.unsubscribe(other, id));
  EXPECT_TRUE(hub.unsubscribe(sink, id));
  EXPECT_FALSE(hub.unsubscribe(sink, id));
  hub.on_event(0, event("t", 1));
  EXPECT_THAT(sink.take(), IsEmpty());
  subscribe("a");
  hub.drop(sink);
  EXPECT_THAT(prefixes, IsEmpty());
}

TEST_F(HubTest, RefusesWhatIsOutOfBounds) {
  v1::SubscribeRequest request;
  EXPECT_THAT(subscribe(request, sink), HasSubstr("topics: at least one"));
  request.add_topics("a");
  (*request.mutable_since())["b"].set_offset(1);
  EXPECT_THAT(subscribe(request, sink), HasSubstr("since"));
  request.clear_since();
  request.add_topics(std::string(300, 'x'));
  EXPECT_THAT(subscribe(request, sink), HasSubstr("topics[1]"));
  EXPECT_THAT(prefixes, IsEmpty());
}

}  // namespace
}  // namespace runbus::gateway
