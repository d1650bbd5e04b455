#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "proto/support/unique_fd.h"

// The records of a log's segments. A record is
//   u8 stream · u24 size (big endian) · bytes
// and a segment is records one after another, in a file or in memory. Notes are records of the
// log's owner between those of its output: they have no offsets. The last record of a segment may
// be cut short: whoever wrote it was killed. Both the writer and those who read what a hostile
// writer left use this, so nothing here believes a size.
namespace runbus::log {

inline constexpr int kStdout = 1;
inline constexpr int kStderr = 2;
inline constexpr int kHead = 254;  // a note: the first record of every file
inline constexpr int kEnd = 255;   // a note: the last record of a log that is finished
inline constexpr std::size_t kMaxNote = 64 * 1024;
inline constexpr std::size_t kRecordHead = 4;
inline constexpr std::size_t kMaxRecord = (1U << 24U) - 1;

void encode_record_head(int stream, std::size_t size, char* to);
std::string encode_record(int stream, std::string_view bytes);

// Bytes of one stream.
struct Piece {
  int stream = 0;
  std::size_t size = 0;
};

// Reads one segment, best from front to back: it remembers the record that it read last.
class RecordReader {
 public:
  // Offsets in the log; the segment's first byte is at `start`. The reader of a file owns it; the
  // one of memory is given the bytes, which may have grown, with every call.
  void open(std::uint64_t start, UniqueFd file);
  void open_memory(std::uint64_t start);
  bool is_at(std::uint64_t start) const { return opened_ && start_ == start; }
  void close();

  // Copies up to `room` bytes from `offset` ≥ start on, all of one stream. Size 0: the segment has
  // no byte at `offset`, or something that is no record is before it.
  Piece read(std::uint64_t offset, char* to, std::size_t room, std::string_view memory = {});
  // The note that the segment's file begins with.
  std::optional<std::string> head();
  struct End {
    std::uint64_t offset = 0;         // behind the segment's last byte
    std::optional<std::string> note;  // that is behind it
  };
  // Of the segment's file.
  End find_end();

 private:
  struct Record {
    int stream = 0;
    std::uint64_t size = 0;
    std::uint64_t bytes() const { return stream == kHead || stream == kEnd ? 0 : size; }
  };
  // The record at position_, or one of stream 0.
  Record record(std::string_view memory);
  void skip(const Record& record);
  std::optional<std::string> note(std::uint64_t position, const Record& record) const;
  // How many bytes it got.
  std::size_t raw(std::uint64_t position, char* to, std::size_t size, std::string_view memory);
  std::size_t from_file(std::uint64_t position, char* to, std::size_t size) const;

  bool opened_ = false;
  std::uint64_t start_ = 0;
  UniqueFd file_;
  // A record begins at position_ of the segment; its first byte is at offset_ of the log.
  std::uint64_t position_ = 0;
  std::uint64_t offset_ = 0;
  std::string window_;  // a part of the file, so that small records cost no system call each
  std::uint64_t window_at_ = 0;
};

}  // namespace runbus::log
