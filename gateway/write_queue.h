#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <string>

#include "gateway/sink.h"

namespace runbus::gateway {

// Frames that wait for one connection, in order. Replies are bounded in bytes here; items by the
// credit of their streams, and they stay unrendered until their turn. The age bound is the
// connection's: it knows when the socket last took something.
class WriteQueue {
 public:
  explicit WriteQueue(std::size_t max_reply_bytes) : max_reply_bytes_(max_reply_bytes) {}

  // False, and nothing is queued, when more replies would wait than may. One reply always fits by
  // itself.
  bool push(std::string reply);
  void push(std::unique_ptr<Item> item);

  bool empty() const { return frames_.empty(); }
  std::size_t reply_bytes() const { return reply_bytes_; }
  std::size_t item_bytes() const { return item_bytes_; }

  // Puts the first frame's text into `out` (empty for an item that rendered nothing). The item, if
  // it was one, is to be told once it has been delivered.
  std::unique_ptr<Item> pop(std::string& out);
  void clear();

 private:
  struct Frame {
    std::string reply;
    std::unique_ptr<Item> item;
  };
  std::size_t max_reply_bytes_;
  std::size_t reply_bytes_ = 0;
  std::size_t item_bytes_ = 0;
  // Null while nothing waits: an empty deque alone is half a kilobyte for each idle connection.
  struct Frames {
    std::unique_ptr<std::deque<Frame>> queue;
    bool empty() const { return !queue || queue->empty(); }
  };
  Frames frames_;
};

}  // namespace runbus::gateway
