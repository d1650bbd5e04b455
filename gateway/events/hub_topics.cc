// What a subscription with patterns matches: topics that nobody has named, of which it is known
// only by their events, or by asking the broker for them.
#include <algorithm>
#include <utility>

#include "gateway/events/glob.h"
#include "gateway/events/hub.h"

namespace runbus::gateway {
namespace {

constexpr std::size_t kMaxPrefixes = 64;  // of one question; beyond it all topics are asked for
// What every broker tells by itself of the same workers.
constexpr std::string_view kBrokersOwn = "worker.";

}  // namespace

// Not for subscribers, by way of this broker.
bool Hub::is_hidden(std::size_t index, std::string_view topic) const {
  return topic.starts_with(kProbePrefix) || (topic.starts_with(kBrokersOwn) && !is_first(index));
}

// Whether a topic that is not known has come to be since somebody follows all that are like it.
bool Hub::is_new_topic(std::size_t index, std::string_view topic) const {
  return !topic.starts_with(kBrokersOwn) &&
         std::any_of(subscriptions_.begin(), subscriptions_.end(), [&](const auto& one) {
           return one->sink != nullptr && one->surveyed.contains(index) && one->matches(topic);
         });
}

void Hub::survey(const SubscriptionPtr& subscription, const std::function<void()>& done) {
  for (const SubscriptionPtr& one : subscriptions_) {
    if (one->globs == subscription->globs) {
      subscription->surveyed.insert(one->surveyed.begin(), one->surveyed.end());
    }
  }
  const auto left = std::make_shared<std::size_t>(1);
  const auto one_done = patiently(done, left);
  for (const auto& [index, broker] : brokers_) {
    if (broker.connected && !subscription->surveyed.contains(index)) {
      ++*left;
      ask_for_topics(index, true, one_done);
    }
  }
  arm_topics();
  one_done();
}

// `all`: not only those that have had events since it was asked last.
void Hub::ask_for_topics(std::size_t index, bool all, const std::function<void()>& done) {
  Broker& broker = brokers_[index];
  std::vector<SubscriptionPtr> asking;
  std::set<std::string> prefixes;
  for (const SubscriptionPtr& one : subscriptions_) {
    if (one->sink == nullptr || !one->has_patterns) {
      continue;
    }
    asking.push_back(one);
    for (const std::string& glob : one->globs) {
      prefixes.insert(glob_prefix(glob));
    }
  }
  if (asking.empty()) {
    done();
    return;
  }
  v1::TopicsRequest request;
  if (prefixes.size() <= kMaxPrefixes && !prefixes.contains("")) {
    request.mutable_prefixes()->Add(prefixes.begin(), prefixes.end());
  }
  if (!all) {
    request.set_epoch(broker.epoch);
    request.set_after(broker.events);
  }
  bus_.topics(
      index, request,
      [this, alive = alive_, index, all, asking, done](const Result<v1::TopicsResponse>& response) {
        if (!*alive) {
          return;
        }
        if (response) {
          take_topics(index, *response);
          if (all && !response->more()) {
            for (const SubscriptionPtr& one : asking) {
              one->surveyed.insert(index);
            }
          }
        }
        done();
      });
}

void Hub::take_topics(std::size_t index, const v1::TopicsResponse& response) {
  Broker& broker = brokers_[index];
  broker.epoch = response.epoch();
  broker.events = response.events();
  for (const v1::TopicPosition& position : response.topics()) {
    const std::string& topic = position.topic();
    const bool wanted =
        std::any_of(subscriptions_.begin(), subscriptions_.end(),
                    [&](const auto& one) { return one->sink != nullptr && one->matches(topic); });
    TopicLog* const log = wanted && !is_hidden(index, topic) ? log_of(index, topic) : nullptr;
    if (log != nullptr) {
      log->begin(response.epoch(), is_new_topic(index, topic) ? position.base() : position.last());
      log->compare(response.epoch(), position.last());
    }
  }
  arm_check();
}

void Hub::arm_topics() {
  if (std::exchange(topics_armed_, true)) {
    return;
  }
  topics_timer_.expires_after(options_.topics_check);
  topics_timer_.async_wait([this](const boost::system::error_code& error) {
    if (!error) {
      topics_armed_ = false;
      check_topics();
    }
  });
}

void Hub::check_topics() {
  const bool wanted = std::any_of(subscriptions_.begin(), subscriptions_.end(),
                                  [](const auto& one) { return one->has_patterns; });
  if (!wanted) {
    return;
  }
  for (auto& [index, broker] : brokers_) {
    if (broker.connected && !std::exchange(broker.asked_for_topics, true)) {
      ask_for_topics(index, false,
                     [this, index = index] { brokers_[index].asked_for_topics = false; });
    }
  }
  arm_topics();
}

}  // namespace runbus::gateway
