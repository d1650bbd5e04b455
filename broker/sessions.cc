#include "broker/sessions.h"

#include <algorithm>
#include <charconv>

namespace runbus::broker {
namespace {

constexpr std::size_t kMaxNodes = 4;

}  // namespace

std::uint64_t made_ms(std::string_view session) {
  constexpr std::size_t kLength = 36;
  if (session.size() != kLength || session[8] != '-' || session[13] != '-' || session[14] != '7') {
    return 0;
  }
  std::string digits(session.substr(0, 8));
  digits.append(session.substr(9, 4));
  std::uint64_t time = 0;
  const char* end = digits.data() + digits.size();
  const auto read = std::from_chars(digits.data(), end, time, 16);
  return read.ec == std::errc() && read.ptr == end ? time : 0;
}

const std::vector<NodePtr>& Sessions::find(std::string_view session) {
  static const std::vector<NodePtr> kNone;
  const auto found = entries_.find(session);
  if (found == entries_.end()) {
    return kNone;
  }
  order_.splice(order_.begin(), order_, found->second);
  std::vector<NodePtr>& nodes = found->second->nodes;
  std::erase_if(nodes, [](const NodePtr& node) { return !node->usable(); });
  return nodes;
}

void Sessions::place(std::string_view session, const NodePtr& node) {
  auto found = entries_.find(session);
  if (found == entries_.end()) {
    if (entries_.size() >= max_sessions_) {
      entries_.erase(order_.back().session);
      order_.pop_back();
    }
    order_.push_front({std::string(session), {}});
    found = entries_.emplace(order_.front().session, order_.begin()).first;
  }
  std::vector<NodePtr>& nodes = found->second->nodes;
  if (std::find(nodes.begin(), nodes.end(), node) != nodes.end()) {
    return;
  }
  if (nodes.size() == kMaxNodes) {
    nodes.erase(nodes.begin());
  }
  nodes.push_back(node);
}

}  // namespace runbus::broker
