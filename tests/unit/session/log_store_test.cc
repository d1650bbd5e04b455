#include "services/session/log_store.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <optional>

#include "runbus/v1/agent.pb.h"
#include "services/log/output_log.h"
#include "services/log/stored_log.h"
#include "tests/unit/session/loop.h"

namespace runbus::session {
namespace {

namespace fs = std::filesystem;
namespace agent_v1 = ::runbus::v1::agent;

class LogStoreTest : public ::testing::Test {
 protected:
  LogStoreTest() { EXPECT_TRUE(store_.prepare().has_value()); }

  // A sandbox's log folder with the execution in it, ended so many seconds ago.
  void execution(const std::string& name, int seconds_ago, std::uint64_t bytes = 10) {
    const fs::path file = write_log(name, "head", "", "end");
    fs::resize_file(file, std::max(bytes, fs::file_size(file)));
    fs::last_write_time(file, fs::file_time_type::clock::now() - std::chrono::seconds(seconds_ago));
  }
  // Its first file. Without an end it is one that still runs.
  fs::path write_log(const std::string& name, const std::string& head, const std::string& output,
                     const std::string& end) {
    fs::create_directories(from_);
    const UniqueFd folder(::open(from_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    log::LogSpace space;
    log::OutputLog log(1 << 20, space);
    EXPECT_TRUE(log.create(folder.get(), name, head));
    log.append(log::kStdout, output);
    EXPECT_TRUE(end.empty() || log.finish(end));
    return from_ + "/" + name + "/0";
  }
  std::optional<log::StoredLog> read(const std::string& name) {
    return log::StoredLog::open(store_.open("k", name));
  }
  std::vector<std::string> kept(const std::string& key = "k") {
    auto names = store_.executions(key);
    std::sort(names.begin(), names.end());
    return names;
  }
  using Names = std::vector<std::string>;

  testing::TemporaryDirectory directory_;
  std::string from_ = directory_.path() + "/sandbox/log";
  LogStore store_{directory_.path()};
};

TEST_F(LogStoreTest, TakesFoldersOverWithTheTimeOfTheirEnd) {
  execution("a", 100);
  execution("b", 5);
  store_.keep("k", "session-k", from_, "");
  EXPECT_EQ(kept(), (Names{"a", "b"}));
  EXPECT_TRUE(fs::is_empty(from_));
  EXPECT_TRUE(store_.has("k", "a"));
  EXPECT_FALSE(store_.has("k", "../k/a"));
  EXPECT_FALSE(store_.has("other", "a"));
  store_.sweep({.ttl = std::chrono::seconds(50)});
  EXPECT_EQ(kept(), Names{"b"});
  store_.sweep({.ttl = std::chrono::seconds(1)});
  EXPECT_TRUE(fs::is_empty(directory_.path() + "/logs"));
}

TEST_F(LogStoreTest, NotesTheLimitThatEndedAllThatRan) {
  execution("ended", 100);
  agent_v1::Listing::Entry head;
  head.set_execution_id("running");
  head.set_started_ms(1000);
  head.set_tag("tag");
  write_log("running", head.SerializeAsString(), "hi", "");
  fs::create_directories(from_ + "/odd");
  fs::create_symlink("/nowhere", from_ + "/odd/0");
  store_.keep("k", "session-k", from_, "memory");
  agent_v1::Exited exited;
  ASSERT_TRUE(exited.ParseFromString(read("running")->end().value()));
  EXPECT_EQ(exited.execution_id(), "running");
  EXPECT_EQ(exited.signal(), SIGKILL);
  EXPECT_EQ(exited.limit(), "memory");
  EXPECT_EQ(exited.end_offset(), 2);
  EXPECT_EQ(exited.tag(), "tag");
  EXPECT_GT(exited.ended_ms(), exited.started_ms());
  EXPECT_EQ(read("ended")->end().value(), "end");  // as it was
}

TEST_F(LogStoreTest, NamesTheSessionsOfWhichItKeepsSomething) {
  EXPECT_EQ(store_.sessions(), Names{});
  execution("a", 100);
  store_.keep("k", "session-k", from_, "");
  execution("b", 5);
  store_.keep("j", "session-j", from_, "");
  execution("c", 5);
  store_.keep("i", "", from_, "");
  auto sessions = store_.sessions();
  std::sort(sessions.begin(), sessions.end());
  EXPECT_EQ(sessions, (Names{"session-j", "session-k"}));
  EXPECT_TRUE(store_.has("k"));
  store_.sweep({.ttl = std::chrono::seconds(50)});
  EXPECT_EQ(store_.sessions(), Names{"session-j"});
  EXPECT_FALSE(store_.has("k"));
}

TEST_F(LogStoreTest, AnEndInTheFutureIsNow) {
  execution("a", -1'000'000);
  store_.keep("k", "session-k", from_, "");
  const auto age =
      fs::file_time_type::clock::now() - fs::last_write_time(directory_.path() + "/logs/k/a");
  EXPECT_GT(age, std::chrono::seconds(-10));
}

TEST_F(LogStoreTest, ANewExecutionTakesThePlaceOfAnOldOneWithItsId) {
  execution("a", 100);
  store_.keep("k", "session-k", from_, "");
  write_log("a", "newer", "", "end");
  store_.keep("k", "session-k", from_, "");
  EXPECT_EQ(read("a")->head(), "newer");
}

TEST_F(LogStoreTest, BeyondTheBoundsTheOldestGo) {
  for (int i = 0; i < 6; ++i) {
    execution("e" + std::to_string(i), 60 - i, 1'000'000);
  }
  store_.keep("k", "session-k", from_, "");
  store_.sweep({.bytes = 4'500'000});
  EXPECT_EQ(kept(), (Names{"e2", "e3", "e4", "e5"}));
  store_.sweep({.count = 2});
  EXPECT_EQ(kept(), (Names{"e4", "e5"}));
}

TEST_F(LogStoreTest, OneSessionHasNoMoreThanItsShare) {
  execution("huge", 1, 2 * LogStore::kMaxSessionBytes);  // sparse
  store_.keep("k", "session-k", from_, "");
  EXPECT_EQ(kept(), Names{});
  fs::remove_all(from_);
  for (int i = 0; i < 300; ++i) {
    execution("e" + std::to_string(i), i);
  }
  store_.keep("k", "session-k", from_, "");
  EXPECT_EQ(kept().size(), LogStore::kMaxPerSession);
}

TEST_F(LogStoreTest, WhatIsNoFolderOfAnExecutionIsLeft) {
  fs::create_directories(from_);
  std::ofstream(from_ + "/file") << "x";
  fs::create_symlink("/etc", from_ + "/link");
  ::mkfifo((from_ + "/fifo").c_str(), 0600);
  execution(".hidden", 1);
  execution("bad name", 1);
  execution("-x", 1);
  store_.keep("k", "session-k", from_, "");
  EXPECT_EQ(kept(), Names{});
  store_.keep("k", "session-k", directory_.path() + "/nowhere", "");
  fs::create_directory_symlink("/etc", directory_.path() + "/etc");
  store_.keep("k", "session-k", directory_.path() + "/etc", "");
  EXPECT_EQ(kept(), Names{});
}

}  // namespace
}  // namespace runbus::session
