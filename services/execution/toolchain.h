#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/thread_pool.hpp>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "services/execution/languages.h"

namespace runbus::execution {

// Which languages of the table work on this node. Every row's probe is run once, a few at a time,
// in a pool of its own; each has ten seconds. Loop thread, save what the pool does.
class Toolchain {
 public:
  // `rootfs`: an image's directory in which the tools are looked for; they are not run then, and
  // versions stay unknown. Empty: the node's own.
  Toolchain(boost::asio::io_context& io, std::vector<Language> table, std::string rootfs);
  ~Toolchain();
  Toolchain(const Toolchain&) = delete;
  Toolchain& operator=(const Toolchain&) = delete;

  // Calls back once it is known what works: at once (from the loop) or later.
  void when_known(std::function<void()> callback);

  bool known() const { return open_ == 0; }

  // The languages that work, in the table's order. Empty until known.
  const std::vector<Language>& languages() const { return available_; }
  // By name or alias, in any case; null when it does not work here.
  const Language* find(std::string_view name) const;

 private:
  void probed(std::size_t row, bool works, std::string version);

  boost::asio::io_context& io_;
  std::vector<Language> table_;
  std::vector<bool> works_;
  std::size_t open_ = 0;
  std::vector<Language> available_;
  std::vector<std::function<void()>> waiting_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  boost::asio::thread_pool pool_;
};

// Runs a program of kToolPath to its end, with a bound on time and output; true when it exited with
// 0. Any thread.
bool probe_tool(const std::vector<std::string>& argv, std::string& output);

// "3.11.2" out of "Python 3.11.2 (main)"; empty without a number that has a dot.
std::string find_version(std::string_view text);

}  // namespace runbus::execution
