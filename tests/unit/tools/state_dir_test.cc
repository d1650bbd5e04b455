#include "tools/runbus/state_dir.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <fstream>

#include "tests/unit/tools/testing.h"
#include "tools/runbus/files.h"

namespace runbus::cli {
namespace {

using testing::content_of;
using testing::mode_of;
using testing::TemporaryDirectory;

TEST(StateDir, IsForItsOwnerAlone) {
  const TemporaryDirectory directory;
  ASSERT_TRUE(StateDir::open(directory / "a/b"));
  EXPECT_EQ(mode_of(directory / "a/b"), 0700);
}

TEST(StateDir, ClosesAnEmptyDirectoryAndRefusesAnOpenOneInUse) {
  const TemporaryDirectory directory;
  std::filesystem::create_directory(directory / "open");
  ::chmod((directory / "open").c_str(), 0755);
  ASSERT_TRUE(StateDir::open(directory / "open"));
  EXPECT_EQ(mode_of(directory / "open"), 0700);

  std::ofstream(directory / "open/something") << "x";
  ::chmod((directory / "open").c_str(), 0755);
  const auto refused = StateDir::open(directory / "open");
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().detail.find("open to other users"), std::string::npos);
  EXPECT_EQ(mode_of(directory / "open"), 0755);
}

TEST(StateDir, IsLockedByOneAtATime) {
  const TemporaryDirectory directory;
  {
    auto first = StateDir::open(directory.path());
    auto second = StateDir::open(directory.path());
    ASSERT_TRUE(first->lock());
    const auto refused = second->lock();
    ASSERT_FALSE(refused);
    EXPECT_NE(refused.error().detail.find("another `runbus up` runs"), std::string::npos);
  }
  auto third = StateDir::open(directory.path());
  EXPECT_TRUE(third->lock());
}

TEST(Token, IsMadeOnceAndKeptFromOthers) {
  const TemporaryDirectory directory;
  const auto state = StateDir::open(directory.path());
  const auto made = state->token(std::nullopt);
  ASSERT_TRUE(made);
  EXPECT_GE(made->size(), 32U);
  EXPECT_EQ(mode_of(state->token_file()), 0600);
  EXPECT_EQ(*state->token(std::nullopt), *made);

  ::chmod(state->token_file().c_str(), 0644);
  ASSERT_TRUE(state->token(std::nullopt));
  EXPECT_EQ(mode_of(state->token_file()), 0600);
}

TEST(Token, ChosenOneIsKept) {
  const TemporaryDirectory directory;
  const auto state = StateDir::open(directory.path());
  ASSERT_TRUE(state->token("my-own"));
  EXPECT_EQ(*state->token(std::nullopt), "my-own");
  EXPECT_EQ(mode_of(state->token_file()), 0600);
}

TEST(Token, HasNoCharactersThatAUrlOrAHeaderWouldTakeApart) {
  EXPECT_TRUE(check_token("aZ09-._~"));
  for (const char* bad : {"", "a b", "a&b", "a\nb", "a/b", "\xc3\xa4"}) {
    EXPECT_FALSE(check_token(bad)) << bad;
  }
  EXPECT_FALSE(check_token(std::string(257, 'a')));
}

// A socket can be bound at the longest name that an endpoint may have.
void expect_bindable(const SocketDir& sockets) {
  const std::string path = sockets.endpoint(std::string(16, 'n')).substr(6);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  ASSERT_LT(path.size(), sizeof address.sun_path);
  path.copy(address.sun_path, path.size());
  const UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
}

TEST(SocketDir, IsInTheStateDirectoryAndEmptyAfterwards) {
  const TemporaryDirectory directory;
  {
    const auto sockets = SocketDir::make(directory.path());
    ASSERT_TRUE(sockets);
    EXPECT_EQ(sockets->path(), directory / "run");
    EXPECT_EQ(mode_of(directory / "run"), 0700);
    expect_bindable(*sockets);
    EXPECT_FALSE(std::filesystem::is_empty(directory / "run"));
  }
  EXPECT_TRUE(std::filesystem::is_empty(directory / "run"));
}

TEST(SocketDir, RemovesSocketsThatAKilledOneLeft) {
  const TemporaryDirectory directory;
  std::filesystem::create_directory(directory / "run");
  ::chmod((directory / "run").c_str(), 0700);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = directory / "run/bus.sock";
  path.copy(address.sun_path, path.size());
  const UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  std::ofstream(path + ".lock") << "";
  const auto sockets = SocketDir::make(directory.path());
  ASSERT_TRUE(sockets);
  EXPECT_TRUE(std::filesystem::is_empty(directory / "run"));
}

TEST(SocketDir, GoesElsewhereWhenThePathIsTooLongForASocket) {
  const TemporaryDirectory directory;
  const std::string deep = directory / std::string(100, 'd');
  std::filesystem::create_directory(deep);
  std::string used;
  {
    const auto sockets = SocketDir::make(deep);
    ASSERT_TRUE(sockets);
    used = sockets->path();
    EXPECT_EQ(used.find(deep), std::string::npos);
    EXPECT_EQ(mode_of(used), 0700);
    expect_bindable(*sockets);
  }
  EXPECT_FALSE(std::filesystem::exists(used));
}

TEST(Files, AreReplacedInOneStepAndBounded) {
  const TemporaryDirectory directory;
  ASSERT_TRUE(write_file(directory / "f", "one", 0600));
  ASSERT_TRUE(write_file(directory / "f", "two", 0600));
  EXPECT_EQ(content_of(directory / "f"), "two");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(directory.path()), {}), 1);
  EXPECT_TRUE(read_file(directory / "f", 3));
  EXPECT_FALSE(read_file(directory / "f", 2));
  EXPECT_FALSE(write_file(directory / "none/f", "x", 0600));
}

}  // namespace
}  // namespace runbus::cli
