#pragma once

#include <cstdint>
#include <string_view>

#include "services/agent/connection.h"
#include "services/log/record_reader.h"

// A connection's reading of one execution from an offset, as far as its credit goes: Output and Gap
// in order, then Exited once. Owned by its connection; the execution knows it. Output comes to it
// from the execution's read buffer while it is caught up (push), otherwise from the log (pump).
namespace runbus::agent {

class Execution;

class Attachment {
 public:
  static constexpr std::size_t kFrameSize = 64 * 1024;

  Attachment(Connection& connection, Execution& execution, std::uint64_t offset,
             std::uint64_t credit);
  ~Attachment();
  Attachment(const Attachment&) = delete;
  Attachment& operator=(const Attachment&) = delete;

  Connection& connection() { return connection_; }
  // The next byte it sends.
  std::uint64_t position() const { return position_; }
  // Bytes of output allowed in all; a lower grant than before is ignored.
  void grant(std::uint64_t credit);

  // Bytes that were just appended to the log at `offset`; takes what it may, the rest waits in the
  // log.
  void push(int stream, std::uint64_t offset, std::string_view bytes);

  enum class Progress {
    kSent,      // one frame
    kBlocked,   // nothing to send, or not allowed to
    kFinished,  // Exited is sent: destroy it
  };
  Progress pump();

  // The execution is being forgotten: the rest is a gap.
  void abandon();

 private:
  void send_output(int stream, std::string_view bytes);
  void send_gap(std::uint64_t to);

  Connection& connection_;
  Execution* execution_;  // null: forgotten
  log::RecordReader reader_;
  std::uint64_t position_;
  std::uint64_t credit_;
  std::uint64_t sent_ = 0;
};

}  // namespace runbus::agent
