#pragma once

#include <cstddef>
#include <utility>
#include <vector>

namespace runbus {

// A queue in one piece of memory: an empty one has none, where an empty std::deque has half a
// kilobyte.
template <class T>
class Fifo {
 public:
  bool empty() const { return first_ == items_.size(); }
  std::size_t size() const { return items_.size() - first_; }
  T& operator[](std::size_t index) { return items_[first_ + index]; }
  T& front() { return items_[first_]; }
  T& back() { return items_.back(); }
  auto begin() { return items_.begin() + static_cast<std::ptrdiff_t>(first_); }
  auto begin() const { return items_.begin() + static_cast<std::ptrdiff_t>(first_); }
  auto end() { return items_.end(); }
  auto end() const { return items_.end(); }

  void push_back(T item) { items_.push_back(std::move(item)); }
  void pop_back() {
    items_.pop_back();
    if (empty()) {
      clear();
    }
  }
  void pop_front() {
    front() = T();
    if (++first_ == items_.size()) {
      clear();
    } else if (first_ >= kFewest && first_ * 2 >= items_.size()) {
      items_.erase(items_.begin(), begin());
      first_ = 0;
    }
  }
  void clear() {
    items_.clear();
    first_ = 0;
  }

 private:
  static constexpr std::size_t kFewest = 32;  // that are worth moving the others for

  std::vector<T> items_;
  std::size_t first_ = 0;
};

}  // namespace runbus
