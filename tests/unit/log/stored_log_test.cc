#include "services/log/stored_log.h"

#include <sys/stat.h>

#include <fstream>

#include "tests/unit/log/log_fixture.h"

namespace runbus::log {
namespace {

// Folders as a hostile agent, or one that was killed, may leave them.
class StoredLogTest : public LogTest {
 protected:
  StoredLogTest() {
    std::filesystem::create_directory(path_ + "/e");
    write("0", record(kHead, "head"));
  }
  void write(const std::string& name, const std::string& content) {
    std::ofstream(path_ + "/e/" + name, std::ios::binary) << content;
  }
  // A segment that begins as each does.
  void write_segment(const std::string& name, const std::string& records) {
    write(name, record(kHead, "head") + records);
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
  write_segment("0", record(1, "abc") + record(2, 100, "defg"));
  auto log = stored();
  EXPECT_EQ(log->end_offset(), 7U);
  EXPECT_EQ(everything(*log), "abcdefg");
  write_segment("0", record(1, "abc") + "\x01\0");
  log = stored();
  EXPECT_EQ(log->end_offset(), 3U);
  EXPECT_EQ(everything(*log), "abc");
}

TEST_F(StoredLogTest, WhatIsMissingIsAGap) {
  std::filesystem::remove(path_ + "/e/0");
  write_segment("5", record(1, "abc"));
  write_segment("20", record(1, "de"));
  auto log = stored();
  EXPECT_EQ(log->first_offset(), 5U);
  EXPECT_EQ(log->end_offset(), 22U);
  EXPECT_EQ(everything(*log), "[0-5]abc[8-20]de");
}

TEST_F(StoredLogTest, SegmentsThatOverlapGiveEachOffsetOnce) {
  write_segment("0", record(1, "0123456789"));
  write_segment("4", record(1, "abc"));
  auto log = stored();
  EXPECT_EQ(everything(*log), "0123abc");
}

TEST_F(StoredLogTest, WhatIsNoRecordEndsItsSegment) {
  write_segment("0", record(1, "ab") + record(0, "xxxxx"));
  write_segment("9", record(7, "") + "trailing");
  auto log = stored();
  EXPECT_EQ(log->end_offset(), 9U);
  EXPECT_EQ(everything(*log), "ab[2-9]");
}

TEST_F(StoredLogTest, OddNamesAndThingsThatAreNoFilesAreNotRead) {
  for (const char* name : {"00", "-1", "1e3", "0x10", " 7", "18446744073709551616",
                           "18446744073709551615", "1152921504606846977", "7.bak"}) {
    write_segment(name, record(1, "no"));
  }
  std::filesystem::create_symlink("/etc/passwd", path_ + "/e/100");
  ::mkfifo((path_ + "/e/200").c_str(), 0600);
  std::filesystem::create_directory(path_ + "/e/300");
  write_segment("0", record(1, "ab") + record(kEnd, "of another segment"));
  auto log = stored();
  EXPECT_FALSE(log->end().has_value());
  EXPECT_EQ(everything(*log), "ab[2-100][100-200][200-300]");
}

TEST_F(StoredLogTest, TheEndIsTheLastRecord) {
  write_segment("0", record(1, "abc") + record(kEnd, "end"));
  EXPECT_EQ(stored()->end().value(), "end");
  EXPECT_EQ(stored()->end_offset(), 3U);
  write_segment("0", record(1, "abc") + record(kEnd, 4, "end"));  // cut short
  EXPECT_FALSE(stored()->end().has_value());
  EXPECT_EQ(stored()->end_offset(), 3U);
  write_segment("0", record(1, "abc") + record(kEnd, "end") + record(1, "def"));
  auto log = stored();
  EXPECT_FALSE(log->end().has_value());
  EXPECT_EQ(everything(*log), "abcdef");
  write_segment("0", record(1, "abc") + record(kEnd, "end") + record(1, 2, ""));
  EXPECT_FALSE(stored()->end().has_value());
}

TEST_F(StoredLogTest, NotesAreNoBytesWhereverTheyAre) {
  write_segment("0", record(1, "abc") + record(kHead, "again") + record(1, "def"));
  auto log = stored();
  EXPECT_EQ(log->head(), "head");
  EXPECT_EQ(everything(*log), "abcdef");
}

TEST_F(StoredLogTest, ALargeNoteIsNone) {
  write_segment("0", record(kEnd, std::string(kMaxNote, 'x')));
  EXPECT_EQ(stored()->end()->size(), kMaxNote);
  write_segment("0", record(kEnd, std::string(kMaxNote + 1, 'x')));
  EXPECT_FALSE(stored()->end().has_value());
  write("0", record(kHead, std::string(kMaxNote + 1, 'x')));
  EXPECT_FALSE(stored().has_value());
}

TEST_F(StoredLogTest, WithoutAHeadIsNoLog) {
  for (const std::string& bytes : {std::string(), record(1, "abc"), record(kEnd, "end"),
                                   record(kHead, 5, "head"), record(kHead, "")}) {
    write("0", bytes);
    EXPECT_FALSE(stored().has_value()) << bytes;
  }
  std::filesystem::remove(path_ + "/e/0");
  EXPECT_FALSE(stored().has_value());
  EXPECT_FALSE(StoredLog::open(UniqueFd()).has_value());
}

TEST_F(StoredLogTest, IsGivenTheEndThatItsWriterCouldNot) {
  for (const std::string& records : {std::string(), record(1, "abc"), record(2, 100, "defg")}) {
    std::filesystem::remove_all(path_ + "/e");
    std::filesystem::create_directory(path_ + "/e");
    write_segment("0", records);
    write("fresh", "left by another");
    auto log = stored();
    const std::string before = everything(*log);
    ASSERT_TRUE(log->finish("end"));
    EXPECT_FALSE(log->finish("again"));
    auto finished = stored();
    EXPECT_EQ(finished->head(), "head");
    EXPECT_EQ(finished->end().value(), "end");
    EXPECT_EQ(finished->end_offset(), before.size());
    EXPECT_EQ(everything(*finished), before);
    EXPECT_FALSE(finished->finish("again"));
  }
}

TEST_F(StoredLogTest, OfAHeadAloneIsEmpty) {
  auto log = stored();
  EXPECT_EQ(log->end_offset(), 0U);
  EXPECT_EQ(everything(*log), "");
}

}  // namespace
}  // namespace runbus::log
