#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <functional>
#include <string>
#include <string_view>

namespace runbus::cli {

// One of our own output streams, written without ever blocking the loop: a pipe or a terminal is
// opened again, so that only our description of it is non-blocking. What cannot be opened again (a
// file, which does not block) is written as it is. Holds what its reader has not taken; whoever
// writes stops when write() says so.
class Sink {
 public:
  Sink(boost::asio::io_context& io, int fd);
  ~Sink();
  Sink(const Sink&) = delete;
  Sink& operator=(const Sink&) = delete;

  // Whether all of it, and of what came before, is written. If not, `on_drained` is called once it
  // is.
  bool write(std::string_view bytes);
  bool drained() const { return pending_.empty(); }
  // Whether the reader is gone; everything is thrown away then.
  bool broken() const { return broken_; }
  void on_drained(std::function<void()> callback) { on_drained_ = std::move(callback); }

 private:
  void flush();
  void wait();

  int fd_;
  boost::asio::posix::stream_descriptor waiter_;
  std::string pending_;
  std::function<void()> on_drained_;
  bool socket_ = false;
  bool waiting_ = false;
  bool broken_ = false;
};

}  // namespace runbus::cli
