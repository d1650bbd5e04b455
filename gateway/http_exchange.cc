#include "gateway/http_exchange.h"

#include <utility>

namespace runbus::gateway {

HttpExchange::HttpExchange(const Executor& executor, Items items, std::size_t max_reply_bytes)
    : items_(items), queue_(max_reply_bytes), wake_(executor, Clock::time_point::max()) {}

void HttpExchange::send(std::string frame) {
  answered_ = true;
  if (items_ == Items::kServerSentEvents) {
    frame = "event: response\ndata: " + std::move(frame) + "\n\n";
  }
  // There is one answer, and one reply always fits.
  queue_.push(std::move(frame));
  wake_.cancel();
}

void HttpExchange::send_item(std::unique_ptr<Item> item) {
  queue_.push(std::move(item));
  wake_.cancel();
}

Awaitable<void> HttpExchange::wait() {
  if (queue_.empty() && !aborted_) {
    co_await wake_.async_wait(kTuple);
  }
}

void HttpExchange::abort() {
  aborted_ = true;
  queue_.clear();
  wake_.cancel();
}

}  // namespace runbus::gateway
