#pragma once

#include <chrono>
#include <functional>
#include <list>

#include "services/agent/event_loop.h"

namespace runbus::agent {

// A run that waits for a spare that is being made: a start from nothing beside that would take
// longer and the processor from it. Ends with the object.
class SpareWait {
 public:
  using Queue = std::list<SpareWait*>;

  explicit SpareWait(EventLoop& loop) : timer_(loop) {}
  ~SpareWait() { cancel(); }
  SpareWait(const SpareWait&) = delete;
  SpareWait& operator=(const SpareWait&) = delete;

  // Waits in `queue`, whose owner wakes all before it goes. `go` is called once, from the loop,
  // when woken or after `patience`.
  void begin(Queue& queue, std::chrono::milliseconds patience, std::function<void()> go);
  void wake();
  void cancel();
  bool waiting() const { return timer_.armed(); }

 private:
  void leave();
  void call_after(std::chrono::milliseconds delay);

  Queue* queue_ = nullptr;  // it is in there
  std::function<void()> go_;
  Timer timer_;
};

}  // namespace runbus::agent
