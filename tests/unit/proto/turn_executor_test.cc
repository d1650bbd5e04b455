#include "proto/wire/turn_executor.h"

#include <gtest/gtest.h>

#include <boost/asio/dispatch.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>

namespace runbus::wire {
namespace {

namespace asio = boost::asio;

class TurnExecutorTest : public ::testing::Test {
 protected:
  // A handler that posts the next one, `count` of them in all.
  void chain(int count) {
    ++ran;
    if (count > 1) {
      asio::post(*executor, [this, count] { chain(count - 1); });
    }
  }

  asio::io_context io{1};
  std::optional<TurnExecutor> executor{io.get_executor()};
  int ran = 0;
  std::string order;
};

TEST_F(TurnExecutorTest, RunsWhatAHandlerPostsInTheSameTurn) {
  asio::post(*executor, [this] { chain(10); });
  EXPECT_EQ(ran, 0);
  EXPECT_EQ(io.poll_one(), 1U);
  EXPECT_EQ(ran, 10);
}

TEST_F(TurnExecutorTest, LeavesOthersTheirTurn) {
  asio::post(*executor, [this] { chain(2 * TurnExecutor::kMost); });
  int ran_before = 0;
  asio::post(io, [&] { ran_before = ran; });
  EXPECT_EQ(io.poll_one(), 1U);
  EXPECT_EQ(ran, 1 + TurnExecutor::kMost);
  io.poll();
  EXPECT_EQ(ran_before, 1 + TurnExecutor::kMost);
  EXPECT_EQ(ran, 2 * TurnExecutor::kMost);
}

// As post() promises: not from within the handler that posts it.
TEST_F(TurnExecutorTest, RunsItAfterTheHandlerThatPostedIt) {
  asio::post(*executor, [this] {
    asio::post(*executor, [this] { order += "c"; });
    asio::post(*executor, [this] { order += "d"; });
    asio::dispatch(*executor, [this] { order += "a"; });
    order += "b";
  });
  io.poll();
  EXPECT_EQ(order, "abcd");
}

TEST_F(TurnExecutorTest, RunsNothingOutsideOfTheLoop) {
  asio::dispatch(*executor, [this] { chain(2); });
  EXPECT_EQ(ran, 0);
  io.poll();
  EXPECT_EQ(ran, 2);
}

TEST_F(TurnExecutorTest, MayGoWhileItsLastHandlerRuns) {
  asio::post(*executor, [this] {
    asio::post(*executor, [this] { order += "b"; });
    executor.reset();
    order += "a";
  });
  io.poll();
  EXPECT_EQ(order, "ab");
}

TEST_F(TurnExecutorTest, LosesNothingWhenAHandlerThrows) {
  asio::post(*executor, [this] {
    asio::post(*executor, [this] { chain(3); });
    throw std::runtime_error("on purpose");
  });
  EXPECT_THROW(io.poll(), std::runtime_error);
  EXPECT_EQ(ran, 0);
  io.poll();
  EXPECT_EQ(ran, 3);
}

}  // namespace
}  // namespace runbus::wire
