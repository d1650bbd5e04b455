#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/smart_ptr/intrusive_ptr.hpp>
#include <boost/smart_ptr/intrusive_ref_counter.hpp>
#include <memory>
#include <type_traits>
#include <utility>

namespace runbus::wire {

// An executor (of the older kind, that of the Networking TS) for those who read one stream. Beast
// hands over a message that has come already by post(), which would be a turn of the loop for each,
// with a look at all sockets. With this, what a handler posts runs when the handler has returned,
// in the same turn, up to kMost times. One thread, which is the io_context's.
class TurnExecutor {
 public:
  static constexpr int kMost = 32;

  explicit TurnExecutor(boost::asio::io_context::executor_type loop)
      : loop_(std::move(loop)), turn_(new Turn) {}

  boost::asio::io_context& context() const noexcept { return loop_.context(); }
  void on_work_started() const noexcept { loop_.on_work_started(); }
  void on_work_finished() const noexcept { loop_.on_work_finished(); }

  template <class Function, class Allocator>
  void dispatch(Function&& function, const Allocator& allocator) const {
    if (loop_.running_in_this_thread()) {
      run(loop_, turn_, std::forward<Function>(function));
    } else {
      post(std::forward<Function>(function), allocator);
    }
  }

  template <class Function, class Allocator>
  void post(Function&& function, const Allocator& allocator) const {
    using Posted = TaskOf<std::decay_t<Function>>;
    if (turn_->running && turn_->left > 0 && !turn_->next) {
      --turn_->left;
      turn_->next = std::make_unique<Posted>(std::forward<Function>(function));
      return;
    }
    loop_.post(
        [loop = loop_, turn = turn_, task = Posted(std::forward<Function>(function))]() mutable {
          run(loop, turn, std::move(task.function));
        },
        allocator);
  }

  template <class Function, class Allocator>
  void defer(Function&& function, const Allocator& allocator) const {
    post(std::forward<Function>(function), allocator);
  }

  friend bool operator==(const TurnExecutor& left, const TurnExecutor& right) noexcept {
    return left.turn_ == right.turn_;
  }
  friend bool operator!=(const TurnExecutor& left, const TurnExecutor& right) noexcept {
    return !(left == right);
  }

 private:
  struct Task {
    virtual ~Task() = default;
    virtual void run() = 0;
  };
  template <class Function>
  struct TaskOf final : Task {
    template <class Other>
    explicit TaskOf(Other&& other) : function(std::forward<Other>(other)) {}
    void run() override { function(); }
    Function function;
  };
  struct Turn : boost::intrusive_ref_counter<Turn, boost::thread_unsafe_counter> {
    bool running = false;
    int left = 0;
    std::unique_ptr<Task> next;
  };

  template <class Function>
  static void run(const boost::asio::io_context::executor_type& loop,
                  boost::intrusive_ptr<Turn> turn, Function&& function) {
    if (turn->running) {
      std::forward<Function>(function)();
      return;
    }
    // Also when a handler throws: what it had posted is not lost.
    struct Over {
      const boost::asio::io_context::executor_type& loop;
      Turn& turn;
      ~Over() {
        turn.running = false;
        if (turn.next) {
          loop.post([task = std::move(turn.next)] { task->run(); }, std::allocator<void>());
        }
      }
    };
    const Over over{loop, *turn};
    turn->running = true;
    turn->left = kMost;
    std::forward<Function>(function)();
    while (const std::unique_ptr<Task> task = std::move(turn->next)) {
      task->run();
    }
  }

  boost::asio::io_context::executor_type loop_;
  boost::intrusive_ptr<Turn> turn_;
};

}  // namespace runbus::wire
