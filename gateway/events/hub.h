#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "gateway/events/topic_log.h"
#include "gateway/sink.h"
#include "proto/support/error.h"
#include "runbus/v1/bus.pb.h"
#include "runbus/v1/gateway.pb.h"

namespace runbus::gateway {

// Where the events of one broker come from: a wire::EventSubscriber, or a fake in tests.
class EventFeed {
 public:
  virtual ~EventFeed() = default;
  virtual void subscribe(const std::string& prefix) = 0;
  virtual void unsubscribe(const std::string& prefix) = 0;
};

// What the hub asks of the bus. Brokers are numbered by main.
class HubBus {
 public:
  virtual ~HubBus() = default;
  virtual void history(std::size_t broker, const v1::HistoryRequest& request,
                       std::function<void(Result<v1::HistoryResponse>)> done) = 0;
  virtual void topics(std::size_t broker, const v1::TopicsRequest& request,
                      std::function<void(Result<v1::TopicsResponse>)> done) = 0;
  virtual Result<void> publish(std::size_t broker, const v1::Event& event) = 0;
};

struct HubOptions {
  std::size_t backlog_bytes = 1U << 20U;  // of a sink, beyond which it gets no events
  std::chrono::milliseconds probe_interval{50};
  std::chrono::milliseconds probe_timeout{2'000};
  std::chrono::milliseconds lag_tick{250};
  std::chrono::milliseconds quiet_check{500};
  std::chrono::milliseconds topics_check{2'000};
};

// Gives events to subscriptions (API.md `events.subscribe`). At most once, but a loss is never
// silent: a gap in a topic's offsets is filled from the broker's history or told as
// `events.lagged`, and so is what a slow subscriber could not be given. The last event of a topic
// shows no gap when it is missing: once the topic is quiet the broker is asked. Nor does the only
// event of a topic that nobody has named: while a subscription has a pattern, the broker is asked
// every two seconds which topics have had events. A subscription's reply goes out once every broker
// sends it events, so that what is published after the reply arrives.
class Hub {
 public:
  Hub(boost::asio::io_context& io, HubBus& bus, std::string peer_id, HubOptions options = {});
  ~Hub();
  Hub(const Hub&) = delete;
  Hub& operator=(const Hub&) = delete;

  // A broker is connected, again or for the first time; `feed` null keeps the one it has.
  void on_broker(std::size_t broker, std::unique_ptr<EventFeed> feed);
  void on_broker_lost(std::size_t broker);
  void on_event(std::size_t broker, const v1::Event& event);

  using Done = std::function<void(const Result<v1::SubscribeResponse>&)>;
  // `done` is called once, perhaps before this returns, unless the sink is dropped first. Events
  // follow it.
  void subscribe(Sink& sink, const v1::SubscribeRequest& request, Done done);
  // False when the sink has no such subscription.
  bool unsubscribe(Sink& sink, const std::string& subscription);
  // Forgets all of a sink; it may be gone afterwards.
  void drop(Sink& sink);

 private:
  static constexpr std::size_t kMaxHeldEvents = 1000;
  static constexpr std::size_t kMaxSince = 1024;
  static constexpr std::string_view kProbePrefix = "gateway.probe.";

  struct Broker {
    std::unique_ptr<EventFeed> feed;
    bool connected = false;
    std::map<std::string, TopicLog, std::less<>> topics;
    // Where bus.topics has brought us.
    std::string epoch;
    std::uint64_t events = 0;
    bool asked_for_topics = false;
  };
  struct Subscription {
    std::string id;
    Sink* sink = nullptr;  // null: ended
    std::vector<std::string> globs;
    bool has_patterns = false;
    v1::Position position;  // of one broker, before it listed what the patterns match
    bool listed = false;    // its prefixes are
    // Brokers of which all topics that it matched were known once: one that is not known has come
    // since.
    std::set<std::size_t> surveyed;
    bool started = false;
    std::deque<v1::Event> held;                   // until it has started
    std::map<std::string, v1::Position> cursors;  // what a replay has covered
    std::map<std::string, std::uint64_t> missed;

    bool matches(std::string_view topic) const;
  };
  using SubscriptionPtr = std::shared_ptr<Subscription>;
  // What a new subscription waits for.
  struct Replay {
    SubscriptionPtr subscription;
    v1::SubscribeRequest request;  // without patterns in `since`
    Done done;
    std::vector<std::string> unsure;  // something of them may be lost
    std::map<std::string, v1::HistoryResponse> histories;
    std::set<std::string> elsewhere;  // topics of which another broker has events as well
  };
  struct Probe {
    std::string topic;
    std::size_t broker = 0;
    std::chrono::steady_clock::time_point until;
    std::function<void()> done;
  };

  void add_prefix(const std::string& prefix, bool& added);
  void remove_prefix(const std::string& prefix);
  void probe_all(std::function<void()> done);
  void finish_probe(const std::string& topic);
  void probe_again();
  void replay(const std::shared_ptr<Replay>& replay);
  v1::Position place_of(const Subscription& subscription, const std::string& topic) const;
  void start(Replay& replay);
  void send_replayed(Subscription& subscription, const std::string& topic,
                     const v1::Position& since, const v1::HistoryResponse& history);
  // Whether the broker is the first of those that are connected.
  bool is_first(std::size_t broker) const;
  void fetch(std::size_t broker, const std::string& topic);
  void deliver(const v1::Event& event);
  void give(Subscription& subscription, const v1::Event& event, std::string_view members);
  void lagged(Subscription& subscription, const std::string& topic, std::uint64_t missed);
  void lagged_all(const std::string& topic, std::uint64_t missed);
  void note_missed(Subscription& subscription, const std::string& topic);
  void flush_missed(Subscription& subscription);
  void tick();
  void arm_tick();
  void ask_where_it_stands(const std::string& topic, const std::function<void()>& done);
  // hub_topics.cc
  void note_position(const SubscriptionPtr& subscription, const std::function<void()>& done);
  void resolve(const SubscriptionPtr& subscription, const v1::SubscribeRequest& request, Done done);
  void resolve_pattern(Replay& replay, const std::string& pattern, const v1::Position& since,
                       const std::map<std::size_t, v1::TopicsResponse>& answers) const;
  void survey(const SubscriptionPtr& subscription, const std::function<void()>& done);
  void ask_for_topics(std::size_t broker, bool all, const std::function<void()>& done);
  void take_topics(std::size_t broker, const v1::TopicsResponse& response);
  void check_topics();
  void arm_topics();
  bool is_wanted(std::string_view topic) const;
  bool is_new_topic(std::size_t broker, std::string_view topic) const;
  bool is_hidden(std::size_t broker, std::string_view topic) const;
  // Calls `done` once: when what it returns was called `left` times, or the patience is over.
  std::function<void()> patiently(std::function<void()> done,
                                  const std::shared_ptr<std::size_t>& left);
  TopicLog* log_of(std::size_t broker, const std::string& topic);
  void doubt_others(std::size_t broker, const std::string& topic);
  void check_quiet();
  void arm_check(bool soon = false);
  void end(Subscription& subscription);
  void sweep();

  HubBus& bus_;
  std::string peer_id_;
  HubOptions options_;
  std::map<std::size_t, Broker> brokers_;
  std::map<std::string, std::size_t> prefixes_;  // how many subscriptions want each
  std::vector<SubscriptionPtr> subscriptions_;
  int iterating_ = 0;  // ended subscriptions are removed once nothing walks over them
  std::map<std::string, Probe> probes_;
  std::uint64_t next_probe_ = 0;
  boost::asio::steady_timer probe_timer_;
  boost::asio::steady_timer tick_timer_;
  bool ticking_ = false;
  boost::asio::steady_timer check_timer_;
  bool checking_ = false;
  boost::asio::steady_timer topics_timer_;
  bool topics_armed_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace runbus::gateway
