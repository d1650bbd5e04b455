#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <sstream>
#include <string>

#include "tests/unit/agent/agent_process.h"
#include "tests/unit/agent/test_client.h"

namespace runbus::agent_test {
namespace {

class AgentFiles : public ::testing::Test {
 protected:
  std::string read(const std::string& path) {
    std::ifstream file(agent_.workspace() + "/" + path, std::ios::binary);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }
  v1::Failed::Reason refusal(const std::string& path) {
    const v1::AgentReply reply = client_.write_file(path, "evil");
    EXPECT_TRUE(reply.has_failed()) << path;
    return reply.failed().reason();
  }

  AgentProcess agent_;
  TestClient client_{agent_.socket_path()};
};

TEST_F(AgentFiles, WritesAndReplacesAndAppends) {
  ASSERT_TRUE(client_.write_file("a/b/c.txt", "a longer text").has_done());
  EXPECT_EQ(read("a/b/c.txt"), "a longer text");
  ASSERT_TRUE(client_.write_file("./a//b/c.txt", "short").has_done());
  ASSERT_TRUE(client_.write_file("a/b/c.txt", " more", true).has_done());
  EXPECT_EQ(read("a/b/c.txt"), "short more");
}

TEST_F(AgentFiles, TakesAModeWithoutSetIdBits) {
  v1::AgentRequest request;
  request.mutable_write_file()->set_path("x");
  request.mutable_write_file()->set_mode(06755);
  ASSERT_TRUE(client_.call(request, "x").has_done());
  struct stat status {};
  ASSERT_EQ(::stat((agent_.workspace() + "/x").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0755U);
}

TEST_F(AgentFiles, RefusesPathsThatLeadOut) {
  EXPECT_EQ(refusal("/etc/evil"), v1::Failed::INVALID);
  EXPECT_EQ(refusal("../evil"), v1::Failed::INVALID);
  EXPECT_EQ(refusal("a/../../evil"), v1::Failed::INVALID);
  EXPECT_EQ(refusal(""), v1::Failed::INVALID);
  EXPECT_EQ(refusal("dir/"), v1::Failed::INVALID);
  EXPECT_EQ(refusal(std::string("a\0b", 3)), v1::Failed::INVALID);
  ASSERT_EQ(::symlink("..", (agent_.workspace() + "/up").c_str()), 0);
  EXPECT_EQ(refusal("up/evil"), v1::Failed::INVALID);
  EXPECT_EQ(refusal("up/new/evil"), v1::Failed::INVALID);
  ASSERT_EQ(::symlink("/proc/self/root/tmp", (agent_.workspace() + "/magic").c_str()), 0);
  EXPECT_EQ(refusal("magic/evil"), v1::Failed::INVALID);
  ASSERT_EQ(::symlink("../evil", (agent_.workspace() + "/link").c_str()), 0);
  EXPECT_EQ(refusal("link"), v1::Failed::INVALID);
  EXPECT_NE(::access((agent_.directory() + "/evil").c_str(), F_OK), 0);
  EXPECT_NE(::access((agent_.directory() + "/new").c_str(), F_OK), 0);
}

TEST_F(AgentFiles, ALinkThatStaysInsideIsFollowedOnTheWay) {
  ASSERT_EQ(::mkdir((agent_.workspace() + "/real").c_str(), 0755), 0);
  ASSERT_EQ(::symlink("real", (agent_.workspace() + "/alias").c_str()), 0);
  ASSERT_TRUE(client_.write_file("alias/new/file", "x").has_done());
  EXPECT_EQ(read("real/new/file"), "x");
}

TEST_F(AgentFiles, NeverBlocksOnWhatIsNoRegularFile) {
  ASSERT_EQ(::mkfifo((agent_.workspace() + "/fifo").c_str(), 0644), 0);
  EXPECT_EQ(refusal("fifo"), v1::Failed::INVALID);
  ASSERT_EQ(::mkdir((agent_.workspace() + "/dir").c_str(), 0755), 0);
  EXPECT_EQ(refusal("dir"), v1::Failed::INVALID);
  ASSERT_TRUE(client_.write_file("file", "x").has_done());
  EXPECT_EQ(refusal("file/below"), v1::Failed::INVALID);
}

}  // namespace
}  // namespace runbus::agent_test
