#pragma once

#include <boost/asio/io_context.hpp>
#include <functional>
#include <memory>

namespace runbus {

// block_termination_signals() on an io_context, whose one thread makes and uses this.
class TerminationSignals {
 public:
  explicit TerminationSignals(boost::asio::io_context& io);
  ~TerminationSignals();
  TerminationSignals(const TerminationSignals&) = delete;
  TerminationSignals& operator=(const TerminationSignals&) = delete;

  // Calls `callback` with the number of each signal that comes. Once.
  void on_signal(std::function<void(int)> callback);

 private:
  struct State;
  static void wait(const std::shared_ptr<State>& state);
  std::shared_ptr<State> state_;
};

}  // namespace runbus
