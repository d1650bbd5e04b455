#include "broker/claims.h"

namespace runbus::broker {

void Claims::put(std::string_view call_id, std::string_view worker_id, std::uint64_t expires) {
  if (claims_.size() < kMost) {
    claims_[std::string(call_id)] = {std::string(worker_id), expires};
  }
}

std::string Claims::take(std::string_view call_id) {
  const auto found = claims_.find(call_id);
  if (found == claims_.end()) {
    return {};
  }
  std::string worker = std::move(found->second.worker);
  claims_.erase(found);
  return worker;
}

void Claims::expire(std::uint64_t now) {
  std::erase_if(claims_, [now](const auto& item) { return now >= item.second.expires; });
}

}  // namespace runbus::broker
