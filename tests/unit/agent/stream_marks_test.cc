#include "services/agent/stream_marks.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace runbus::agent {
namespace {

TEST(StreamMarks, FindsTheRunOfEveryOffset) {
  std::mt19937 random(1);
  StreamMarks marks;
  std::vector<int> streams;
  for (int i = 0; i < 3000; ++i) {
    const int stream = random() % 2 == 0 ? kStdout : kStderr;
    const std::size_t size = random() % 5 == 0 ? random() % 500 : random() % 3;
    marks.append(stream, size);
    streams.insert(streams.end(), size, stream);
  }
  for (std::size_t offset = 0; offset < streams.size(); ++offset) {
    std::size_t end = offset;
    while (end < streams.size() && streams[end] == streams[offset]) {
      ++end;
    }
    const StreamMarks::Run run = marks.at(offset);
    ASSERT_EQ(run.stream, streams[offset]) << offset;
    ASSERT_EQ(run.left, end - offset) << offset;
  }
  const std::size_t middle = streams.size() / 2;
  const std::size_t before = marks.memory();
  marks.drop_before(middle);
  EXPECT_LT(marks.memory(), before);
  EXPECT_EQ(marks.at(middle).stream, streams[middle]);
}

TEST(StreamMarks, AlternatingBytesCostAboutAByteEach) {
  StreamMarks marks;
  for (int i = 0; i < 100'000; ++i) {
    marks.append(i % 2 == 0 ? kStdout : kStderr, 1);
  }
  EXPECT_LT(marks.memory(), 150'000U);
}

}  // namespace
}  // namespace runbus::agent
