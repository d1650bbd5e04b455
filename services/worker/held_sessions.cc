#include "services/worker/held_sessions.h"

namespace runbus::worker {

bool HeldSessions::use(const std::string& session_id) {
  if (const auto known = places_.find(session_id); known != places_.end()) {
    order_.splice(order_.begin(), order_, known->second);
    return false;
  }
  if (places_.size() >= most_) {
    places_.erase(order_.back());
    order_.pop_back();
  }
  order_.push_front(session_id);
  places_.emplace(order_.front(), order_.begin());
  return true;
}

void HeldSessions::erase(const std::string& session_id) {
  const auto known = places_.find(session_id);
  if (known == places_.end()) {
    return;
  }
  const auto place = known->second;
  places_.erase(known);
  order_.erase(place);
}

void HeldSessions::each(const std::function<void(const std::string&)>& function) const {
  for (const std::string& session_id : order_) {
    function(session_id);
  }
}

}  // namespace runbus::worker
