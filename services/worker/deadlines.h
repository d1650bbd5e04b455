#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>

namespace runbus::worker {

// The deadlines of all calls on one timer. Most calls end long before their deadline, so adding and
// removing one touches the timer only when it becomes the earliest. Destroyed on the loop's thread.
class Deadlines {
 public:
  using Handle = std::multimap<std::chrono::steady_clock::time_point, std::string>::iterator;

  // `on_expired` gets the key; its handle is no longer valid then.
  Deadlines(boost::asio::io_context& io, std::function<void(const std::string& key)> on_expired);

  Handle add(std::chrono::system_clock::time_point deadline, std::string key);
  void remove(Handle handle);

 private:
  void arm();
  void expire();

  // Expires with this object: the timer's handler may be queued already when it goes.
  std::shared_ptr<int> alive_ = std::make_shared<int>(0);
  boost::asio::steady_timer timer_;
  std::function<void(const std::string&)> on_expired_;
  std::multimap<std::chrono::steady_clock::time_point, std::string> entries_;
  // When the timer fires next; max() when it is not armed.
  std::chrono::steady_clock::time_point armed_ = std::chrono::steady_clock::time_point::max();
};

}  // namespace runbus::worker
