#include "services/worker/deadlines.h"

#include <utility>

namespace runbus::worker {

Deadlines::Deadlines(boost::asio::io_context& io,
                     std::function<void(const std::string&)> on_expired)
    : timer_(io), on_expired_(std::move(on_expired)) {}

Deadlines::Handle Deadlines::add(std::chrono::system_clock::time_point deadline, std::string key) {
  const auto left = deadline - std::chrono::system_clock::now();
  const auto handle =
      entries_.emplace(std::chrono::steady_clock::now() +
                           std::chrono::duration_cast<std::chrono::steady_clock::duration>(left),
                       std::move(key));
  if (handle->first < armed_) {
    arm();
  }
  return handle;
}

void Deadlines::remove(Handle handle) { entries_.erase(handle); }

void Deadlines::arm() {
  armed_ = entries_.begin()->first;
  timer_.expires_at(armed_);
  timer_.async_wait(
      [this, alive = std::weak_ptr<int>(alive_)](const boost::system::error_code& error) {
        if (!error && !alive.expired()) {
          expire();
        }
      });
}

void Deadlines::expire() {
  armed_ = std::chrono::steady_clock::time_point::max();
  const auto now = std::chrono::steady_clock::now();
  while (!entries_.empty() && entries_.begin()->first <= now) {
    const std::string key = std::move(entries_.begin()->second);
    entries_.erase(entries_.begin());
    on_expired_(key);
  }
  if (!entries_.empty() && entries_.begin()->first < armed_) {
    arm();
  }
}

}  // namespace runbus::worker
