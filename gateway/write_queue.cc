#include "gateway/write_queue.h"

#include <utility>

namespace runbus::gateway {

bool WriteQueue::push(std::string reply) {
  if (reply_bytes_ > 0 && reply_bytes_ + reply.size() > max_reply_bytes_) {
    return false;
  }
  reply_bytes_ += reply.size();
  if (!frames_.queue) {
    frames_.queue = std::make_unique<std::deque<Frame>>();
  }
  frames_.queue->push_back(Frame{std::move(reply), nullptr});
  return true;
}

void WriteQueue::push(std::unique_ptr<Item> item) {
  item_bytes_ += item->bytes();
  if (!frames_.queue) {
    frames_.queue = std::make_unique<std::deque<Frame>>();
  }
  frames_.queue->push_back(Frame{{}, std::move(item)});
}

std::unique_ptr<Item> WriteQueue::pop(std::string& out) {
  Frame frame = std::move(frames_.queue->front());
  frames_.queue->pop_front();
  if (frames_.queue->empty()) {
    frames_.queue.reset();
  }
  out.clear();
  if (frame.item) {
    item_bytes_ -= frame.item->bytes();
    frame.item->render(out);
  } else {
    reply_bytes_ -= frame.reply.size();
    out = std::move(frame.reply);
  }
  return std::move(frame.item);
}

void WriteQueue::clear() {
  // Destroying an item may end what it belongs to; the queue is consistent by then.
  const Frames frames = std::exchange(frames_, {});
  reply_bytes_ = 0;
  item_bytes_ = 0;
}

}  // namespace runbus::gateway
