#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "broker/state.h"

// Which nodes a session lives on. Most services of a session run on one node; a service that this
// node does not have (storage) may have taken its calls elsewhere, so a session has a short list,
// the oldest node first. Bounded: the session that was used least recently is forgotten, and placed
// anew when it calls again.
namespace runbus::broker {

// When a session was made whose id is a UUIDv7, in milliseconds since 1970 UTC; 0 for other ids.
std::uint64_t made_ms(std::string_view session);

class Sessions {
 public:
  explicit Sessions(std::size_t max_sessions) : max_sessions_(max_sessions) {}

  // The nodes of the session, without those that are dead or about to lose their last worker; empty
  // when it has none. Counts as a use. Valid until the next call of a function of this class.
  const std::vector<NodePtr>& find(std::string_view session);

  // The session has been given to the node.
  void place(std::string_view session, const NodePtr& node);

  std::size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    std::string session;
    std::vector<NodePtr> nodes;
  };

  std::size_t max_sessions_;
  std::list<Entry> order_;  // used last, first
  std::unordered_map<std::string_view, std::list<Entry>::iterator> entries_;
};

}  // namespace runbus::broker
