#include "gateway/events/hub.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "gateway/events/glob.h"
#include "proto/support/id.h"
#include "proto/wire/transcoder.h"

namespace runbus::gateway {
namespace {

constexpr std::size_t kMaxTopics = 32;          // globs of one subscription
constexpr std::size_t kMaxSince = 64;
constexpr std::size_t kMaxTopicBytes = 256;
constexpr std::size_t kMaxTopicLogs = 4096;     // per broker; further topics go without gap detection
constexpr std::size_t kMaxHeldEvents = 1000;
constexpr std::size_t kMaxMissedTopics = 256;
constexpr std::uint64_t kProbeNames = 64;
constexpr std::string_view kProbePrefix = "gateway.probe.";

Result<void> check(const v1::SubscribeRequest& request) {
  if (request.topics().empty()) {
    return make_error(ErrorCode::kInvalidParams, "topics: at least one is needed");
  }
  if (static_cast<std::size_t>(request.topics_size()) > kMaxTopics) {
    return make_error(ErrorCode::kInvalidParams, "topics: more than 32");
  }
  if (request.since().size() > kMaxSince) {
    return make_error(ErrorCode::kInvalidParams, "since: more than 64 topics");
  }
  for (int i = 0; i < request.topics_size(); ++i) {
    if (request.topics(i).empty() || request.topics(i).size() > kMaxTopicBytes) {
      return make_error(ErrorCode::kInvalidParams,
                        "topics[" + std::to_string(i) + "]: must have 1 to 256 characters");
    }
  }
  for (const auto& [topic, position] : request.since()) {
    const bool matched = std::any_of(request.topics().begin(), request.topics().end(),
                                     [&](const std::string& glob) { return glob_match(glob, topic); });
    if (!matched || topic.size() > kMaxTopicBytes) {
      return make_error(ErrorCode::kInvalidParams, "since: has a topic that none of `topics` matches");
    }
  }
  return {};
}

}  // namespace

struct Hub::Replay {
  SubscriptionPtr subscription;
  v1::SubscribeRequest request;
  Done done;
  std::map<std::string, v1::HistoryResponse> histories;
};

bool Hub::Subscription::matches(std::string_view topic) const {
  return std::any_of(globs.begin(), globs.end(),
                     [topic](const std::string& glob) { return glob_match(glob, topic); });
}

Hub::Hub(boost::asio::io_context& io, HubBus& bus, std::string peer_id, HubOptions options)
    : bus_(bus),
      peer_id_(std::move(peer_id)),
      options_(options),
      probe_timer_(io),
      tick_timer_(io) {}

Hub::~Hub() { *alive_ = false; }

void Hub::on_broker(std::size_t index, std::unique_ptr<EventFeed> feed) {
  Broker& broker = brokers_[index];
  broker.connected = true;
  if (feed) {
    broker.feed = std::move(feed);
    for (const auto& [prefix, count] : prefixes_) {
      broker.feed->subscribe(prefix);
    }
  }
  std::vector<std::string> unsure;
  for (auto& [topic, log] : broker.topics) {
    if (log.check_again()) {
      unsure.push_back(topic);
    }
  }
  for (const std::string& topic : unsure) {
    fetch(index, topic);
  }
}

void Hub::on_broker_lost(std::size_t index) { brokers_[index].connected = false; }

void Hub::add_prefix(const std::string& prefix, bool& added) {
  if (prefixes_[prefix]++ > 0) {
    return;
  }
  added = true;
  for (auto& [index, broker] : brokers_) {
    if (broker.feed) {
      broker.feed->subscribe(prefix);
    }
  }
}

void Hub::remove_prefix(const std::string& prefix) {
  const auto found = prefixes_.find(prefix);
  if (found == prefixes_.end() || --found->second > 0) {
    return;
  }
  prefixes_.erase(found);
  for (auto& [index, broker] : brokers_) {
    if (broker.feed) {
      broker.feed->unsubscribe(prefix);
    }
  }
}

void Hub::subscribe(Sink& sink, const v1::SubscribeRequest& request, Done done) {
  const Result<void> checked = check(request);
  if (!checked) {
    done(checked.error());
    return;
  }
  auto subscription = std::make_shared<Subscription>();
  subscription->id = make_uuid();
  subscription->sink = &sink;
  subscription->globs.assign(request.topics().begin(), request.topics().end());
  subscriptions_.push_back(subscription);
  bool added = false;
  for (const std::string& glob : subscription->globs) {
    add_prefix(glob_prefix(glob), added);
  }
  if (!added) {
    replay(subscription, request, std::move(done));
    return;
  }
  probe_all([this, subscription, request, done = std::move(done)] {
    replay(subscription, request, done);
  });
}

// A SUB socket's subscription travels to the broker by itself. A topic of our own that is subscribed after the
// prefixes, and whose event comes back, shows that the broker has them.
void Hub::probe_all(std::function<void()> done) {
  auto left = std::make_shared<std::size_t>(1);
  auto one_done = [left, done = std::move(done)] {
    if (--*left == 0) {
      done();
    }
  };
  for (auto& [index, broker] : brokers_) {
    if (!broker.feed || !broker.connected) {
      continue;
    }
    // Few names, so that they do not fill the broker's history; a name in use is not taken.
    std::string topic(kProbePrefix);
    topic.append(peer_id_).append(".").append(std::to_string(next_probe_++ % kProbeNames));
    if (probes_.contains(topic)) {
      continue;
    }
    ++*left;
    broker.feed->subscribe(topic);
    probes_[topic] = Probe{topic, index, std::chrono::steady_clock::now() + options_.probe_timeout,
                           one_done};
  }
  probe_again();
  one_done();
}

void Hub::probe_again() {
  const auto now = std::chrono::steady_clock::now();
  std::vector<std::string> late;
  for (const auto& [topic, probe] : probes_) {
    if (now >= probe.until) {
      late.push_back(topic);
      continue;
    }
    v1::Event event;
    event.set_topic(topic);
    if (!bus_.publish(probe.broker, event)) {
      late.push_back(topic);
    }
  }
  for (const std::string& topic : late) {
    spdlog::warn("events: the broker does not confirm a subscription");
    finish_probe(topic);
  }
  if (!probes_.empty()) {
    probe_timer_.expires_after(options_.probe_interval);
    probe_timer_.async_wait([this](const boost::system::error_code& error) {
      if (!error) {
        probe_again();
      }
    });
  }
}

void Hub::finish_probe(const std::string& topic) {
  const auto found = probes_.find(topic);
  if (found == probes_.end()) {
    return;
  }
  const Probe probe = std::move(found->second);
  probes_.erase(found);
  if (brokers_[probe.broker].feed) {
    brokers_[probe.broker].feed->unsubscribe(probe.topic);
  }
  probe.done();
}

void Hub::replay(const SubscriptionPtr& subscription, const v1::SubscribeRequest& request,
                 Done done) {
  auto replay = std::make_shared<Replay>(Replay{subscription, request, std::move(done), {}});
  auto left = std::make_shared<std::size_t>(1);
  const auto one_done = [this, replay, left] {
    if (--*left == 0) {
      start(*replay);
    }
  };
  for (const auto& [topic, since] : request.since()) {
    v1::HistoryRequest history;
    history.set_topic(topic);
    history.set_epoch(since.epoch());
    history.set_after(since.offset());
    history.set_max_events(kMaxHeldEvents * 10);
    for (const auto& [index, broker] : brokers_) {
      if (!broker.connected) {
        continue;
      }
      ++*left;
      bus_.history(index, history,
                   [replay, one_done, alive = alive_, topic = topic,
                    since = since](const Result<v1::HistoryResponse>& response) {
                     if (!*alive) {
                       return;
                     }
                     // Of several brokers the one whose epoch the client names.
                     if (response && (!replay->histories.contains(topic) ||
                                      response->epoch() == since.epoch())) {
                       replay->histories[topic] = *response;
                     }
                     one_done();
                   });
    }
  }
  one_done();
}

void Hub::start(Replay& replay) {
  const SubscriptionPtr subscription = replay.subscription;
  if (subscription->sink == nullptr) {
    return;
  }
  v1::SubscribeResponse response;
  response.set_subscription(subscription->id);
  for (const auto& [topic, history] : replay.histories) {
    v1::Position& position = (*response.mutable_positions())[topic];
    position.set_epoch(history.epoch());
    position.set_offset(history.last());
  }
  replay.done(response);
  subscription->started = true;
  for (const auto& [topic, since] : replay.request.since()) {
    const auto history = replay.histories.find(topic);
    if (history == replay.histories.end()) {
      lagged(*subscription, topic, 0);
    } else {
      send_replayed(*subscription, topic, since, history->second);
    }
  }
  const std::deque<v1::Event> held = std::exchange(subscription->held, {});
  for (const v1::Event& event : held) {
    std::string members;
    wire::append_json_members(event, members);
    give(*subscription, event, members);
  }
}

void Hub::send_replayed(Subscription& subscription, const std::string& topic,
                        const v1::Position& since, const v1::HistoryResponse& history) {
  const bool same_epoch = history.epoch() == since.epoch();
  std::uint64_t last = same_epoch ? since.offset() : 0;
  if (!same_epoch) {
    lagged(subscription, topic, 0);
  }
  for (const v1::Event& event : history.events()) {
    if (event.offset() <= last) {
      continue;
    }
    if (event.offset() > last + 1 && same_epoch) {
      lagged(subscription, topic, event.offset() - last - 1);
    }
    last = event.offset();
    std::string members;
    wire::append_json_members(event, members);
    give(subscription, event, members);
  }
  if (same_epoch && history.last() > last) {
    lagged(subscription, topic, history.last() - last);
    last = history.last();
  }
  v1::Position& cursor = subscription.cursors[topic];
  cursor.set_epoch(history.epoch());
  cursor.set_offset(std::max(last, history.last()));
}

void Hub::on_event(std::size_t index, const v1::Event& event) {
  const std::string& topic = event.topic();
  if (topic.starts_with(kProbePrefix)) {
    finish_probe(topic);
    return;
  }
  Broker& broker = brokers_[index];
  auto found = broker.topics.find(topic);
  if (found == broker.topics.end()) {
    const bool wanted =
        std::any_of(subscriptions_.begin(), subscriptions_.end(),
                    [&](const SubscriptionPtr& one) { return one->sink && one->matches(topic); });
    if (!wanted) {
      return;
    }
    if (broker.topics.size() >= kMaxTopicLogs) {
      deliver(event);
      return;
    }
    found = broker.topics.emplace(topic, TopicLog()).first;
  }
  switch (found->second.take(event)) {
    case TopicLog::Take::kDeliver:
      deliver(event);
      break;
    case TopicLog::Take::kNeedHistory:
      fetch(index, topic);
      break;
    case TopicLog::Take::kOld:
    case TopicLog::Take::kHeld:
      break;
  }
}

void Hub::fetch(std::size_t index, const std::string& topic_name) {
  const std::string topic = topic_name;
  const auto log = brokers_[index].topics.find(topic);
  if (log == brokers_[index].topics.end()) {
    return;
  }
  bus_.history(index, log->second.history_request(topic),
               [this, alive = alive_, index, topic](const Result<v1::HistoryResponse>& response) {
                 if (!*alive) {
                   return;
                 }
                 const auto found = brokers_[index].topics.find(topic);
                 if (found == brokers_[index].topics.end()) {
                   return;
                 }
                 const TopicLog::Recovered recovered =
                     found->second.recovered(response ? &*response : nullptr);
                 if (recovered.lost) {
                   lagged_all(topic, recovered.missed);
                 }
                 for (const v1::Event& event : recovered.events) {
                   deliver(event);
                 }
               });
}

void Hub::deliver(const v1::Event& event) {
  std::string members;
  ++iterating_;
  for (std::size_t i = 0; i < subscriptions_.size(); ++i) {
    const SubscriptionPtr subscription = subscriptions_[i];
    if (subscription->sink == nullptr || !subscription->matches(event.topic())) {
      continue;
    }
    if (!subscription->started) {
      if (subscription->held.size() < kMaxHeldEvents) {
        subscription->held.push_back(event);
      } else {
        note_missed(*subscription, event.topic());
      }
      continue;
    }
    if (members.empty()) {
      wire::append_json_members(event, members);
    }
    give(*subscription, event, members);
  }
  --iterating_;
  sweep();
}

void Hub::give(Subscription& subscription, const v1::Event& event, std::string_view members) {
  if (subscription.sink == nullptr) {
    return;
  }
  const auto cursor = subscription.cursors.find(event.topic());
  if (cursor != subscription.cursors.end()) {
    if (cursor->second.epoch() == event.epoch() && event.offset() <= cursor->second.offset()) {
      return;
    }
    subscription.cursors.erase(cursor);
  }
  if (subscription.sink->backlog() > options_.backlog_bytes) {
    note_missed(subscription, event.topic());
    return;
  }
  flush_missed(subscription);
  if (subscription.sink == nullptr) {
    return;
  }
  std::string frame = R"({"jsonrpc":"2.0","method":"events.event","params":{"subscription":)";
  frame.reserve(frame.size() + members.size() + 64);
  wire::append_json_string(subscription.id, frame);
  frame.append(",").append(members).append("}}");
  subscription.sink->send(std::move(frame));
}

void Hub::lagged(Subscription& subscription, const std::string& topic, std::uint64_t missed) {
  if (subscription.sink == nullptr) {
    return;
  }
  v1::EventsLagged params;
  params.set_subscription(subscription.id);
  params.set_topic(topic);
  params.set_missed(missed);
  std::string frame = R"({"jsonrpc":"2.0","method":"events.lagged","params":)";
  wire::append_json(params, frame);
  frame.append("}");
  subscription.sink->send(std::move(frame));
}

void Hub::lagged_all(const std::string& topic, std::uint64_t missed) {
  ++iterating_;
  for (std::size_t i = 0; i < subscriptions_.size(); ++i) {
    const SubscriptionPtr subscription = subscriptions_[i];
    // One that waits for its replay learns from it.
    if (subscription->sink != nullptr && subscription->started && subscription->matches(topic)) {
      lagged(*subscription, topic, missed);
    }
  }
  --iterating_;
  sweep();
}

void Hub::note_missed(Subscription& subscription, const std::string& topic) {
  const bool known = subscription.missed.contains(topic);
  if (known || subscription.missed.size() < kMaxMissedTopics) {
    ++subscription.missed[topic];
  } else {
    ++subscription.missed["*"];
  }
  arm_tick();
}

void Hub::flush_missed(Subscription& subscription) {
  const std::map<std::string, std::uint64_t> missed = std::exchange(subscription.missed, {});
  for (const auto& [topic, count] : missed) {
    lagged(subscription, topic, count);
  }
}

void Hub::arm_tick() {
  if (ticking_) {
    return;
  }
  ticking_ = true;
  tick_timer_.expires_after(options_.lag_tick);
  tick_timer_.async_wait([this](const boost::system::error_code& error) {
    if (!error) {
      ticking_ = false;
      tick();
    }
  });
}

// Tells those who can be told again, also when no further event comes.
void Hub::tick() {
  ++iterating_;
  for (std::size_t i = 0; i < subscriptions_.size(); ++i) {
    const SubscriptionPtr subscription = subscriptions_[i];
    if (subscription->sink == nullptr || subscription->missed.empty()) {
      continue;
    }
    if (subscription->started && subscription->sink->backlog() <= options_.backlog_bytes / 2) {
      flush_missed(*subscription);
    } else {
      arm_tick();
    }
  }
  --iterating_;
  sweep();
}

bool Hub::unsubscribe(Sink& sink, const std::string& id) {
  for (const SubscriptionPtr& subscription : subscriptions_) {
    if (subscription->sink == &sink && subscription->id == id) {
      end(*subscription);
      sweep();
      return true;
    }
  }
  return false;
}

void Hub::drop(Sink& sink) {
  for (const SubscriptionPtr& subscription : subscriptions_) {
    if (subscription->sink == &sink) {
      end(*subscription);
    }
  }
  sweep();
}

void Hub::end(Subscription& subscription) {
  subscription.sink = nullptr;
  subscription.held.clear();
  for (const std::string& glob : subscription.globs) {
    remove_prefix(glob_prefix(glob));
  }
}

void Hub::sweep() {
  if (iterating_ > 0) {
    return;
  }
  const std::size_t removed = std::erase_if(
      subscriptions_, [](const SubscriptionPtr& one) { return one->sink == nullptr; });
  if (removed == 0) {
    return;
  }
  for (auto& [index, broker] : brokers_) {
    std::erase_if(broker.topics, [this](const auto& entry) {
      return std::none_of(
          subscriptions_.begin(), subscriptions_.end(),
          [&entry](const SubscriptionPtr& one) { return one->matches(entry.first); });
    });
  }
}

}  // namespace runbus::gateway
