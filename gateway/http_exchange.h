#pragma once

#include <boost/asio/steady_timer.hpp>
#include <memory>
#include <optional>
#include <string>

#include "gateway/coroutine.h"
#include "gateway/sink.h"
#include "gateway/write_queue.h"

namespace runbus::gateway {

// The Sink of one POST /rpc: gathers its one answer, or turns items and answer into server-sent
// events. The coroutine that serves the request waits for it.
class HttpExchange final : public Sink {
 public:
  HttpExchange(const Executor& executor, Items items, std::size_t max_reply_bytes);

  Items items() const override { return items_; }
  bool persistent() const override { return false; }
  void send(std::string frame) override;
  void send_item(std::unique_ptr<Item> item) override;
  std::size_t backlog() const override { return queue_.reply_bytes(); }

  // Until there is something to write, or the client is gone.
  Awaitable<void> wait();
  // The client is gone: wait() returns.
  void abort();
  bool aborted() const { return aborted_; }
  // The answer has come, and is in the queue or was in it.
  bool answered() const { return answered_; }
  WriteQueue& queue() { return queue_; }

 private:
  Items items_;
  WriteQueue queue_;
  boost::asio::basic_waitable_timer<Clock, boost::asio::wait_traits<Clock>, Executor> wake_;
  bool answered_ = false;
  bool aborted_ = false;
};

}  // namespace runbus::gateway
