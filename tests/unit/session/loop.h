#pragma once

#include <stdlib.h>

#include <boost/asio/io_context.hpp>
#include <chrono>
#include <functional>
#include <stdexcept>
#include <string>

#include "services/session/remove_tree.h"

namespace runbus::testing {

// An event loop that a test turns until something holds, within a deadline that only a hang
// reaches.
class Loop {
 public:
  boost::asio::io_context io;

  [[nodiscard]] bool until(const std::function<bool()>& holds,
                           std::chrono::seconds limit = std::chrono::seconds(60)) {
    const auto end = std::chrono::steady_clock::now() + limit;
    while (!holds()) {
      if (std::chrono::steady_clock::now() > end) {
        return false;
      }
      io.restart();
      io.run_one_for(std::chrono::milliseconds(50));
    }
    return true;
  }
};

// A directory that goes with the object.
class TemporaryDirectory {
 public:
  explicit TemporaryDirectory(const std::string& parent = "/tmp")
      : path_(parent + "/runbus-test-XXXXXX") {
    if (::mkdtemp(path_.data()) == nullptr) {
      throw std::runtime_error("mkdtemp");
    }
  }
  ~TemporaryDirectory() { (void)session::remove_tree(path_); }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace runbus::testing
