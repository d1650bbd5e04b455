#include "services/log/stored_log.h"

#include <sys/stat.h>

#include <fstream>

#include "tests/unit/log/log_fixture.h"

namespace runbus::log {
namespace {

std::string record(int stream, std::size_t size, const std::string& bytes) {
  std::string head(kRecordHead, '\0');
  encode_record_head(stream, size, head.data());
  return head + bytes;
}

// Folders as a hostile agent, or one that was killed, may leave them.
class StoredLogTest : public LogTest {
 protected:
  StoredLogTest() {
    std::filesystem::create_directory(path_ + "/e");
    write("head", "head");
  }
  void write(const std::string& name, const std::string& content) {
    std::ofstream(path_ + "/e/" + name, std::ios::binary) << content;
  }
  // All the bytes that can be read, with gaps as "[from-to]".
  std::string everything(StoredLog& log) {
    std::string all;
    std::string buffer(1000, '\0');
    std::uint64_t offset = 0;
    int reads = 0;
    while (offset < log.end_offset() && ++reads < 10'000) {
      const Piece piece = log.read(offset, buffer.data(), buffer.size());
      if (piece.size == 0) {
        const std::uint64_t next = log.after(offset);
        EXPECT_GT(next, offset);
        all += "[" + std::to_string(offset) + "-" + std::to_string(next) + "]";
        offset = next;
      } else {
        all += buffer.substr(0, piece.size);
        offset += piece.size;
      }
    }
    return all;
  }
};

TEST_F(StoredLogTest, ARecordCutShortGivesTheBytesThereWere) {
  write("0", record(1, 3, "abc") + record(2, 100, "defg"));
  auto log = stored();
  EXPECT_EQ(log->end_offset(), 7U);
  EXPECT_EQ(everything(*log), "abcdefg");
  write("0", record(1, 3, "abc") + "\x01\0");
  log = stored();
  EXPECT_EQ(log->end_offset(), 3U);
  EXPECT_EQ(everything(*log), "abc");
}

TEST_F(StoredLogTest, WhatIsMissingIsAGap) {
  write("5", record(1, 3, "abc"));
  write("20", record(1, 2, "de"));
  auto log = stored();
  EXPECT_EQ(log->first_offset(), 5U);
  EXPECT_EQ(log->end_offset(), 22U);
  EXPECT_EQ(everything(*log), "[0-5]abc[8-20]de");
}

TEST_F(StoredLogTest, SegmentsThatOverlapGiveEachOffsetOnce) {
  write("0", record(1, 10, "0123456789"));
  write("4", record(1, 3, "abc"));
  auto log = stored();
  EXPECT_EQ(everything(*log), "0123abc");
}

TEST_F(StoredLogTest, WhatIsNoRecordEndsItsSegment) {
  write("0", record(1, 2, "ab") + record(0, 5, "xxxxx"));
  write("9", record(7, 0, "") + "trailing");
  auto log = stored();
  EXPECT_EQ(log->end_offset(), 9U);
  EXPECT_EQ(everything(*log), "ab[2-9]");
}

TEST_F(StoredLogTest, OddNamesAndThingsThatAreNoFilesAreNotRead) {
  for (const char* name : {"00", "-1", "1e3", "0x10", " 7", "18446744073709551616",
                           "18446744073709551615", "1152921504606846977", "7.bak"}) {
    write(name, record(1, 2, "no"));
  }
  std::filesystem::create_symlink("/etc/passwd", path_ + "/e/100");
  ::mkfifo((path_ + "/e/200").c_str(), 0600);
  std::filesystem::create_directory(path_ + "/e/300");
  std::filesystem::create_symlink("/etc/passwd", path_ + "/e/end");
  write("0", record(1, 2, "ab"));
  auto log = stored();
  EXPECT_FALSE(log->end().has_value());
  EXPECT_EQ(everything(*log), "ab[2-100][100-200][200-300]");
}

TEST_F(StoredLogTest, ALargeNoteIsNone) {
  write("end", std::string(StoredLog::kMaxNote + 1, 'x'));
  EXPECT_FALSE(stored()->end().has_value());
  write("head", std::string(StoredLog::kMaxNote + 1, 'x'));
  EXPECT_FALSE(stored().has_value());
  std::filesystem::remove(path_ + "/e/head");
  EXPECT_FALSE(stored().has_value());
  EXPECT_FALSE(StoredLog::open(UniqueFd()).has_value());
}

TEST_F(StoredLogTest, WithoutASegmentIsEmpty) {
  auto log = stored();
  EXPECT_EQ(log->end_offset(), 0U);
  EXPECT_EQ(everything(*log), "");
}

}  // namespace
}  // namespace runbus::log
