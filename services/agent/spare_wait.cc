#include "services/agent/spare_wait.h"

#include <utility>

namespace runbus::agent {

void SpareWait::begin(Queue& queue, std::chrono::milliseconds patience, std::function<void()> go) {
  cancel();
  queue.push_back(this);
  queue_ = &queue;
  go_ = std::move(go);
  call_after(patience);
}

void SpareWait::wake() {
  leave();
  call_after(std::chrono::milliseconds(0));
}

void SpareWait::cancel() {
  leave();
  timer_.cancel();
  go_ = nullptr;
}

void SpareWait::leave() {
  if (Queue* const queue = std::exchange(queue_, nullptr)) {
    queue->remove(this);
  }
}

void SpareWait::call_after(std::chrono::milliseconds delay) {
  timer_.after(delay, [this] {
    leave();
    // It may destroy this.
    const auto go = std::exchange(go_, nullptr);
    go();
  });
}

}  // namespace runbus::agent
