#pragma once

#include <chrono>
#include <cstddef>
#include <list>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "services/worker/call_state.h"

namespace runbus::worker {

// The calls that ended lately, so that a CALL that comes again is answered again instead of being
// run again. Bounded in number, age and bytes; past the bytes the oldest answers are forgotten, but
// not that they were given.
class RecentCalls {
 public:
  using Clock = std::chrono::steady_clock;
  struct Bounds {
    std::size_t calls = 4096;
    std::size_t bytes = 8U << 20U;
    std::chrono::seconds age{60};
  };

  RecentCalls() = default;
  explicit RecentCalls(Bounds bounds) : bounds_(bounds) {}

  void add(std::shared_ptr<CallState> call, Clock::time_point now = Clock::now());
  // Removes and returns the call of this id, or null.
  std::shared_ptr<CallState> take(const std::string& id, Clock::time_point now = Clock::now());

  // The ids of those of the link that ended at `since` or later.
  std::vector<std::string> ids_since(Clock::time_point since, std::size_t link) const;

  // Removes and returns those of the link that ended at `since` or later, oldest first.
  std::vector<std::shared_ptr<CallState>> take_since(Clock::time_point since, std::size_t link);

  std::size_t size() const { return entries_.size(); }
  std::size_t bytes() const { return bytes_; }

 private:
  struct Entry {
    std::shared_ptr<CallState> call;
    Clock::time_point ended;
    std::size_t bytes = 0;
  };
  void erase(std::list<Entry>::iterator entry);
  void drop_old(Clock::time_point now);

  Bounds bounds_;
  std::list<Entry> entries_;  // oldest first
  std::list<Entry>::iterator oldest_answer_ =
      entries_.end();  // before it all answers are forgotten
  // By the id in the call's own header.
  std::unordered_map<std::string_view, std::list<Entry>::iterator> by_id_;
  std::size_t bytes_ = 0;
};

}  // namespace runbus::worker
