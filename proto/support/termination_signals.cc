#include "proto/support/termination_signals.h"

#include <boost/asio/posix/stream_descriptor.hpp>
#include <utility>

#include "proto/support/signals.h"

namespace runbus {

struct TerminationSignals::State {
  explicit State(boost::asio::io_context& io)
      : fd(block_termination_signals()), descriptor(io, fd.get()) {}
  ~State() { descriptor.release(); }  // `fd` closes it
  UniqueFd fd;
  boost::asio::posix::stream_descriptor descriptor;
  std::function<void(int)> callback;
  bool open = true;
};

TerminationSignals::TerminationSignals(boost::asio::io_context& io)
    : state_(std::make_shared<State>(io)) {}

TerminationSignals::~TerminationSignals() {
  state_->open = false;
  boost::system::error_code ignored;
  state_->descriptor.cancel(ignored);
}

void TerminationSignals::on_signal(std::function<void(int)> callback) {
  state_->callback = std::move(callback);
  wait(state_);
}

void TerminationSignals::wait(const std::shared_ptr<State>& state) {
  state->descriptor.async_wait(boost::asio::posix::descriptor_base::wait_read,
                               [state](const boost::system::error_code& error) {
                                 if (error || !state->open) {
                                   return;
                                 }
                                 if (const int number = next_signal(state->fd); number != 0) {
                                   state->callback(number);
                                 }
                                 if (state->open) {
                                   wait(state);
                                 }
                               });
}

}  // namespace runbus
