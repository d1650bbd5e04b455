#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "proto/support/unique_fd.h"
#include "services/agent/stream_marks.h"

// The output of one execution as one sequence of bytes with stream marks. Small logs stay in
// memory; a larger one moves to an unnamed file in the log directory, used as a ring of the log's
// size, so that the sandbox cannot reach it and nothing is left behind. Without a directory, or
// when the disk is full, the ring is as large as memory or the disk allowed, and the oldest bytes
// are evicted: first_offset() moves up, which a reader sees as a gap. Never fails and never loses
// the order.
namespace runbus::agent {

class OutputLog {
 public:
  static constexpr std::uint64_t kMinSize = 64 * 1024;
  static constexpr std::uint64_t kMemorySize = 256 * 1024;      // then it spills
  static constexpr std::uint64_t kMaxMemoryRing = 1024 * 1024;  // without a directory

  // `size`: bytes to keep, raised to kMinSize. `directory_fd`: for the file, or -1; not owned.
  OutputLog(std::uint64_t size, int directory_fd);

  void append(int stream, std::string_view bytes);

  struct Piece {
    int stream = kStdout;
    std::size_t size = 0;
  };
  // Copies up to `room` bytes of one stream from `offset` on, first_offset() ≤ offset <
  // end_offset(). Size 0: the disk did not give them back; they are evicted now.
  Piece read(std::uint64_t offset, char* to, std::size_t room);

  std::uint64_t first_offset() const { return first_; }
  std::uint64_t end_offset() const { return end_; }
  // Bytes it can hold before it evicts.
  std::uint64_t capacity() const;
  // Bytes of memory and disk taken now.
  std::uint64_t footprint() const { return end_ - first_ + marks_.memory(); }
  bool spilled() const { return static_cast<bool>(file_); }

 private:
  void store(std::uint64_t offset, std::string_view bytes);
  void store_in_memory(std::uint64_t offset, std::string_view bytes);
  void store_in_file(std::uint64_t offset, std::string_view bytes);
  void spill();
  void evict();

  const std::uint64_t size_;
  const int directory_fd_;
  std::uint64_t ring_;  // a byte at offset o is at o % ring_; identity until the first turn
  std::uint64_t first_ = 0;
  std::uint64_t end_ = 0;
  std::uint64_t lost_below_ = 0;  // bytes below could not be stored
  StreamMarks marks_;
  std::string memory_;
  UniqueFd file_;
  bool may_spill_;
};

}  // namespace runbus::agent
