#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <string_view>

#include "proto/support/unique_fd.h"
#include "services/log/record_reader.h"

// The output of one execution (or terminal) as one sequence of bytes with stream marks. It is
// written to files before append() returns, so what a reader was given outlives the process that
// wrote it, however that ends (StoredLog reads it then):
//   NAME/0, NAME/1048500, …   segments, named by the offset of their first byte
// Each begins with the head, a note of the owner's; the end, another, is behind the last byte. A
// log of little output is one file: a file system takes longer to make one than to write it. A log
// that grows beyond its size loses its oldest segment: first_offset() moves up, which a reader sees
// as a gap. Where no file can be written (no directory, disk full), what comes is kept in memory,
// up to kMaxMemory. Never fails and never loses the order.
namespace runbus::log {

// What all logs of one owner may take together. The owner outlives them.
struct LogSpace {
  std::uint64_t limit = UINT64_MAX;
  std::uint64_t used = 0;
  // Called before a log gives up its own segments because the others leave it no room; may remove
  // other logs.
  std::function<void()> on_full;
};

// The folder of a log to come with its first file, empty, so that a log's beginning waits for
// nothing to be made. One in a directory.
class PreparedLog {
 public:
  // A name that no log has.
  static constexpr const char* kName = ".next";

  // Does nothing when it is there. False: it cannot be made.
  bool make(int directory_fd);
  // Makes it of the folder `name`, which has one segment and no reader: to make files and to remove
  // them is dear. The folder is gone in any case.
  void make_of(int directory_fd, const std::string& name);
  bool is_ready() const { return static_cast<bool>(file_); }

 private:
  friend class OutputLog;
  UniqueFd file_;
};

class OutputLog {
 public:
  static constexpr std::uint64_t kMinSize = 64 * 1024;
  static constexpr std::uint64_t kMaxMemory = 1024 * 1024;
  static constexpr std::uint64_t kMaxSegment = 1024 * 1024;
  static constexpr std::size_t kMaxHead = 2048;
  // A log may have this much however full the space is.
  static constexpr std::uint64_t kShare = 4 * kMaxSegment;

  // `size`: bytes to take at most, heads of records included, raised to kMinSize. In memory until
  // create().
  OutputLog(std::uint64_t size, LogSpace& space);
  ~OutputLog();
  OutputLog(const OutputLog&) = delete;
  OutputLog& operator=(const OutputLog&) = delete;

  // Makes the folder `name` in `directory_fd` (not owned; stays open), from `prepared` when that is
  // ready; before the first append. `head`: 1 to kMaxHead bytes. False: there is none, and the log
  // stays in memory.
  bool create(int directory_fd, const std::string& name, std::string_view head,
              PreparedLog* prepared = nullptr);
  void append(int stream, std::string_view bytes);
  // Nothing more comes. `end`: 1 to kMaxNote bytes. False: it could not be written.
  bool finish(std::string_view end);
  // Removes the files, or makes them `reuse`; without it they stay. Nobody may be reading them.
  void remove(PreparedLog* reuse = nullptr);

  // Copies up to `room` bytes of one stream from `offset` on, first_offset() ≤ offset <
  // end_offset(). Size 0: the disk did not give them back; they are evicted now. Each reader has
  // its own `reader`.
  Piece read(RecordReader& reader, std::uint64_t offset, char* to, std::size_t room);

  std::uint64_t first_offset() const;
  std::uint64_t end_offset() const { return end_; }
  // Bytes it holds in any case before it evicts, even if each is a record of its own.
  std::uint64_t capacity() const;
  // Bytes of disk or memory taken now.
  std::uint64_t footprint() const { return taken_; }
  bool in_files() const { return in_files_; }

 private:
  struct Segment {
    std::uint64_t start = 0;  // offset of its first byte
    std::uint64_t taken = 0;  // bytes of disk or memory
    bool in_file = false;
    std::string memory;
  };

  bool begin(UniqueFd file);
  Segment& segment_with_room();
  void add_segment(bool in_file);
  std::size_t add_record(int stream, std::string_view bytes);
  // 0 or errno.
  int write_record(Segment& segment, int stream, std::string_view bytes);
  int write_to_file(const Segment& segment, const std::array<std::string_view, 3>& parts);
  void make_room();
  void evict_first();
  std::string path(const Segment& segment) const;
  std::uint64_t limit() const;
  std::uint64_t segment_size() const { return std::min(limit() / 16, kMaxSegment); }

  const std::uint64_t size_;
  LogSpace& space_;
  int directory_fd_ = -1;
  std::string name_;
  std::string head_;  // the record
  bool in_files_ = false;
  UniqueFd file_;  // of the last segment, if that is a file that can be written
  std::deque<Segment> segments_;
  std::uint64_t end_ = 0;
  std::uint64_t taken_ = 0;
};

}  // namespace runbus::log
