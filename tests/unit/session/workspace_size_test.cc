#include "services/session/workspace_size.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "tests/unit/session/loop.h"

namespace runbus::session {
namespace {

constexpr std::uint64_t kMiB = 1U << 20U;

void write_file(const std::string& path, std::size_t bytes) {
  std::ofstream(path) << std::string(bytes, 'x');
}

TEST(WorkspaceSize, CountsFilesOnceAndWhatIsLinkedNot) {
  const testing::TemporaryDirectory directory;
  const testing::TemporaryDirectory outside;
  write_file(outside.path() + "/large", 8 * kMiB);
  std::filesystem::create_directories(directory.path() + "/a/b");
  write_file(directory.path() + "/a/b/file", kMiB);
  std::filesystem::create_hard_link(directory.path() + "/a/b/file", directory.path() + "/again");
  std::filesystem::create_symlink(outside.path(), directory.path() + "/link");
  std::filesystem::create_symlink(directory.path(), directory.path() + "/a/up");
  const auto size = measure_workspace(directory.path(), 4 * kMiB);
  ASSERT_TRUE(size.has_value());
  EXPECT_FALSE(size->over);
  EXPECT_GE(size->bytes, kMiB);
  EXPECT_LT(size->bytes, 2 * kMiB);
  EXPECT_EQ(size->files, 5U);
}

TEST(WorkspaceSize, AHoleTakesNothing) {
  const testing::TemporaryDirectory directory;
  write_file(directory.path() + "/sparse", 1);
  ASSERT_EQ(::truncate((directory.path() + "/sparse").c_str(), 1LL << 40), 0);
  EXPECT_FALSE(measure_workspace(directory.path(), kMiB).value().over);
}

TEST(WorkspaceSize, IsOverByBytesByFilesAndByDepth) {
  const testing::TemporaryDirectory directory;
  write_file(directory.path() + "/file", 2 * kMiB);
  EXPECT_TRUE(measure_workspace(directory.path(), kMiB).value().over);
  EXPECT_FALSE(measure_workspace(directory.path(), 4 * kMiB).value().over);

  const testing::TemporaryDirectory many;
  for (std::uint64_t index = 0; index <= files_of_quota(kMiB); ++index) {
    write_file(many.path() + "/" + std::to_string(index), 0);
  }
  EXPECT_TRUE(measure_workspace(many.path(), kMiB).value().over);
  EXPECT_FALSE(measure_workspace(many.path(), 1024 * kMiB).value().over);

  const testing::TemporaryDirectory deep;
  std::string path = deep.path();
  for (int level = 0; level < 200; ++level) {
    path += "/d";
  }
  std::filesystem::create_directories(path);
  EXPECT_TRUE(measure_workspace(deep.path(), kMiB * 1024).value().over);
}

TEST(WorkspaceSize, SaysWhenThereIsNoWorkspace) {
  EXPECT_FALSE(measure_workspace("/nonexistent/workspace", kMiB).has_value());
}

}  // namespace
}  // namespace runbus::session
