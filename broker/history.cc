#include "broker/history.h"

#include <algorithm>
#include <utility>

namespace runbus::broker {
namespace {

constexpr std::uint32_t kMaxAnswerEvents = 1024;
constexpr std::size_t kMaxAnswerBytes = 8U << 20U;
constexpr int kMaxAnswerTopics = 1024;
// What a remembered event costs beside its bytes.
constexpr std::size_t kOverhead = 128;

}  // namespace

History::History(std::string epoch, const CoreOptions& options)
    : epoch_(std::move(epoch)),
      max_events_(std::max<std::size_t>(options.history_events, 1)),
      max_bytes_(options.history_bytes),
      max_topics_(std::max<std::size_t>(options.max_topics, 1)) {}

const std::string& History::append(v1::Event& event) {
  Topic& known = topic(event.topic());
  event.set_epoch(epoch_);
  event.set_offset(++known.last);
  known.written = ++events_;
  if (known.records.size() >= max_events_) {
    forget_oldest(known);
  }
  records_.push_back({&known, known.last, events_, event.SerializeAsString()});
  known.records.push_back(std::prev(records_.end()));
  bytes_ += records_.back().event.size() + kOverhead;
  while (bytes_ > max_bytes_ && records_.size() > 1) {
    forget_oldest(*records_.front().topic);
  }
  return records_.back().event;
}

v1::HistoryResponse History::read(const v1::HistoryRequest& request) const {
  v1::HistoryResponse response;
  response.set_epoch(epoch_);
  const auto found = topics_.find(request.topic());
  if (found == topics_.end()) {
    return response;
  }
  const Topic& known = found->second;
  response.set_last(known.last);
  response.set_base(known.base);
  const std::uint64_t after =
      request.epoch().empty() || request.epoch() == epoch_ ? request.after() : 0;
  const std::uint32_t limit = request.max_events() == 0
                                  ? kMaxAnswerEvents
                                  : std::min(request.max_events(), kMaxAnswerEvents);
  auto next = std::upper_bound(
      known.records.begin(), known.records.end(), after,
      [](std::uint64_t offset, const auto& record) { return offset < record->offset; });
  std::size_t bytes = 0;
  for (; next != known.records.end() && response.events_size() < static_cast<int>(limit); ++next) {
    bytes += (*next)->event.size();
    if (bytes > kMaxAnswerBytes) {
      break;
    }
    response.add_events()->ParseFromString((*next)->event);
  }
  return response;
}

v1::TopicsResponse History::list(const v1::TopicsRequest& request) const {
  v1::TopicsResponse response;
  response.set_epoch(epoch_);
  response.set_events(events_);
  const std::uint64_t after = request.epoch() == epoch_ ? request.after() : 0;
  const auto& prefixes = request.prefixes();
  for (const Topic* topic : recent_) {
    if (topic->written <= after) {
      break;  // nor have those behind it
    }
    const bool asked = prefixes.empty() ||
                       std::any_of(prefixes.begin(), prefixes.end(), [topic](const auto& prefix) {
                         return topic->name.starts_with(prefix);
                       });
    if (!asked) {
      continue;
    }
    if (response.topics_size() == kMaxAnswerTopics) {
      response.set_more(true);
      break;
    }
    v1::TopicPosition& position = *response.add_topics();
    position.set_topic(topic->name);
    position.set_base(topic->base);
    position.set_last(topic->last);
    const auto& records = topic->records;
    const auto since = std::upper_bound(
        records.begin(), records.end(), after,
        [](std::uint64_t number, const auto& record) { return number < record->number; });
    if (since != records.begin()) {
      position.set_before((*std::prev(since))->offset);
    } else {
      position.set_before(records.empty() ? topic->last : (*since)->offset - 1);
      position.set_forgotten(position.before() > topic->base);
    }
  }
  return response;
}

History::Topic& History::topic(const std::string& name) {
  if (const auto found = topics_.find(name); found != topics_.end()) {
    recent_.splice(recent_.begin(), recent_, found->second.place);
    return found->second;
  }
  if (topics_.size() >= max_topics_) {
    Topic& stale = *recent_.back();
    floor_ = std::max(floor_, stale.last);
    while (!stale.records.empty()) {
      forget_oldest(stale);
    }
    recent_.pop_back();
    topics_.erase(std::string(stale.name));
  }
  Topic& fresh = topics_[name];
  fresh.name = name;
  fresh.base = fresh.last = floor_;
  recent_.push_front(&fresh);
  fresh.place = recent_.begin();
  return fresh;
}

void History::forget_oldest(Topic& topic) {
  const auto oldest = topic.records.front();
  topic.records.pop_front();
  bytes_ -= oldest->event.size() + kOverhead;
  records_.erase(oldest);
}

}  // namespace runbus::broker
