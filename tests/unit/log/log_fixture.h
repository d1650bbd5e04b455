#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <random>
#include <string>

#include "services/log/output_log.h"
#include "services/log/stored_log.h"

namespace runbus::log {

// Every byte tells its offset.
inline char byte_at(std::uint64_t offset) {
  return static_cast<char>((offset * 2654435761U) >> 13);
}

inline std::string bytes_at(std::uint64_t offset, std::size_t size) {
  std::string bytes;
  for (std::size_t i = 0; i < size; ++i) {
    bytes.push_back(byte_at(offset + i));
  }
  return bytes;
}

// As it is in a file; `size` may be a lie.
inline std::string record(int stream, std::size_t size, const std::string& bytes) {
  std::string head(kRecordHead, '\0');
  encode_record_head(stream, size, head.data());
  return head + bytes;
}
inline std::string record(int stream, const std::string& bytes) {
  return encode_record(stream, bytes);
}

class LogTest : public ::testing::Test {
 protected:
  LogTest() {
    std::string path = (std::filesystem::temp_directory_path() / "runbus-log-XXXXXX").string();
    path_ = ::mkdtemp(path.data());
    directory_.reset(::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  }
  ~LogTest() override { std::filesystem::remove_all(path_); }

  // Appends random pieces of both streams up to `total` bytes.
  void fill(OutputLog& log, std::uint64_t total, std::size_t longest = 20'000) {
    while (log.end_offset() < total) {
      const std::size_t size =
          std::min<std::uint64_t>(random_() % longest + 1, total - log.end_offset());
      log.append(random_() % 2 == 0 ? kStdout : kStderr, bytes_at(log.end_offset(), size));
    }
  }
  // Reads all there is and checks each byte; what StoredLog and OutputLog have in common.
  template <class Read>
  void expect_intact(std::uint64_t from, std::uint64_t to, Read read) {
    std::string buffer(65536, '\0');
    for (std::uint64_t offset = from; offset < to;) {
      const Piece piece = read(offset, buffer.data(), random_() % buffer.size() + 1);
      ASSERT_GT(piece.size, 0U) << offset;
      ASSERT_TRUE(std::string_view(buffer).substr(0, piece.size) == bytes_at(offset, piece.size))
          << offset;
      offset += piece.size;
    }
  }
  void expect_intact(OutputLog& log) {
    RecordReader reader;
    expect_intact(log.first_offset(), log.end_offset(),
                  [&](std::uint64_t offset, char* to, std::size_t room) {
                    return log.read(reader, offset, to, room);
                  });
  }
  void expect_intact(StoredLog& log) {
    expect_intact(log.first_offset(), log.end_offset(),
                  [&](std::uint64_t offset, char* to, std::size_t room) {
                    return log.read(offset, to, room);
                  });
  }
  std::optional<StoredLog> stored(const std::string& name = "e") {
    return StoredLog::open(
        UniqueFd(::openat(directory_.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)));
  }
  std::uint64_t bytes_on_disk() {
    std::uint64_t sum = 0;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(path_)) {
      sum += entry.is_regular_file() ? entry.file_size() : 0;
    }
    return sum;
  }

  std::string path_;
  UniqueFd directory_;
  std::mt19937 random_{1};
  LogSpace space_;
};

}  // namespace runbus::log
