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
constexpr std::string_view kNoTopic = " ";  // no topic's name begins so

}  // namespace

// Not for subscribers, by way of this broker.
bool Hub::is_hidden(std::size_t index, std::string_view topic) const {
  return topic.starts_with(kProbePrefix) || (topic.starts_with(kBrokersOwn) && !is_first(index));
}

bool Hub::is_wanted(std::string_view topic) const {
  return std::any_of(subscriptions_.begin(), subscriptions_.end(), [topic](const auto& one) {
    return one->sink != nullptr && one->matches(topic);
  });
}

// Whether a topic that is not known has come to be since somebody follows all that are like it.
bool Hub::is_new_topic(std::size_t index, std::string_view topic) const {
  return !topic.starts_with(kBrokersOwn) &&
         std::any_of(subscriptions_.begin(), subscriptions_.end(), [&](const auto& one) {
           return one->sink != nullptr && one->surveyed.contains(index) && one->matches(topic);
         });
}

// Before the subscription begins: every event that is behind this place is given to it, or can be
// asked for from here.
void Hub::note_position(const SubscriptionPtr& subscription, const std::function<void()>& done) {
  const auto first = std::find_if(brokers_.begin(), brokers_.end(),
                                  [](const auto& entry) { return entry.second.connected; });
  if (!subscription->has_patterns || first == brokers_.end()) {
    done();
    return;
  }
  const auto left = std::make_shared<std::size_t>(1);
  const auto one_done = patiently(done, left);
  v1::TopicsRequest request;
  request.add_prefixes(std::string(kNoTopic));
  bus_.topics(first->first, request,
              [subscription, one_done, alive = alive_](const Result<v1::TopicsResponse>& response) {
                if (!*alive) {
                  return;
                }
                if (response) {
                  subscription->position.set_epoch(response->epoch());
                  subscription->position.set_offset(response->events());
                }
                one_done();
              });
}

// Puts in the place of each pattern of `since` the topics that have had events since then.
void Hub::resolve(const SubscriptionPtr& subscription, const v1::SubscribeRequest& request,
                  Done done) {
  auto replay =
      std::make_shared<Replay>(Replay{subscription, request, std::move(done), {}, {}, {}});
  replay->request.clear_since();
  using Answers = std::map<std::string, std::map<std::size_t, v1::TopicsResponse>>;
  const auto answers = std::make_shared<Answers>();
  const auto left = std::make_shared<std::size_t>(1);
  const auto one_done = patiently(
      [this, alive = alive_, replay, answers, request] {
        if (!*alive) {
          return;
        }
        for (const auto& [pattern, of_brokers] : *answers) {
          resolve_pattern(*replay, pattern, request.since().at(pattern), of_brokers);
        }
        this->replay(replay);
      },
      left);
  for (const auto& [topic, since] : request.since()) {
    if (!is_pattern(topic)) {
      (*replay->request.mutable_since())[topic] = since;
      continue;
    }
    (*answers)[topic];
    v1::TopicsRequest ask;
    ask.add_prefixes(glob_prefix(topic));
    ask.set_epoch(since.epoch());
    ask.set_after(since.offset());
    for (const auto& [index, broker] : brokers_) {
      if (broker.connected) {
        ++*left;
        bus_.topics(index, ask,
                    [answers, one_done, index = index,
                     topic = topic](const Result<v1::TopicsResponse>& response) {
                      if (response) {
                        (*answers)[topic][index] = *response;
                      }
                      one_done();
                    });
      }
    }
  }
  one_done();
}

// One position cannot say which of another broker's events the client has seen.
void Hub::resolve_pattern(Replay& replay, const std::string& pattern, const v1::Position& since,
                          const std::map<std::size_t, v1::TopicsResponse>& answers) const {
  const auto named = std::find_if(answers.begin(), answers.end(), [&](const auto& entry) {
    return entry.second.epoch() == since.epoch();
  });
  bool sure = named != answers.end();
  if (!sure && answers.size() != 1) {
    replay.unsure.push_back(pattern);
    return;
  }
  const std::size_t index = sure ? named->first : answers.begin()->first;
  auto& topics = *replay.request.mutable_since();
  for (const auto& [broker, answer] : answers) {
    sure = sure && !answer.more();
    for (const v1::TopicPosition& position : answer.topics()) {
      const std::string& topic = position.topic();
      if (!glob_match(pattern, topic) || topic.starts_with(kProbePrefix)) {
        continue;
      }
      if (broker != index) {
        sure = sure && topic.starts_with(kBrokersOwn);
        continue;
      }
      if (topics.contains(topic)) {
        continue;
      }
      if (static_cast<std::size_t>(topics.size()) >= kMaxSince) {
        sure = false;
        break;
      }
      const bool same_epoch = answer.epoch() == since.epoch();
      topics[topic].set_epoch(answer.epoch());
      topics[topic].set_offset(same_epoch ? position.before() : position.base());
      if (same_epoch && position.forgotten()) {
        replay.unsure.push_back(topic);
      }
    }
  }
  if (!sure) {
    replay.unsure.push_back(pattern);
  }
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
    const bool followed = is_wanted(topic) && !is_hidden(index, topic);
    TopicLog* const log = followed ? log_of(index, topic) : nullptr;
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
