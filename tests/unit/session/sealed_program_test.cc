#include "services/session/sealed_program.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <string>

namespace runbus::session {
namespace {

class SealedProgramTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "sealed-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string install(const std::string& source) {
    const std::string path = folder_ + "/program";
    std::filesystem::copy_file(source, path + ".new");
    std::filesystem::rename(path + ".new", path);
    return path;
  }

  static int exit_status(const UniqueFd& program) {
    const pid_t child = ::fork();
    if (child == 0) {
      char name[] = "program";
      char* const arguments[] = {name, nullptr};
      ::fexecve(program.get(), arguments, environ);
      ::_exit(126);
    }
    int status = -1;
    ::waitpid(child, &status, 0);
    return WEXITSTATUS(status);
  }

  std::string folder_;
};

TEST_F(SealedProgramTest, RunsAndCannotBeWritten) {
  SealedProgram program(install("/bin/true"));
  const UniqueFd copy = program.open();
  ASSERT_TRUE(copy);
  EXPECT_EQ(exit_status(copy), 0);
  EXPECT_EQ(::write(copy.get(), "x", 1), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(::fcntl(copy.get(), F_GET_SEALS),
            F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
}

TEST_F(SealedProgramTest, FollowsAnUpgradeOfTheProgram) {
  SealedProgram program(install("/bin/true"));
  EXPECT_EQ(exit_status(program.open()), 0);
  install("/bin/false");
  EXPECT_EQ(exit_status(program.open()), 1);
  std::filesystem::remove(folder_ + "/program");
  EXPECT_FALSE(program.open());
}

}  // namespace
}  // namespace runbus::session
