#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gateway/bus/bus_client.h"

namespace runbus::gateway {

// What /health says: asks the bus at most every few seconds, however often it is asked, and waits
// for the bus no longer than a second.
class Health {
 public:
  Health(boost::asio::io_context& io, BusClient& bus);
  ~Health();
  Health(const Health&) = delete;
  Health& operator=(const Health&) = delete;

  // Calls `done` with {status, version, workers, enforced}: "ok" when calls can be made, else
  // "unavailable"; `workers` and `enforced` are null while they are not known (no broker; no
  // session yet).
  void report(std::function<void(std::string)> done);
  bool ready() const { return bus_.ready(); }

 private:
  void refresh();
  void arrived();
  void answer();
  std::string text() const;

  BusClient& bus_;
  boost::asio::steady_timer timer_;
  std::chrono::steady_clock::time_point asked_;
  int pending_ = 0;
  bool late_ = false;  // the bus takes longer than anyone waits
  std::optional<std::size_t> workers_;
  std::optional<std::map<std::string, std::string>> enforced_;
  std::vector<std::function<void(std::string)>> waiting_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

// The pages of `/`: for people, and for a client that asks for JSON.
std::string root_page();
std::string root_json();

}  // namespace runbus::gateway
