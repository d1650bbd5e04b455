#include "proto/wire/coalescing_stream.h"

#include <gtest/gtest.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <chrono>
#include <functional>
#include <optional>
#include <string>

namespace runbus::wire {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

class CoalescingStreamTest : public ::testing::Test {
 protected:
  CoalescingStreamTest() {
    tcp::acceptor acceptor(io, tcp::endpoint(asio::ip::address_v4::loopback(), 0));
    CoalescingStream::Socket ours(io);
    ours.connect(acceptor.local_endpoint());
    acceptor.accept(peer);
    stream.emplace(std::move(ours));
  }

  void write(const std::string& text) {
    ASSERT_TRUE(stream->takes(text.size()));
    error_code error;
    EXPECT_EQ(stream->write_some(asio::buffer(text), error), text.size());
    EXPECT_FALSE(error);
  }

  void write_later(const std::string& text,
                   const std::function<void(error_code, std::size_t)>& done) {
    stream->async_write_some(asio::buffer(text), done);
  }

  // What one read of the peer's brings.
  std::string read(std::size_t most = 1U << 20U) {
    std::string bytes(most, '\0');
    bytes.resize(peer.read_some(asio::buffer(bytes)));
    return bytes;
  }

  void run_until(const std::function<bool()>& done) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!done() && std::chrono::steady_clock::now() < end) {
      io.restart();
      io.run_one_for(std::chrono::milliseconds(10));
    }
    ASSERT_TRUE(done());
  }

  asio::io_context io{1};
  tcp::socket peer{io};
  std::optional<CoalescingStream> stream;
};

TEST_F(CoalescingStreamTest, SendsWhatComesInOneTurnAtOnce) {
  for (const char* text : {"a", "b", "c"}) {
    write(text);
  }
  run_until([this] { return !stream->writing(); });
  EXPECT_EQ(read(), "abc");
}

TEST_F(CoalescingStreamTest, WaitsForMoreAsLongAsMoreComes) {
  int turns = 0;
  const std::function<void()> turn = [&] {
    write("x");
    if (++turns < 10) {
      asio::post(io, turn);
    }
  };
  turn();
  run_until([&] { return turns == 10 && !stream->writing(); });
  EXPECT_EQ(read(), std::string(10, 'x'));
}

TEST_F(CoalescingStreamTest, DoesNotWaitForEver) {
  bool stopped = false;
  const std::function<void()> turn = [&] {
    if (!stopped) {
      write("0123456789");
      asio::post(io, turn);
    }
  };
  turn();
  run_until([&] { return peer.available() > 0; });
  stopped = true;
  run_until([this] { return !stream->writing(); });
}

TEST_F(CoalescingStreamTest, KeepsTheOrderOfBothKindsOfWrites) {
  const std::string large(100'000, 'L');
  std::size_t done = 0;
  write("1");
  write_later("2", [&](error_code error, std::size_t bytes) {
    EXPECT_FALSE(error);
    done += bytes;
  });
  run_until([&] { return done == 1 && !stream->writing(); });
  write_later(large, [&](error_code, std::size_t bytes) { done += bytes; });
  run_until([&] { return done > 1; });
  EXPECT_EQ(read(3).substr(0, 3), "12L");
}

TEST_F(CoalescingStreamTest, TakesNoMoreThanItMayHoldUntilThePeerReads) {
  const std::string text(10'000, 'x');
  std::size_t written = 0;
  // Until the socket is full, and what may be held is.
  run_until([&] {
    for (; stream->takes(text.size()); written += text.size()) {
      write(text);
    }
    io.restart();
    io.poll();
    return !stream->takes(text.size()) && stream->writing();
  });
  EXPECT_FALSE(stream->takes(20'000)) << "that goes by itself";
  bool waited = false;
  write_later(text, [&](error_code error, std::size_t bytes) {
    EXPECT_FALSE(error);
    EXPECT_GT(bytes, 0U);
    written += bytes;
    waited = true;
  });
  EXPECT_FALSE(stream->takes(1)) << "it would overtake";
  peer.non_blocking(true);
  std::size_t seen = 0;
  std::string bytes(1U << 20U, '\0');
  run_until([&] {
    error_code error;
    seen += peer.read_some(asio::buffer(bytes), error);
    return waited && seen == written;
  });
}

// Else what is written at once could come to stand inside of a control frame.
TEST_F(CoalescingStreamTest, TakesASmallWriteWholeOrNotYet) {
  const std::string text(10'000, 'x');
  std::size_t written = 0;
  for (; stream->takes(text.size()); written += text.size()) {
    write(text);
  }
  std::size_t taken = 0;
  write_later(text, [&](error_code error, std::size_t bytes) {
    EXPECT_FALSE(error);
    taken = bytes;
  });
  EXPECT_FALSE(stream->takes(1));
  run_until([&] { return taken > 0; });
  EXPECT_EQ(taken, text.size());
}

TEST_F(CoalescingStreamTest, TellsTheNextWriteThatThePeerIsGone) {
  peer.set_option(asio::socket_base::linger(true, 0));
  peer.close();
  error_code error;
  run_until([&] {
    stream->write_some(asio::buffer(std::string("x")), error);
    io.restart();
    io.poll();
    return static_cast<bool>(error);
  });
  EXPECT_EQ(stream->write_some(asio::buffer(std::string("x")), error), 0U);
  EXPECT_TRUE(error);
}

}  // namespace
}  // namespace runbus::wire
