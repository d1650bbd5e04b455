#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <string>
#include <string_view>

namespace runbus::cli {

// Carries a descriptor's bytes to a program that takes them at its own pace: one chunk is on its
// way at a time, what was not accepted is sent again after a pause that doubles up to a quarter of
// a second, and nothing is read meanwhile.
class StdinFeed {
 public:
  // Sends a chunk, with eof the last one; acknowledge() must follow, or lost() when the answer will
  // never come.
  using Send = std::function<void(std::string_view chunk, bool eof)>;

  StdinFeed(boost::asio::io_context& io, int fd, Send send);
  StdinFeed(const StdinFeed&) = delete;
  StdinFeed& operator=(const StdinFeed&) = delete;

  // Begins, or goes on after lost(). Does nothing when it is running or at its end.
  void start();
  void acknowledge(std::size_t accepted);
  // The chunk on its way may have arrived or not. It is not sent again: bytes twice are worse to a
  // program than the end of its input here. Gives how many bytes are in doubt.
  std::size_t lost();
  void stop();

 private:
  void read();
  void read_now();
  void send();
  void retry();

  boost::asio::posix::stream_descriptor input_;
  boost::asio::steady_timer timer_;
  Send send_;
  int fd_;
  std::string chunk_;
  std::chrono::milliseconds pause_{0};
  bool pollable_ = false;
  bool running_ = false;
  bool in_flight_ = false;
  bool eof_ = false;
  bool finished_ = false;
};

}  // namespace runbus::cli
