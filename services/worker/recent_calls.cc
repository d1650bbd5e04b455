#include "services/worker/recent_calls.h"

#include <iterator>
#include <utility>

namespace runbus::worker {

void RecentCalls::add(std::shared_ptr<CallState> call, Clock::time_point now) {
  drop_old(now);
  const std::string& id = call->header().call_id();
  const std::size_t bytes = call->kept_bytes();
  bytes_ += bytes;
  const auto entry = entries_.insert(entries_.end(), Entry{std::move(call), now, bytes});
  by_id_[id] = entry;
  if (oldest_answer_ == entries_.end()) {
    oldest_answer_ = entry;
  }
  if (entries_.size() > bounds_.calls) {
    erase(entries_.begin());
  }
  for (; bytes_ > bounds_.bytes && oldest_answer_ != entries_.end(); ++oldest_answer_) {
    oldest_answer_->call->forget_answer();
    bytes_ -= std::exchange(oldest_answer_->bytes, 0);
  }
}

std::shared_ptr<CallState> RecentCalls::take(const std::string& id, Clock::time_point now) {
  drop_old(now);
  const auto found = by_id_.find(id);
  if (found == by_id_.end()) {
    return nullptr;
  }
  std::shared_ptr<CallState> call = found->second->call;
  erase(found->second);
  return call;
}

std::vector<std::string> RecentCalls::ids_since(Clock::time_point since, std::size_t link) const {
  std::vector<std::string> ids;
  for (auto entry = entries_.rbegin(); entry != entries_.rend() && entry->ended >= since; ++entry) {
    if (entry->call->link() == link) {
      ids.push_back(entry->call->header().call_id());
    }
  }
  return ids;
}

std::vector<std::shared_ptr<CallState>> RecentCalls::take_since(Clock::time_point since,
                                                                std::size_t link) {
  std::vector<std::shared_ptr<CallState>> taken;
  auto first = entries_.end();
  while (first != entries_.begin() && std::prev(first)->ended >= since) {
    --first;
  }
  while (first != entries_.end()) {
    const auto entry = first++;
    if (entry->call->link() == link) {
      taken.push_back(entry->call);
      erase(entry);
    }
  }
  return taken;
}

void RecentCalls::erase(std::list<Entry>::iterator entry) {
  if (oldest_answer_ == entry) {
    ++oldest_answer_;
  }
  bytes_ -= entry->bytes;
  by_id_.erase(entry->call->header().call_id());
  entries_.erase(entry);
}

void RecentCalls::drop_old(Clock::time_point now) {
  while (!entries_.empty() && now - entries_.front().ended > bounds_.age) {
    erase(entries_.begin());
  }
}

}  // namespace runbus::worker
