#include "services/agent/stream_marks.h"

#include <algorithm>

namespace runbus::agent {
namespace {

// A lookup decodes at most one chunk.
constexpr std::size_t kChunkBytes = 240;
constexpr std::size_t kVarintBytes = 10;

void append_varint(std::string& out, std::uint64_t value) {
  while (value >= 0x80) {
    out.push_back(static_cast<char>((value & 0x7f) | 0x80));
    value >>= 7;
  }
  out.push_back(static_cast<char>(value));
}

std::uint64_t take_varint(const std::string& in, std::size_t& at) {
  std::uint64_t value = 0;
  for (unsigned shift = 0;; shift += 7) {
    const auto byte = static_cast<unsigned char>(in[at++]);
    value |= static_cast<std::uint64_t>(byte & 0x7f) << shift;
    if ((byte & 0x80) == 0) {
      return value;
    }
  }
}

int other(int stream) { return kStdout + kStderr - stream; }

}  // namespace

void StreamMarks::append(int stream, std::uint64_t size) {
  if (size == 0) {
    return;
  }
  if (stream != open_stream_ && open_size_ > 0) {
    close_run();
  }
  open_stream_ = stream;
  open_size_ += size;
}

void StreamMarks::close_run() {
  if (chunks_.empty() || chunks_.back().lengths.size() >= kChunkBytes) {
    Chunk chunk;
    chunk.start = open_start_;
    chunk.first_stream = open_stream_;
    chunk.lengths.reserve(kChunkBytes + kVarintBytes);
    chunks_.push_back(std::move(chunk));
  }
  Chunk& chunk = chunks_.back();
  append_varint(chunk.lengths, open_size_);
  chunk.size += open_size_;
  ++chunk.runs;
  open_start_ += open_size_;
  open_size_ = 0;
}

StreamMarks::Run StreamMarks::at(std::uint64_t offset) const {
  if (offset >= open_start_) {
    return {open_stream_, open_start_ + open_size_ - offset};
  }
  auto chunk =
      std::upper_bound(chunks_.begin(), chunks_.end(), offset,
                       [](std::uint64_t value, const Chunk& c) { return value < c.start; });
  --chunk;
  std::uint64_t start = chunk->start;
  int stream = chunk->first_stream;
  std::size_t at = 0;
  for (;;) {
    const std::uint64_t length = take_varint(chunk->lengths, at);
    if (offset < start + length) {
      return {stream, start + length - offset};
    }
    start += length;
    stream = other(stream);
  }
}

void StreamMarks::drop_before(std::uint64_t offset) {
  while (!chunks_.empty() && chunks_.front().start + chunks_.front().size <= offset) {
    chunks_.pop_front();
  }
}

std::size_t StreamMarks::memory() const {
  return chunks_.size() * (sizeof(Chunk) + kChunkBytes + kVarintBytes + 1);
}

}  // namespace runbus::agent
