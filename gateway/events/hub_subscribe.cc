// How a subscription begins: the broker confirms it, the history is replayed, the answer goes out,
// events follow.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <limits>
#include <set>
#include <utility>

#include "gateway/events/glob.h"
#include "gateway/events/hub.h"
#include "proto/support/id.h"
#include "proto/wire/transcoder.h"

namespace runbus::gateway {
namespace {

constexpr std::size_t kMaxTopics = 32;  // globs of one subscription
constexpr std::size_t kMaxTopicBytes = 256;
constexpr std::uint64_t kProbeNames = 64;

Result<void> check(const v1::SubscribeRequest& request, std::size_t max_since) {
  if (request.topics().empty()) {
    return make_error(ErrorCode::kInvalidParams, "topics: at least one is needed");
  }
  if (static_cast<std::size_t>(request.topics_size()) > kMaxTopics) {
    return make_error(ErrorCode::kInvalidParams, "topics: more than 32");
  }
  if (request.since().size() > max_since) {
    return make_error(ErrorCode::kInvalidParams, "since: more than 1024 topics");
  }
  for (int i = 0; i < request.topics_size(); ++i) {
    if (request.topics(i).empty() || request.topics(i).size() > kMaxTopicBytes) {
      return make_error(ErrorCode::kInvalidParams,
                        "topics[" + std::to_string(i) + "]: must have 1 to 256 characters");
    }
  }
  for (const auto& [topic, position] : request.since()) {
    const bool matched =
        std::any_of(request.topics().begin(), request.topics().end(),
                    [&topic = topic](const std::string& glob) {
                      return glob == topic || (!is_pattern(topic) && glob_match(glob, topic));
                    });
    if (!matched || topic.size() > kMaxTopicBytes) {
      return make_error(ErrorCode::kInvalidParams,
                        "since: has a topic that none of `topics` matches");
    }
  }
  return {};
}

}  // namespace

void Hub::subscribe(Sink& sink, const v1::SubscribeRequest& request, Done done) {
  const Result<void> checked = check(request, kMaxSince);
  if (!checked) {
    done(checked.error());
    return;
  }
  auto subscription = std::make_shared<Subscription>();
  subscription->id = make_uuid();
  subscription->sink = &sink;
  subscription->globs.assign(request.topics().begin(), request.topics().end());
  subscription->has_patterns =
      std::any_of(subscription->globs.begin(), subscription->globs.end(), is_pattern);
  subscriptions_.push_back(subscription);
  note_position(subscription, [this, subscription, request, done = std::move(done)] {
    if (subscription->sink == nullptr) {
      return;
    }
    bool added = false;
    for (const std::string& glob : subscription->globs) {
      add_prefix(glob_prefix(glob), added);
    }
    subscription->listed = true;
    const auto go_on = [this, subscription, request, done] {
      resolve(subscription, request, done);
    };
    if (added) {
      probe_all(go_on);
    } else {
      go_on();
    }
  });
}

// A SUB socket's subscription travels to the broker by itself. A topic of our own that is
// subscribed after the prefixes, and whose event comes back, shows that the broker has them.
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
    probes_[topic] =
        Probe{topic, index, std::chrono::steady_clock::now() + options_.probe_timeout, one_done};
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

void Hub::replay(const std::shared_ptr<Replay>& replay) {
  const SubscriptionPtr& subscription = replay->subscription;
  const v1::SubscribeRequest& request = replay->request;
  auto left = std::make_shared<std::size_t>(1);
  const auto one_done = [this, replay, left] {
    if (--*left == 0) {
      start(*replay);
    }
  };
  for (const std::string& glob : request.topics()) {
    if (!is_pattern(glob) && !request.since().contains(glob)) {
      ++*left;
      ask_where_it_stands(glob, one_done);
    }
  }
  if (subscription->has_patterns) {
    ++*left;
    survey(subscription, one_done);
  }
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
                   [this, index = index, replay, one_done, alive = alive_, topic = topic,
                    since = since](const Result<v1::HistoryResponse>& response) {
                     if (!*alive) {
                       return;
                     }
                     if (TopicLog* const log = response ? log_of(index, topic) : nullptr) {
                       log->begin(response->epoch(), response->last());
                     }
                     // Of several brokers the one whose epoch the client names.
                     const bool named = response && response->epoch() == since.epoch();
                     if (response && (named || !replay->histories.contains(topic))) {
                       replay->histories[topic] = *response;
                     }
                     if (response && !named && response->last() > 0) {
                       replay->elsewhere.insert(topic);
                     }
                     one_done();
                   });
    }
  }
  one_done();
}

// A broker that does not answer may be dying, and nobody shall wait for it.
std::function<void()> Hub::patiently(std::function<void()> done,
                                     const std::shared_ptr<std::size_t>& left) {
  const auto patience = std::make_shared<boost::asio::steady_timer>(probe_timer_.get_executor(),
                                                                    options_.probe_timeout);
  patience->async_wait(
      [left, done, patience, alive = alive_](const boost::system::error_code& error) {
        if (!error && *alive && std::exchange(*left, 0) > 0) {
          done();
        }
      });
  return [left, done = std::move(done), patience] {
    if (*left > 0 && --*left == 0) {
      patience->cancel();
      done();
    }
  };
}

// So that the first event that is missing can be missed. `done` is called once.
void Hub::ask_where_it_stands(const std::string& topic, const std::function<void()>& done) {
  const auto left = std::make_shared<std::size_t>(1);
  const auto one_done = patiently(done, left);
  v1::HistoryRequest request;
  request.set_topic(topic);
  request.set_after(std::numeric_limits<std::uint64_t>::max());
  for (const auto& [index, broker] : brokers_) {
    const auto known = broker.topics.find(topic);
    if (!broker.connected || (known != broker.topics.end() && !known->second.epoch().empty())) {
      continue;
    }
    ++*left;
    bus_.history(index, request,
                 [this, index = index, topic, one_done,
                  alive = alive_](const Result<v1::HistoryResponse>& response) {
                   if (!*alive) {
                     return;
                   }
                   if (TopicLog* const log = response ? log_of(index, topic) : nullptr) {
                     log->begin(response->epoch(), response->last());
                     arm_check();
                   }
                   one_done();
                 });
  }
  one_done();
}

// Where a topic stood before what the subscription has still to be given.
v1::Position Hub::place_of(const Subscription& subscription, const std::string& topic) const {
  v1::Position place;
  for (const auto& [index, broker] : brokers_) {
    const auto known = broker.topics.find(topic);
    if (!broker.connected || known == broker.topics.end() || known->second.epoch().empty()) {
      continue;
    }
    place.set_epoch(known->second.epoch());
    place.set_offset(known->second.last());
    for (const v1::Event& event : subscription.held) {
      if (event.topic() == topic && event.epoch() == place.epoch()) {
        place.set_offset(std::min(place.offset(), event.offset() - 1));
      }
    }
    break;
  }
  return place;
}

void Hub::start(Replay& replay) {
  const SubscriptionPtr subscription = replay.subscription;
  if (subscription->sink == nullptr) {
    return;
  }
  v1::SubscribeResponse response;
  response.set_subscription(subscription->id);
  for (const std::string& glob : subscription->globs) {
    const v1::Position position =
        is_pattern(glob) ? subscription->position : place_of(*subscription, glob);
    if (!position.epoch().empty()) {
      (*response.mutable_positions())[glob] = position;
    }
  }
  for (const auto& [topic, history] : replay.histories) {
    v1::Position& position = (*response.mutable_positions())[topic];
    position.set_epoch(history.epoch());
    position.set_offset(history.last());
  }
  replay.done(response);
  subscription->started = true;
  for (const std::string& topic : replay.unsure) {
    lagged(*subscription, topic, 0);
  }
  for (const auto& [topic, since] : replay.request.since()) {
    const auto history = replay.histories.find(topic);
    if (history == replay.histories.end()) {
      lagged(*subscription, topic, 0);
      continue;
    }
    // One position cannot say which of another broker's events the client has seen.
    if (history->second.epoch() == since.epoch() && replay.elsewhere.contains(topic)) {
      lagged(*subscription, topic, 0);
    }
    send_replayed(*subscription, topic, since, history->second);
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

}  // namespace runbus::gateway
