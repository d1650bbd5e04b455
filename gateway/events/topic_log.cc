#include "gateway/events/topic_log.h"

#include <utility>

namespace runbus::gateway {
namespace {

constexpr std::size_t kMaxHeldEvents = 1000;
constexpr std::size_t kMaxHeldBytes = 1U << 20U;
constexpr std::uint32_t kMaxHistory = 10'000;

}  // namespace

void TopicLog::begin(const std::string& epoch, std::uint64_t last) {
  if (epoch_.empty()) {
    epoch_ = epoch;
    last_ = last;
    fresh_ = true;
  }
}

bool TopicLog::check_when_quiet() {
  return std::exchange(was_quiet_, true) && !checked_ && check_again();
}

TopicLog::Take TopicLog::take(const v1::Event& event) {
  was_quiet_ = false;
  checked_ = false;
  if (std::exchange(fresh_, false) && event.epoch() == epoch_ && event.offset() <= last_) {
    last_ = event.offset() - 1;  // on its way while we asked where the topic stood
  }
  if (asking_) {
    hold(event);
    return Take::kHeld;
  }
  if (epoch_.empty()) {
    epoch_ = event.epoch();
    last_ = event.offset();
    return Take::kDeliver;
  }
  if (event.epoch() != epoch_) {
    // A new broker numbers from 1 again; what the old one had not sent is gone.
    epoch_ = event.epoch();
    last_ = 0;
    new_epoch_ = true;
  } else if (event.offset() <= last_) {
    return Take::kOld;
  }
  if (!new_epoch_ && event.offset() == last_ + 1) {
    last_ = event.offset();
    return Take::kDeliver;
  }
  asking_ = true;
  hold(event);
  return Take::kNeedHistory;
}

bool TopicLog::check_again() {
  if (asking_ || epoch_.empty()) {
    return false;
  }
  asking_ = true;
  return true;
}

v1::HistoryRequest TopicLog::history_request(const std::string& topic) const {
  v1::HistoryRequest request;
  request.set_topic(topic);
  request.set_epoch(epoch_);
  request.set_after(last_);
  request.set_max_events(kMaxHistory);
  return request;
}

TopicLog::Recovered TopicLog::recovered(const v1::HistoryResponse* response) {
  asking_ = fresh_ = false;
  Recovered out;
  if (response != nullptr) {
    if (!response->epoch().empty() && response->epoch() != epoch_) {
      epoch_ = response->epoch();
      last_ = 0;
      new_epoch_ = true;
    }
    if (last_ == 0 && !new_epoch_ && response->epoch() == epoch_) {
      last_ = response->base();  // nothing was before
    }
    for (const v1::Event& event : response->events()) {
      append(event, out);
    }
    if (!out.events.empty() && response->epoch() == epoch_ && response->last() > last_) {
      asking_ = out.more = true;  // an answer is bounded
    } else if (response->epoch() == epoch_ && response->last() > last_ && held_.empty()) {
      // The history does not reach back as far, and no later event has come yet.
      out.lost = true;
      out.missed += response->last() - last_;
      last_ = response->last();
    }
    checked_ = held_.empty() && response->epoch() == epoch_ && response->last() == last_;
  }
  if (!out.more) {
    const std::deque<v1::Event> held = std::exchange(held_, {});
    held_bytes_ = 0;
    for (const v1::Event& event : held) {
      append(event, out);
    }
  }
  if (new_epoch_) {
    out.lost = true;
    out.missed = 0;
    new_epoch_ = false;
  }
  return out;
}

void TopicLog::append(const v1::Event& event, Recovered& out) {
  if (event.epoch() != epoch_) {
    epoch_ = event.epoch();
    last_ = 0;
    new_epoch_ = true;
  }
  if (event.offset() <= last_) {
    return;
  }
  if (event.offset() > last_ + 1) {
    out.lost = true;
    out.missed += event.offset() - last_ - 1;
  }
  last_ = event.offset();
  out.events.push_back(event);
}

// Past the bound the oldest go: append() then counts them as missed.
void TopicLog::hold(const v1::Event& event) {
  held_bytes_ += event.ByteSizeLong();
  held_.push_back(event);
  while (held_.size() > kMaxHeldEvents || (held_bytes_ > kMaxHeldBytes && held_.size() > 1)) {
    held_bytes_ -= held_.front().ByteSizeLong();
    held_.pop_front();
  }
}

}  // namespace runbus::gateway
