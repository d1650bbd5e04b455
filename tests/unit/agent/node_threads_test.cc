#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <filesystem>
#include <functional>
#include <iterator>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "services/agent/node/threads.h"

// Threads over a fork, and the condition variables that make it possible. This program stands
// before the C library as the module does in Node.js: all threads here are of that kind.
namespace runbus::agent {
namespace {

using std::chrono::milliseconds;

// As Node.js has them: workers that sleep until there is a task, and end when there will be none.
class Pool {
 public:
  explicit Pool(int workers) {
    for (int i = 0; i < workers; ++i) {
      threads_.emplace_back([this] { work(); });
    }
  }
  void post(std::function<void()> task) {
    const std::lock_guard<std::mutex> lock(mutex_);
    tasks_.push_back(std::move(task));
    some_.notify_one();
  }
  void stop() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stopped_ = true;
    }
    some_.notify_all();
    for (std::thread& thread : threads_) {
      thread.join();
    }
  }

 private:
  void work() {
    for (;;) {
      std::unique_lock<std::mutex> lock(mutex_);
      some_.wait(lock, [this] { return stopped_ || !tasks_.empty(); });
      if (tasks_.empty()) {
        return;
      }
      const std::function<void()> task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
    }
  }

  std::mutex mutex_;
  std::condition_variable some_;
  std::deque<std::function<void()>> tasks_;
  bool stopped_ = false;
  std::vector<std::thread> threads_;
};

constexpr int kTasks = 2000;

// Whether so many tasks were each done once.
bool works(Pool& pool) {
  std::mutex mutex;
  std::condition_variable all;
  int done = 0;
  std::array<int, kTasks> times{};
  for (int i = 0; i < kTasks; ++i) {
    pool.post([&, i] {
      const std::lock_guard<std::mutex> lock(mutex);
      ++times.at(static_cast<std::size_t>(i));
      if (++done == kTasks) {
        all.notify_one();
      }
    });
  }
  std::unique_lock<std::mutex> lock(mutex);
  if (!all.wait_for(lock, std::chrono::seconds(20), [&] { return done == kTasks; })) {
    return false;
  }
  return std::count(times.begin(), times.end(), 1) == kTasks;
}

// What `child` returned, in a fork; 99 when it did not come to an end.
int in_a_child(const std::function<int()>& child) {
  settle_threads();
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::alarm(60);
    ::_exit(child());
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 99;
}

TEST(NodeThreads, GoOnInEachChild) {
  Pool pool(4);
  ASSERT_TRUE(works(pool));
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(in_a_child([&pool] {
                inherit_threads();
                const bool good = works(pool);
                pool.stop();
                return good ? 0 : 1;
              }),
              0);
  }
  EXPECT_TRUE(works(pool)) << "the parent's are as they were";
  pool.stop();
}

TEST(NodeThreads, AChildOfAChildHasThemToo) {
  Pool pool(2);
  EXPECT_EQ(in_a_child([&pool] {
              return in_a_child([&pool] {
                inherit_threads();
                const bool good = works(pool);
                pool.stop();
                return good ? 0 : 1;
              });
            }),
            0);
  pool.stop();
}

// Negative control: fork(2) alone leaves them behind.
TEST(NodeThreads, AreNotThereWithoutBeingInherited) {
  Pool pool(2);
  EXPECT_EQ(in_a_child([&pool] {
              std::mutex mutex;
              std::condition_variable ran;
              bool done = false;
              pool.post([&] {
                const std::lock_guard<std::mutex> lock(mutex);
                done = true;
                ran.notify_one();
              });
              std::unique_lock<std::mutex> lock(mutex);
              return ran.wait_for(lock, milliseconds(300), [&] { return done; }) ? 1 : 0;
            }),
            0);
  pool.stop();
}

int threads_now() {
  const std::filesystem::directory_iterator tasks("/proc/self/task");
  return static_cast<int>(std::distance(begin(tasks), end(tasks)));
}

TEST(NodeThreads, GoOnWhenTheyAreNeeded) {
  Pool busy(3);
  Pool idle(2);
  EXPECT_EQ(in_a_child([&] {
              inherit_threads();
              const int before = threads_now();
              const bool good = works(busy);
              const int then = threads_now();
              return good ? 10 * before + then : 99;
            }),
            10 * 1 + 4);
  EXPECT_EQ(in_a_child([&] {
              inherit_threads();
              idle.stop();
              const int after = threads_now();
              busy.stop();
              return after;
            }),
            1);
  busy.stop();
  idle.stop();
}

// Whoever wakes first and whoever else does at once, each is made once.
TEST(NodeThreads, GoOnOnceWhoeverNeedsThem) {
  Pool pool(4);
  for (int round = 0; round < 20; ++round) {
    EXPECT_EQ(in_a_child([&pool] {
                inherit_threads();
                std::atomic<int> done = 0;
                Pool callers(4);
                for (int i = 0; i < 400; ++i) {
                  callers.post([&] { pool.post([&done] { ++done; }); });
                }
                callers.stop();
                pool.stop();
                return done == 400 ? 0 : 1;
              }),
              0);
  }
  pool.stop();
}

TEST(NodeThreads, AThreadThatDidNotWaitHasEndedForTheChild) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  std::thread reader([&ends] {
    char byte = 0;
    EXPECT_EQ(::read(ends[0], &byte, 1), 1);
  });
  EXPECT_EQ(in_a_child([&reader] {
              inherit_threads();
              reader.join();
              return 0;
            }),
            0);
  ASSERT_EQ(::write(ends[1], "x", 1), 1);
  reader.join();
}

TEST(NodeThreads, AChildMakesThreadsAsEver) {
  EXPECT_EQ(in_a_child([] {
              inherit_threads();
              Pool pool(3);
              const bool good = works(pool);
              pool.stop();
              return good ? 0 : 1;
            }),
            0);
}

TEST(NodeThreads, SettlingWaitsForWhatIsAtWork) {
  Pool pool(1);
  bool ended = false;
  pool.post([&ended] {
    const auto until = std::chrono::steady_clock::now() + milliseconds(100);
    while (std::chrono::steady_clock::now() < until) {
    }
    ended = true;
  });
  settle_threads();
  EXPECT_TRUE(ended);
  pool.stop();
}

TEST(NodeConditions, EndTheirWaitsInTime) {
  std::mutex mutex;
  std::condition_variable never;
  std::unique_lock<std::mutex> lock(mutex);
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(never.wait_for(lock, milliseconds(30)), std::cv_status::timeout);
  EXPECT_EQ(never.wait_until(lock, std::chrono::system_clock::now() + milliseconds(30)),
            std::cv_status::timeout);
  EXPECT_GE(std::chrono::steady_clock::now() - start, milliseconds(60));
  EXPECT_EQ(never.wait_until(lock, std::chrono::system_clock::now() - milliseconds(1)),
            std::cv_status::timeout);
}

// One signal, one waiter; and none is lost, however they meet.
TEST(NodeConditions, LoseNoSignal) {
  constexpr int kRounds = 20'000;
  std::mutex mutex;
  std::condition_variable changed;
  int turn = 0;
  const auto play = [&](int own) {
    for (int i = 0; i < kRounds; ++i) {
      std::unique_lock<std::mutex> lock(mutex);
      changed.wait(lock, [&] { return turn == own; });
      turn = 1 - own;
      changed.notify_one();
    }
  };
  std::thread other(play, 1);
  play(0);
  other.join();
  EXPECT_EQ(turn, 0);
}

}  // namespace
}  // namespace runbus::agent
