#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "proto/support/unique_fd.h"
#include "services/log/record_reader.h"

// Reads the folder that an OutputLog left, whoever wrote it and however that ended. What is in it
// is hostile: names, sizes, links and contents are checked, what makes no sense is a gap, and a
// read never gives more than is in the files. Blocking. One thread at a time.
namespace runbus::log {

class StoredLog {
 public:
  static constexpr std::size_t kMaxSegments = 4096;

  // Nothing when the folder holds no log.
  static std::optional<StoredLog> open(UniqueFd folder);

  const std::string& head() const { return head_; }
  // Nothing when the log was never finished.
  const std::optional<std::string>& end() const { return end_; }
  // When its last segment was written last, by the clock of the file system.
  std::chrono::milliseconds written_at() const { return written_at_; }
  std::uint64_t first_offset() const { return first_; }
  std::uint64_t end_offset() const { return end_offset_; }

  // Copies up to `room` bytes of one stream from `offset` on, offset < end_offset(). Size 0: the
  // bytes from there to after(offset) are not there.
  Piece read(std::uint64_t offset, char* to, std::size_t room);
  // Where the next segment begins, or end_offset().
  std::uint64_t after(std::uint64_t offset) const;

  // Gives a log that was never finished the end that its writer could not. False: it has one, or
  // it cannot be written.
  bool finish(const std::string& end);

 private:
  StoredLog() = default;
  void find_segments();
  bool read_notes();
  UniqueFd open_segment(std::uint64_t start) const;

  UniqueFd folder_;
  std::string head_;
  std::optional<std::string> end_;
  std::chrono::milliseconds written_at_{0};
  std::vector<std::uint64_t> starts_;  // of the segments, ascending
  std::uint64_t first_ = 0;
  std::uint64_t end_offset_ = 0;
  RecordReader reader_;
};

// Opens a regular file below a folder that is not trusted: no links, no waiting for a fifo. -1
// otherwise.
UniqueFd open_untrusted(int folder, const std::string& name);

}  // namespace runbus::log
