#include "gateway/events/hub.h"

#include <algorithm>
#include <utility>

#include "gateway/events/glob.h"
#include "proto/wire/transcoder.h"

namespace runbus::gateway {
namespace {

constexpr std::size_t kMaxTopicLogs = 4096;  // per broker; further topics go without gap detection
constexpr std::size_t kMaxMissedTopics = 256;
constexpr int kMaxChecks = 64;  // histories asked for at once
constexpr int kSoon = 25;       // when there are more, that much sooner than usual

}  // namespace

bool Hub::Subscription::matches(std::string_view topic) const {
  return std::any_of(globs.begin(), globs.end(),
                     [topic](const std::string& glob) { return glob_match(glob, topic); });
}

Hub::Hub(boost::asio::io_context& io, HubBus& bus, std::string peer_id, HubOptions options)
    : bus_(bus),
      peer_id_(std::move(peer_id)),
      options_(options),
      probe_timer_(io),
      tick_timer_(io),
      check_timer_(io),
      topics_timer_(io) {}

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
  ask_for_topics(index, true, [] {});
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

bool Hub::is_first(std::size_t index) const {
  const auto first = std::find_if(brokers_.begin(), brokers_.end(),
                                  [](const auto& entry) { return entry.second.connected; });
  return first == brokers_.end() || first->first == index;
}

void Hub::on_event(std::size_t index, const v1::Event& event) {
  const std::string& topic = event.topic();
  if (topic.starts_with(kProbePrefix)) {
    finish_probe(topic);
    return;
  }
  if (is_hidden(index, topic)) {
    return;
  }
  if (!brokers_[index].topics.contains(topic) && !is_wanted(topic)) {
    return;
  }
  TopicLog* const log = log_of(index, topic);
  if (log == nullptr) {
    deliver(event);
    return;
  }
  if (log->epoch().empty() && is_new_topic(index, topic)) {
    log->begin(event.epoch(), 0);
  }
  arm_check();
  switch (log->take(event)) {
    case TopicLog::Take::kDeliver:
      deliver(event);
      break;
    case TopicLog::Take::kNeedHistory:
      doubt_others(index, topic);
      fetch(index, topic);
      break;
    case TopicLog::Take::kOld:
    case TopicLog::Take::kHeld:
      break;
  }
}

// Null: there are too many.
TopicLog* Hub::log_of(std::size_t index, const std::string& topic) {
  auto& topics = brokers_[index].topics;
  auto found = topics.find(topic);
  if (found == topics.end()) {
    if (topics.size() >= kMaxTopicLogs) {
      return nullptr;
    }
    found = topics.emplace(topic, TopicLog()).first;
  }
  return &found->second;
}

void Hub::doubt_others(std::size_t index, const std::string& topic) {
  for (auto& [name, log] : brokers_[index].topics) {
    if (name != topic) {
      log.doubt();
    }
  }
  arm_check();
}

void Hub::arm_check(bool soon) {
  if (std::exchange(checking_, true)) {
    return;
  }
  check_timer_.expires_after(soon ? options_.quiet_check / kSoon : options_.quiet_check);
  check_timer_.async_wait([this](const boost::system::error_code& error) {
    if (!error) {
      checking_ = false;
      check_quiet();
    }
  });
}

void Hub::check_quiet() {
  std::vector<std::pair<std::size_t, std::string>> unsure;
  bool left = false;
  for (auto& [index, broker] : brokers_) {
    for (auto& [topic, log] : broker.topics) {
      if (log.is_settled() || !broker.connected) {
        continue;
      }
      left = true;
      if (unsure.size() < kMaxChecks && log.check_when_quiet()) {
        unsure.emplace_back(index, topic);
      }
    }
  }
  if (left) {
    arm_check(unsure.size() == kMaxChecks);
  }
  for (const auto& [index, topic] : unsure) {
    fetch(index, topic);
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
                 if (recovered.lost || !recovered.events.empty()) {
                   doubt_others(index, topic);
                 }
                 for (const v1::Event& event : recovered.events) {
                   deliver(event);
                 }
                 if (recovered.more) {
                   fetch(index, topic);
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
    // An event of another broker says nothing about this one's.
    if (cursor->second.epoch() == event.epoch()) {
      if (event.offset() <= cursor->second.offset()) {
        return;
      }
      subscription.cursors.erase(cursor);
    }
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
  if (std::exchange(subscription.listed, false)) {
    for (const std::string& glob : subscription.globs) {
      remove_prefix(glob_prefix(glob));
    }
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
