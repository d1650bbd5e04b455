#include "services/log/output_log.h"

#include <signal.h>
#include <sys/resource.h>

#include "tests/unit/log/log_fixture.h"

namespace runbus::log {
namespace {

TEST_F(LogTest, IsOnDiskBeforeAppendReturns) {
  OutputLog log(10 << 20, space_);
  ASSERT_TRUE(log.create(directory_.get(), "e", "the head"));
  EXPECT_EQ(stored()->end_offset(), 0U);
  for (const std::uint64_t total : {1U, 5U, 70'000U, 3'000'000U}) {
    fill(log, total);
    auto reader = stored();
    ASSERT_TRUE(reader.has_value());
    EXPECT_EQ(reader->head(), "the head");
    EXPECT_FALSE(reader->end().has_value());
    EXPECT_EQ(reader->end_offset(), total);
    expect_intact(*reader);
  }
  expect_intact(log);
  EXPECT_TRUE(log.finish("the end"));
  EXPECT_EQ(stored()->end().value(), "the end");
}

TEST_F(LogTest, KeepsItsSizeAndEvictsTheOldest) {
  OutputLog log(2 << 20, space_);
  ASSERT_TRUE(log.create(directory_.get(), "e", "h"));
  fill(log, 1'900'000);
  EXPECT_EQ(log.first_offset(), 0U);
  fill(log, 9'000'001);
  EXPECT_LE(log.footprint(), 2U << 20);
  EXPECT_LE(bytes_on_disk(), (2U << 20) + 1);
  EXPECT_GT(log.end_offset() - log.first_offset(), 1'900'000U);
  expect_intact(log);
  auto reader = stored();
  EXPECT_EQ(reader->first_offset(), log.first_offset());
  expect_intact(*reader);
  EXPECT_EQ(space_.used, log.footprint());
}

TEST_F(LogTest, OfBytesThatAlternateStreamsKeepsItsCapacity) {
  OutputLog log(1, space_);
  ASSERT_TRUE(log.create(directory_.get(), "e", "h"));
  for (int i = 0; i < 100'000; ++i) {
    log.append(i % 2 == 0 ? kStdout : kStderr, bytes_at(log.end_offset(), 1));
  }
  EXPECT_LE(log.footprint(), OutputLog::kMinSize);
  EXPECT_GE(log.end_offset() - log.first_offset(), log.capacity());
  expect_intact(log);
}

TEST_F(LogTest, RemovesItsFiles) {
  OutputLog log(1 << 20, space_);
  ASSERT_TRUE(log.create(directory_.get(), "e", "h"));
  fill(log, 500'000);
  log.finish("end");
  log.remove();
  EXPECT_TRUE(std::filesystem::is_empty(path_));
  EXPECT_EQ(space_.used, 0U);
  EXPECT_EQ(log.first_offset(), log.end_offset());
}

TEST_F(LogTest, FromAPreparedFolderIsAsAnyOther) {
  PreparedLog prepared;
  for (const std::uint64_t total : {0U, 5U, 3'000'000U}) {
    ASSERT_TRUE(prepared.make(directory_.get()));
    ASSERT_TRUE(prepared.make(directory_.get()));  // nothing to do
    OutputLog log(2 << 20, space_);
    ASSERT_TRUE(log.create(directory_.get(), "e", "the head", &prepared));
    EXPECT_FALSE(prepared.is_ready());
    EXPECT_FALSE(std::filesystem::exists(path_ + "/" + PreparedLog::kName));
    fill(log, total);
    EXPECT_EQ(stored()->head(), "the head");
    EXPECT_EQ(stored()->end_offset(), total);
    EXPECT_FALSE(stored()->end().has_value());
    EXPECT_TRUE(log.finish("the end"));
    auto reader = stored();
    EXPECT_EQ(reader->end().value(), "the end");
    EXPECT_EQ(reader->first_offset(), log.first_offset());
    expect_intact(*reader);
    expect_intact(log);
    log.remove();
    EXPECT_TRUE(std::filesystem::is_empty(path_));
  }
}

TEST_F(LogTest, FromTheFolderOfOneThatWasRemovedIsAsAnyOther) {
  PreparedLog prepared;
  for (const std::uint64_t before : {0U, 1000U, 3'000'000U}) {  // the last is several files
    OutputLog old(4 << 20, space_);
    ASSERT_TRUE(old.create(directory_.get(), "old", "the old head"));
    fill(old, before);
    ASSERT_TRUE(old.finish("the old end"));
    old.remove(&prepared);
    EXPECT_EQ(space_.used, 0U);
    EXPECT_EQ(prepared.is_ready(), before < 3'000'000);
    EXPECT_EQ(stored("old"), std::nullopt);
    OutputLog log(2 << 20, space_);
    ASSERT_TRUE(log.create(directory_.get(), "e", "head", &prepared));
    EXPECT_EQ(stored()->head(), "head");
    EXPECT_EQ(stored()->end_offset(), 0U);
    EXPECT_FALSE(stored()->end().has_value());
    fill(log, 10);
    EXPECT_TRUE(log.finish("end"));
    auto reader = stored();
    EXPECT_EQ(reader->end().value(), "end");
    expect_intact(*reader);
    expect_intact(log);
    log.remove();
    EXPECT_TRUE(std::filesystem::is_empty(path_));
  }
}

TEST_F(LogTest, AFolderThatIsOfNoUseAsTheNextOneIsRemoved) {
  const auto remove_one = [this](PreparedLog& prepared) {
    OutputLog log(1 << 20, space_);
    ASSERT_TRUE(log.create(directory_.get(), "e", "head"));
    fill(log, 100);
    log.remove(&prepared);
    EXPECT_FALSE(std::filesystem::exists(path_ + "/e"));
  };
  PreparedLog prepared;
  ASSERT_TRUE(prepared.make(directory_.get()));
  remove_one(prepared);  // the next one is there already
  EXPECT_TRUE(prepared.is_ready());
  EXPECT_EQ(std::filesystem::file_size(path_ + "/.next/0"), 0U);
  PreparedLog none;
  remove_one(none);  // something is in its place
  EXPECT_FALSE(none.is_ready());
  std::filesystem::remove_all(path_ + "/.next");
  remove_one(none);  // negative control
  EXPECT_TRUE(none.is_ready());
  EXPECT_EQ(std::filesystem::file_size(path_ + "/.next/0"), 1U);
}

TEST_F(LogTest, OfLittleOutputIsOneFile) {
  OutputLog log(2 << 20, space_);
  ASSERT_TRUE(log.create(directory_.get(), "e", "the head"));
  fill(log, 100);
  ASSERT_TRUE(log.finish("the end"));
  const auto files = std::filesystem::directory_iterator(path_ + "/e");
  EXPECT_EQ(std::distance(begin(files), end(files)), 1);
}

TEST_F(LogTest, WhoseFirstSegmentsHaveGoneHasItsHead) {
  OutputLog log(1, space_);
  ASSERT_TRUE(log.create(directory_.get(), "e", std::string(OutputLog::kMaxHead, 'h')));
  fill(log, 1'000'000);
  EXPECT_GT(log.first_offset(), 0U);
  EXPECT_EQ(stored()->head(), std::string(OutputLog::kMaxHead, 'h'));
  EXPECT_GE(log.end_offset() - log.first_offset(), log.capacity());
  EXPECT_LE(bytes_on_disk(), OutputLog::kMinSize);
}

TEST_F(LogTest, IsMadeAnewWhereAPreparedFolderIsOfNoUse) {
  std::filesystem::create_directories(path_ + "/.next/odd");  // not ours to remove
  PreparedLog prepared;
  EXPECT_FALSE(prepared.make(directory_.get()));
  EXPECT_FALSE(prepared.make(-1));
  OutputLog without(1 << 20, space_);
  ASSERT_TRUE(without.create(directory_.get(), "e", "h", &prepared));
  std::filesystem::remove_all(path_ + "/.next");
  // What an earlier process prepared is replaced.
  ASSERT_TRUE(PreparedLog().make(directory_.get()));
  ASSERT_TRUE(prepared.make(directory_.get()));
  std::filesystem::create_directories(path_ + "/taken/by");
  OutputLog taken(1 << 20, space_);
  EXPECT_FALSE(taken.create(directory_.get(), "taken", "h", &prepared));
  fill(taken, 1000);
  expect_intact(taken);  // in memory
  ASSERT_TRUE(prepared.make(directory_.get()));
  OutputLog last(1 << 20, space_);
  EXPECT_TRUE(last.create(directory_.get(), "last", "h", &prepared));
}

TEST_F(LogTest, WithoutADirectoryKeepsAMegabyte) {
  OutputLog log(64 << 20, space_);
  EXPECT_FALSE(log.create(-1, "e", "h"));
  fill(log, 5'000'000);
  EXPECT_LE(log.footprint(), OutputLog::kMaxMemory);
  EXPECT_GT(log.end_offset() - log.first_offset(), 900'000U);
  expect_intact(log);
}

TEST_F(LogTest, TakesAppendsLargerThanItself) {
  OutputLog log(1, space_);
  log.append(kStdout, bytes_at(0, 200'000));
  EXPECT_EQ(log.end_offset(), 200'000U);
  EXPECT_GT(log.end_offset() - log.first_offset(), 56'000U);
  expect_intact(log);
}

TEST_F(LogTest, ManyReadersAtOnceGetTheirOwnBytes) {
  OutputLog log(10 << 20, space_);
  ASSERT_TRUE(log.create(directory_.get(), "e", "h"));
  fill(log, 4'000'000, 300);
  std::array<RecordReader, 3> readers;
  std::array<std::uint64_t, 3> offsets{0, 1'000'000, 3'999'000};
  std::string buffer(9'000, '\0');
  for (int round = 0; round < 100; ++round) {
    for (std::size_t i = 0; i < readers.size(); ++i) {
      const Piece piece = log.read(readers[i], offsets[i], buffer.data(), buffer.size());
      ASSERT_GT(piece.size, 0U);
      ASSERT_EQ(buffer.substr(0, piece.size), bytes_at(offsets[i], piece.size));
      offsets[i] = (offsets[i] + piece.size) % log.end_offset();
    }
  }
}

TEST_F(LogTest, InAFullSpaceKeepsItsShareAlone) {
  int asked = 0;
  space_.limit = 8 << 20;
  space_.on_full = [&asked] { ++asked; };
  OutputLog first(64 << 20, space_);
  OutputLog second(64 << 20, space_);
  ASSERT_TRUE(first.create(directory_.get(), "first", "h"));
  ASSERT_TRUE(second.create(directory_.get(), "second", "h"));
  fill(first, 6'000'000);
  EXPECT_EQ(asked, 0);
  EXPECT_EQ(first.first_offset(), 0U);
  fill(second, 6'000'000);
  EXPECT_GT(asked, 0);
  EXPECT_GT(second.first_offset(), 0U);
  EXPECT_GE(second.footprint(), OutputLog::kShare - OutputLog::kMaxSegment);
  expect_intact(second);
}

// A file may not grow beyond this.
class FileLimit {
 public:
  explicit FileLimit(rlim_t size) {
    ::signal(SIGXFSZ, SIG_IGN);
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{size, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileLimit() { ::setrlimit(RLIMIT_FSIZE, &before_); }

 private:
  rlimit before_{};
};

TEST_F(LogTest, ALimitOfFileSizeMakesMoreFiles) {
  const FileLimit limit(100'000);
  OutputLog log(64 << 20, space_);
  ASSERT_TRUE(log.create(directory_.get(), "e", "h"));
  fill(log, 5'000'000);
  EXPECT_TRUE(log.in_files());
  EXPECT_EQ(log.first_offset(), 0U);
  expect_intact(log);
  auto reader = stored();
  expect_intact(*reader);
}

TEST_F(LogTest, ADiskThatTakesNothingLeavesMemory) {
  OutputLog log(64 << 20, space_);
  ASSERT_TRUE(log.create(directory_.get(), "e", "h"));
  fill(log, 300'000);
  const FileLimit limit(10);
  fill(log, 700'000);
  EXPECT_FALSE(log.in_files());
  EXPECT_EQ(log.first_offset(), 0U);
  expect_intact(log);
  fill(log, 5'000'000);
  EXPECT_LE(log.footprint(), OutputLog::kMaxMemory);
  expect_intact(log);
}

TEST_F(LogTest, WhoseLastBytesAreInMemoryHasItsEndOnDisk) {
  for (const std::uint64_t before : {0U, 300'000U}) {
    OutputLog log(64 << 20, space_);
    ASSERT_TRUE(log.create(directory_.get(), "e", "h"));
    fill(log, before);
    {
      const FileLimit limit(5);
      fill(log, 700'000);
      EXPECT_FALSE(log.finish("the end"));
    }
    EXPECT_EQ(stored()->head(), "h");
    EXPECT_FALSE(stored()->end().has_value());
    EXPECT_TRUE(log.finish("the end"));
    EXPECT_EQ(stored()->end().value(), "the end");
    EXPECT_EQ(stored()->end_offset(), 700'000U);
    expect_intact(log);
    log.remove();
    EXPECT_TRUE(std::filesystem::is_empty(path_));
  }
}

TEST_F(LogTest, WhatTheDiskLosesIsAGap) {
  OutputLog log(64 << 20, space_);
  ASSERT_TRUE(log.create(directory_.get(), "e", "h"));
  log.append(kStdout, bytes_at(0, 2'500'000));
  const StoredLog before = std::move(*stored());
  std::filesystem::remove(path_ + "/e/0");
  RecordReader reader;
  char byte = 0;
  EXPECT_EQ(log.read(reader, 10, &byte, 1).size, 0U);
  EXPECT_EQ(log.first_offset(), before.after(10));
  expect_intact(log);
}

}  // namespace
}  // namespace runbus::log
