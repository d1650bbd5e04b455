#include "broker/parking.h"

#include <utility>

namespace runbus::broker {
namespace {

constexpr std::size_t kOverhead = 256;

std::size_t cost(const ParkedMessage& message) {
  return message.header.size() + message.body.size() + kOverhead;
}

}  // namespace

bool Parking::put(std::string_view origin, ParkedMessage message) {
  const std::size_t size = cost(message);
  if (messages_ >= max_messages_ || bytes_ + size > max_bytes_) {
    return false;
  }
  ++messages_;
  bytes_ += size;
  by_origin_[std::string(origin)].push_back(std::move(message));
  return true;
}

std::list<ParkedMessage> Parking::take(std::string_view origin) {
  const auto found = by_origin_.find(origin);
  if (found == by_origin_.end()) {
    return {};
  }
  std::list<ParkedMessage> all = std::move(found->second);
  by_origin_.erase(found);
  for (const ParkedMessage& message : all) {
    release(message);
  }
  return all;
}

std::size_t Parking::expire(std::uint64_t now) {
  const std::size_t before = messages_;
  for (auto it = by_origin_.begin(); it != by_origin_.end();) {
    std::list<ParkedMessage>& waiting = it->second;
    while (!waiting.empty() && waiting.front().expires <= now) {
      release(waiting.front());
      waiting.pop_front();
    }
    it = waiting.empty() ? by_origin_.erase(it) : std::next(it);
  }
  return before - messages_;
}

void Parking::release(const ParkedMessage& message) {
  --messages_;
  bytes_ -= cost(message);
}

}  // namespace runbus::broker
