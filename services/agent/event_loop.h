#pragma once

#include <sys/epoll.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "proto/support/unique_fd.h"

// The agent's one thread: epoll, timers and work put off to the end of a turn. Level-triggered, so
// a handler takes a bounded slice and returns; what is left over makes it ready again, after
// everyone else's turn. Handlers may create and destroy watches and timers, their own too.
namespace runbus::agent {

using Clock = std::chrono::steady_clock;

class EventLoop {
 public:
  EventLoop();  // throws std::system_error

  // Until stop(). Returns the code given to it.
  int run();
  void stop(int code);

  // Runs `task` at the end of this turn, on a flat stack: for destroying what may still be on the
  // stack.
  void post(std::function<void()> task);

 private:
  friend class Watch;
  friend class Timer;
  struct Entry {
    int fd = -1;
    std::uint32_t events = 0;
    std::function<void(std::uint32_t)> handler;
  };
  using TimerKey = std::pair<Clock::time_point, std::uint64_t>;

  int wait_milliseconds() const;
  void run_timers();
  void run_posted();

  UniqueFd epoll_;
  bool running_ = false;
  int exit_code_ = 0;
  std::uint64_t next_id_ = 1;
  std::unordered_map<std::uint64_t, std::shared_ptr<Entry>> entries_;
  std::map<TimerKey, std::function<void()>> timers_;
  std::vector<std::function<void()>> posted_;
};

// Calls a handler while a descriptor is ready; ends with the object. The descriptor must outlive it
// or be forgotten with clear() first.
class Watch {
 public:
  Watch() = default;
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;
  ~Watch() { clear(); }

  // False when the kernel refuses (a regular file, no memory); errno says why.
  [[nodiscard]] bool open(EventLoop& loop, int fd, std::uint32_t events,
                          std::function<void(std::uint32_t)> handler);
  // 0 takes the descriptor out of the set, so that a hang-up does not spin the loop.
  void set(std::uint32_t events);
  void clear();
  bool active() const { return loop_ != nullptr; }

 private:
  EventLoop* loop_ = nullptr;
  std::uint64_t id_ = 0;
};

// Calls a function once, at a time; setting it again replaces it; ends with the object.
class Timer {
 public:
  explicit Timer(EventLoop& loop) : loop_(loop) {}
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  ~Timer() { cancel(); }

  void at(Clock::time_point when, std::function<void()> task);
  void after(std::chrono::milliseconds delay, std::function<void()> task) {
    at(Clock::now() + delay, std::move(task));
  }
  void cancel();
  bool armed() const { return key_.second != 0; }

 private:
  EventLoop& loop_;
  EventLoop::TimerKey key_{};
};

}  // namespace runbus::agent
