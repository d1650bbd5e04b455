#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "runbus/v1/bus.pb.h"

namespace runbus::gateway {

// Where one topic of one broker stands: puts its events in order, and says when some are missing.
// Pure state, no input or output.
class TopicLog {
 public:
  enum class Take {
    kDeliver,      // the next one
    kOld,          // seen already
    kNeedHistory,  // held back: some before it are missing; ask for history_request()
    kHeld,         // held back: history has been asked for
  };

  // What the answer to a history request means for subscribers: first the loss, then the events.
  struct Recovered {
    bool more = false;  // the history goes on: ask once more
    bool lost = false;
    std::uint64_t missed = 0;  // 0 with `lost`: not known
    std::vector<v1::Event> events;
  };

  // Where the topic stood when somebody began to follow it, unless something is known already: what
  // comes after that is missed if it does not arrive.
  void begin(const std::string& epoch, std::uint64_t last);
  // Places an event. kNeedHistory and kHeld keep a copy.
  Take take(const v1::Event& event);
  // Whether history must be asked for because nothing has come since this was asked last and it is
  // not known that nothing should have: behind the last event that arrived, none shows a gap.
  bool check_when_quiet();
  // Another topic's events were lost on their way, so this one's may have been.
  void doubt() { checked_ = false; }
  // The broker has said where the topic stands: whether what arrived is all.
  void compare(const std::string& epoch, std::uint64_t last) {
    checked_ = held_.empty() && epoch == epoch_ && last <= last_;
  }
  // Nothing can be missing, as far as is known.
  bool is_settled() const { return checked_ || epoch_.empty(); }
  // After a reconnection: whether history must be asked for, to learn what was missed.
  bool check_again();
  // For the topic that the caller knows.
  v1::HistoryRequest history_request(const std::string& topic) const;
  // `response` null: it failed, and what was held is delivered after a loss.
  Recovered recovered(const v1::HistoryResponse* response);

  std::uint64_t last() const { return last_; }
  const std::string& epoch() const { return epoch_; }

 private:
  void hold(const v1::Event& event);
  void append(const v1::Event& event, Recovered& out);

  std::string epoch_;
  std::uint64_t last_ = 0;
  bool new_epoch_ = false;  // what went before is lost, and subscribers have not been told
  bool asking_ = false;
  bool fresh_ = false;     // nothing has come since begin()
  bool checked_ = false;   // the history ended where this does
  bool was_quiet_ = true;  // nothing has come since check_when_quiet()
  std::deque<v1::Event> held_;
  std::size_t held_bytes_ = 0;
};

}  // namespace runbus::gateway
