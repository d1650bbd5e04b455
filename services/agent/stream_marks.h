#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>

// Which bytes of an execution's one sequence came from which stream. Neighbouring runs of one
// stream are merged, so runs alternate and only their lengths are kept, as varints: a program that
// switches streams with every byte costs about one byte a run, not a struct.
namespace runbus::agent {

inline constexpr int kStdout = 1;
inline constexpr int kStderr = 2;

class StreamMarks {
 public:
  struct Run {
    int stream = kStdout;
    std::uint64_t left = 0;  // bytes of this stream from the asked offset on
  };

  // The next `size` bytes are of `stream`.
  void append(int stream, std::uint64_t size);
  // The run that `offset` is in. It must not have been dropped and must be below the end.
  Run at(std::uint64_t offset) const;
  // Forgets what lies below `offset`, by whole chunks.
  void drop_before(std::uint64_t offset);
  // Bytes of memory taken.
  std::size_t memory() const;

 private:
  struct Chunk {
    std::uint64_t start = 0;
    std::uint64_t size = 0;
    int first_stream = kStdout;
    std::uint32_t runs = 0;
    std::string lengths;
  };

  void close_run();

  std::deque<Chunk> chunks_;
  // The last run, which may still grow.
  std::uint64_t open_start_ = 0;
  std::uint64_t open_size_ = 0;
  int open_stream_ = kStdout;
};

}  // namespace runbus::agent
