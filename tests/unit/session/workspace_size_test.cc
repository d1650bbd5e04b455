#include "services/session/workspace_size.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>

#include "proto/support/unique_fd.h"
#include "services/session/remove_tree.h"
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

TEST(WorkspaceSize, IsOverByBytesAndByFiles) {
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
}

TEST(WorkspaceSize, CountsToAnyDepth) {
  constexpr int kDepth = 3000;  // longer than a path may be
  const testing::TemporaryDirectory directory;
  UniqueFd folder(::open(directory.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  for (int level = 0; level < kDepth; ++level) {
    ASSERT_EQ(::mkdirat(folder.get(), "d", 0700), 0);
    ASSERT_EQ(::mkdirat(folder.get(), "beside", 0700), 0);
    folder.reset(::openat(folder.get(), "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  }
  const auto size = measure_workspace(directory.path(), 1024 * kMiB);
  EXPECT_FALSE(size->over);
  EXPECT_EQ(size->files, 2U * kDepth);
  EXPECT_TRUE(remove_tree(directory.path()));
}

TEST(WorkspaceSize, EndsInATreeThatMoves) {
  const testing::TemporaryDirectory directory;
  for (const char* name : {"/a", "/b"}) {
    std::filesystem::create_directories(directory.path() + name + "/c/d/e");
  }
  std::filesystem::create_directories(directory.path() + "/a/moved/x/y/z");
  const std::string from = directory.path() + "/a/moved";
  const std::string to = directory.path() + "/b/c/d/moved";
  std::atomic<bool> done = false;
  std::thread mover([&] {
    while (!done) {
      ::rename(from.c_str(), to.c_str());
      ::rename(to.c_str(), from.c_str());
    }
  });
  int counted = 0;
  for (int round = 0; round < 2000; ++round) {
    const auto size = measure_workspace(directory.path(), kMiB * 1024);
    ASSERT_TRUE(size.has_value());
    if (!size->over) {
      ++counted;
      EXPECT_GE(size->files, 8U);   // without what moves
      EXPECT_LE(size->files, 16U);  // with it, twice
    }
  }
  done = true;
  mover.join();
  EXPECT_GT(counted, 0);
}

TEST(WorkspaceSize, SaysWhenThereIsNoWorkspace) {
  EXPECT_FALSE(measure_workspace("/nonexistent/workspace", kMiB).has_value());
}

}  // namespace
}  // namespace runbus::session
