#include "services/log/record_reader.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace runbus::log {
namespace {

constexpr std::size_t kWindow = 16 * 1024;

}  // namespace

void encode_record_head(int stream, std::size_t size, char* to) {
  to[0] = static_cast<char>(stream);
  to[1] = static_cast<char>(size >> 16U & 0xffU);
  to[2] = static_cast<char>(size >> 8U & 0xffU);
  to[3] = static_cast<char>(size & 0xffU);
}

std::string encode_record(int stream, std::string_view bytes) {
  std::string record(kRecordHead, '\0');
  encode_record_head(stream, bytes.size(), record.data());
  return record.append(bytes);
}

void RecordReader::open(std::uint64_t start, UniqueFd file) {
  close();
  opened_ = true;
  start_ = offset_ = start;
  file_ = std::move(file);
}

void RecordReader::open_memory(std::uint64_t start) { open(start, UniqueFd()); }

void RecordReader::close() {
  opened_ = false;
  position_ = 0;
  window_.clear();
  file_.reset();
}

std::size_t RecordReader::from_file(std::uint64_t position, char* to, std::size_t size) const {
  std::size_t done = 0;
  while (done < size) {
    const ssize_t count =
        ::pread(file_.get(), to + done, size - done, static_cast<off_t>(position + done));
    if (count < 0 && errno == EINTR) {
      continue;
    }
    if (count <= 0) {
      break;
    }
    done += static_cast<std::size_t>(count);
  }
  return done;
}

std::size_t RecordReader::raw(std::uint64_t position, char* to, std::size_t size,
                              std::string_view memory) {
  if (!file_) {
    const std::string_view there = memory.substr(std::min<std::uint64_t>(position, memory.size()));
    size = std::min(size, there.size());
    std::memcpy(to, there.data(), size);
    return size;
  }
  if (size > kWindow / 2) {
    return from_file(position, to, size);
  }
  if (position < window_at_ || position + size > window_at_ + window_.size()) {
    window_.resize(kWindow);
    window_.resize(from_file(position, window_.data(), kWindow));
    window_at_ = position;
  }
  size = std::min<std::size_t>(size, window_.size() - (position - window_at_));
  std::memcpy(to, window_.data() + (position - window_at_), size);
  return size;
}

RecordReader::Record RecordReader::record(std::string_view memory) {
  std::array<char, kRecordHead> head{};
  if (raw(position_, head.data(), head.size(), memory) < head.size()) {
    return {};
  }
  const auto byte = [&head](std::size_t index) {
    return static_cast<std::uint64_t>(static_cast<unsigned char>(head[index]));
  };
  const std::uint64_t size = byte(1) << 16U | byte(2) << 8U | byte(3);
  return {size == 0 ? 0 : static_cast<int>(byte(0)), size};
}

void RecordReader::skip(const Record& record) {
  position_ += kRecordHead + record.size;
  offset_ += record.bytes();
}

Piece RecordReader::read(std::uint64_t offset, char* to, std::size_t room,
                         std::string_view memory) {
  if (offset < offset_) {
    position_ = 0;
    offset_ = start_;
  }
  Piece piece;
  while (piece.size < room) {
    const Record next = record(memory);
    if (next.stream == 0) {
      break;
    }
    if (offset_ + next.bytes() <= offset) {
      skip(next);
      continue;
    }
    if (piece.stream != 0 && piece.stream != next.stream) {
      break;
    }
    piece.stream = next.stream;
    const std::uint64_t within = offset - offset_;
    const std::size_t wanted = std::min<std::uint64_t>(room - piece.size, next.size - within);
    const std::size_t count =
        raw(position_ + kRecordHead + within, to + piece.size, wanted, memory);
    piece.size += count;
    offset += count;
    if (count < wanted) {
      break;
    }
  }
  return piece;
}

// Whole, or none.
std::optional<std::string> RecordReader::note(std::uint64_t position, const Record& record) const {
  if (record.size == 0 || record.size > kMaxNote) {
    return std::nullopt;
  }
  std::string bytes(record.size, '\0');
  if (from_file(position + kRecordHead, bytes.data(), bytes.size()) < bytes.size()) {
    return std::nullopt;
  }
  return bytes;
}

std::optional<std::string> RecordReader::head() {
  position_ = 0;
  offset_ = start_;
  const Record first = record({});
  return first.stream == kHead ? note(0, first) : std::nullopt;
}

RecordReader::End RecordReader::find_end() {
  const auto size = ::lseek(file_.get(), 0, SEEK_END);
  const std::uint64_t end = size < 0 ? 0 : static_cast<std::uint64_t>(size);
  std::uint64_t last_position = 0;
  Record last;
  for (;;) {
    const Record next = record({});
    if (next.stream == 0) {
      break;
    }
    const std::uint64_t there = end - std::min(end, position_ + kRecordHead);
    if (next.size > there) {
      return {offset_ + std::min(next.bytes(), there), std::nullopt};
    }
    last = next;
    last_position = position_;
    skip(next);
  }
  return {offset_, last.stream == kEnd ? note(last_position, last) : std::nullopt};
}

}  // namespace runbus::log
