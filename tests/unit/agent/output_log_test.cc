#include "services/agent/output_log.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <filesystem>
#include <random>
#include <string>

namespace runbus::agent {
namespace {

// Every byte tells its offset.
char byte_at(std::uint64_t offset) { return static_cast<char>((offset * 2654435761U) >> 13); }

std::string bytes_at(std::uint64_t offset, std::size_t size) {
  std::string bytes;
  for (std::size_t i = 0; i < size; ++i) {
    bytes.push_back(byte_at(offset + i));
  }
  return bytes;
}

class OutputLogTest : public ::testing::Test {
 protected:
  void fill(OutputLog& log, std::uint64_t total) {
    while (log.end_offset() < total) {
      const std::size_t size =
          std::min<std::uint64_t>(random_() % 20'000 + 1, total - log.end_offset());
      log.append(random_() % 2 == 0 ? kStdout : kStderr, bytes_at(log.end_offset(), size));
    }
  }
  void expect_intact(OutputLog& log) {
    std::string buffer(65536, '\0');
    std::uint64_t offset = log.first_offset();
    while (offset < log.end_offset()) {
      const OutputLog::Piece piece = log.read(offset, buffer.data(), buffer.size());
      ASSERT_GT(piece.size, 0U);
      ASSERT_TRUE(std::string_view(buffer).substr(0, piece.size) == bytes_at(offset, piece.size))
          << offset;
      offset += piece.size;
    }
  }

  UniqueFd directory_{
      ::open(std::filesystem::temp_directory_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  std::mt19937 random_{1};
};

TEST_F(OutputLogTest, StaysInMemoryWhileSmall) {
  OutputLog log(10 << 20, directory_.get());
  fill(log, OutputLog::kMemorySize);
  EXPECT_FALSE(log.spilled());
  EXPECT_EQ(log.first_offset(), 0U);
  expect_intact(log);
}

TEST_F(OutputLogTest, SpillsAndKeepsItsSize) {
  OutputLog log(2 << 20, directory_.get());
  fill(log, 2'000'000);
  EXPECT_TRUE(log.spilled());
  EXPECT_EQ(log.first_offset(), 0U);
  expect_intact(log);
  fill(log, 9'000'001);
  EXPECT_LE(log.footprint(), (2U << 20) + OutputLog::kMinSize);
  EXPECT_GT(log.footprint(), 1'900'000U);
  expect_intact(log);
}

TEST_F(OutputLogTest, WithoutADirectoryKeepsAMegabyte) {
  OutputLog log(64 << 20, -1);
  fill(log, 5'000'000);
  EXPECT_EQ(log.capacity(), OutputLog::kMaxMemoryRing);
  EXPECT_LE(log.end_offset() - log.first_offset(), OutputLog::kMaxMemoryRing);
  expect_intact(log);
}

TEST_F(OutputLogTest, ASmallLogTakesAppendsLargerThanItself) {
  OutputLog log(1, -1);
  log.append(kStdout, bytes_at(0, 200'000));
  EXPECT_EQ(log.end_offset(), 200'000U);
  EXPECT_EQ(log.first_offset(), 200'000U - OutputLog::kMinSize);
  expect_intact(log);
}

// A disk that is full at some size, by the limit of file size.
class FullDisk {
 public:
  explicit FullDisk(rlim_t size) {
    ::signal(SIGXFSZ, SIG_IGN);
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{size, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FullDisk() { ::setrlimit(RLIMIT_FSIZE, &before_); }

 private:
  rlimit before_{};
};

TEST_F(OutputLogTest, AFullDiskMakesTheRingSmaller) {
  const FullDisk disk(1'000'000);
  OutputLog log(64 << 20, directory_.get());
  fill(log, 5'000'000);
  EXPECT_TRUE(log.spilled());
  EXPECT_EQ(log.capacity(), 1'000'000U);
  EXPECT_LE(log.end_offset() - log.first_offset(), 1'000'000U);
  EXPECT_GE(log.end_offset() - log.first_offset(), 900'000U);
  expect_intact(log);
}

TEST_F(OutputLogTest, ADiskThatTakesNothingLeavesMemory) {
  const FullDisk disk(1000);
  OutputLog log(64 << 20, directory_.get());
  fill(log, 900'000);
  EXPECT_FALSE(log.spilled());
  EXPECT_EQ(log.first_offset(), 0U);
  expect_intact(log);
}

}  // namespace
}  // namespace runbus::agent
