#include "services/agent/event_loop.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>

namespace runbus::agent {

EventLoop::EventLoop() : epoll_(::epoll_create1(EPOLL_CLOEXEC)) {
  if (!epoll_) {
    throw std::system_error(errno, std::generic_category(), "epoll_create1");
  }
}

int EventLoop::run() {
  running_ = true;
  std::array<epoll_event, 64> ready{};
  while (running_) {
    const int count = ::epoll_wait(epoll_.get(), ready.data(), static_cast<int>(ready.size()),
                                   wait_milliseconds());
    if (count < 0 && errno != EINTR) {
      throw std::system_error(errno, std::generic_category(), "epoll_wait");
    }
    for (int i = 0; i < count && running_; ++i) {
      const epoll_event& event = ready[static_cast<std::size_t>(i)];
      // Looked up by id: an earlier handler of this turn may have ended this watch.
      const auto found = entries_.find(event.data.u64);
      if (found != entries_.end()) {
        const std::shared_ptr<Entry> entry = found->second;
        entry->handler(event.events);
      }
    }
    run_timers();
    run_posted();
  }
  return exit_code_;
}

void EventLoop::stop(int code) {
  running_ = false;
  exit_code_ = code;
}

void EventLoop::post(std::function<void()> task) { posted_.push_back(std::move(task)); }

int EventLoop::wait_milliseconds() const {
  if (!posted_.empty()) {
    return 0;
  }
  if (timers_.empty()) {
    return -1;
  }
  const auto left = timers_.begin()->first.first - Clock::now();
  if (left <= Clock::duration::zero()) {
    return 0;
  }
  const auto milliseconds = std::chrono::ceil<std::chrono::milliseconds>(left).count();
  return static_cast<int>(std::min<std::int64_t>(milliseconds, 60 * 60 * 1000));
}

void EventLoop::run_timers() {
  const auto now = Clock::now();
  while (running_ && !timers_.empty() && timers_.begin()->first.first <= now) {
    const auto node = timers_.extract(timers_.begin());
    node.mapped()();
  }
}

void EventLoop::run_posted() {
  std::vector<std::function<void()>> tasks;
  tasks.swap(posted_);
  for (const auto& task : tasks) {
    task();
  }
}

bool Watch::open(EventLoop& loop, int fd, std::uint32_t events,
                 std::function<void(std::uint32_t)> handler) {
  clear();
  const std::uint64_t id = loop.next_id_++;
  if (events != 0) {
    epoll_event event{};
    event.events = events;
    event.data.u64 = id;
    if (::epoll_ctl(loop.epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
      return false;
    }
  }
  auto entry = std::make_shared<EventLoop::Entry>();
  entry->fd = fd;
  entry->events = events;
  entry->handler = std::move(handler);
  loop.entries_.emplace(id, std::move(entry));
  loop_ = &loop;
  id_ = id;
  return true;
}

void Watch::set(std::uint32_t events) {
  if (loop_ == nullptr) {
    return;
  }
  EventLoop::Entry& entry = *loop_->entries_.at(id_);
  if (entry.events == events) {
    return;
  }
  epoll_event event{};
  event.events = events;
  event.data.u64 = id_;
  const int operation =
      events == 0 ? EPOLL_CTL_DEL : (entry.events == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD);
  if (::epoll_ctl(loop_->epoll_.get(), operation, entry.fd, &event) != 0) {
    // Only memory can be short here (the kernel took this descriptor before): better to end than to
    // hang.
    throw std::system_error(errno, std::generic_category(), "epoll_ctl");
  }
  entry.events = events;
}

void Watch::clear() {
  if (loop_ == nullptr) {
    return;
  }
  const auto found = loop_->entries_.find(id_);
  if (found->second->events != 0) {
    ::epoll_ctl(loop_->epoll_.get(), EPOLL_CTL_DEL, found->second->fd, nullptr);
  }
  loop_->entries_.erase(found);
  loop_ = nullptr;
}

void Timer::at(Clock::time_point when, std::function<void()> task) {
  cancel();
  key_ = {when, loop_.next_id_++};
  loop_.timers_.emplace(key_, [this, run = std::move(task)] {
    key_.second = 0;
    // Moved to the stack: `run` may destroy this timer, or set it again.
    const auto once = run;
    once();
  });
}

void Timer::cancel() {
  if (armed()) {
    loop_.timers_.erase(key_);
    key_.second = 0;
  }
}

}  // namespace runbus::agent
