#pragma once

#include <cstddef>
#include <functional>
#include <list>
#include <string>
#include <string_view>
#include <unordered_map>

namespace runbus::worker {

// The sessions that live on this worker's node, as far as it knows, those used last first. Bounded:
// the one used least recently is forgotten.
class HeldSessions {
 public:
  // Ready.sessions has at most this many (bus.proto).
  static constexpr std::size_t kMax = 16'384;

  explicit HeldSessions(std::size_t most = kMax) : most_(most) {}

  // The session is used; whether it is new here.
  bool use(const std::string& session_id);
  void erase(const std::string& session_id);
  void each(const std::function<void(const std::string&)>& function) const;
  std::size_t size() const { return places_.size(); }

 private:
  std::size_t most_;
  std::list<std::string> order_;
  std::unordered_map<std::string_view, std::list<std::string>::iterator> places_;
};

}  // namespace runbus::worker
