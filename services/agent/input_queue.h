#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "proto/support/unique_fd.h"
#include "services/agent/event_loop.h"

// The standard input of an execution on its way into the program's pipe: what the pipe does not
// take yet is kept, up to a bound. Input that comes before the step that reads it waits here.
namespace runbus::agent {

class InputQueue {
 public:
  static constexpr std::size_t kLimit = 1024 * 1024;

  explicit InputQueue(EventLoop& loop) : loop_(loop) {}

  // A step that takes input starts: the write end of its pipe, non-blocking.
  void open(UniqueFd pipe);
  // The step ended; what it did not read stays for the next one, if there is any.
  void close();

  // Takes a prefix of `bytes` and says how long it is.
  std::size_t take(std::string_view bytes);
  // Nothing comes after what was taken so far.
  void end();

  bool ended() const { return ended_; }
  // The program closed its input: what is still sent to it would be lost.
  bool refused() const { return refused_; }

 private:
  void flush();
  std::size_t write(std::string_view bytes);

  EventLoop& loop_;
  UniqueFd pipe_;
  Watch watch_;
  std::string kept_;
  std::size_t sent_ = 0;  // of kept_
  bool ended_ = false;
  bool refused_ = false;
};

}  // namespace runbus::agent
