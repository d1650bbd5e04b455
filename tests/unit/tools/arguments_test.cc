#include "tools/runbus/arguments.h"

#include <gtest/gtest.h>

#include <fstream>

#include "tests/unit/tools/testing.h"
#include "tools/runbus/commands.h"
#include "tools/runbus/gateway_address.h"

namespace runbus::cli {
namespace {

using testing::TemporaryDirectory;

template <class Options>
Options parsed(std::vector<std::string> arguments) {
  const auto result = parse_arguments(std::move(arguments));
  if (const NoCommand* none = std::get_if<NoCommand>(&result)) {
    throw std::runtime_error(none->text);
  }
  return std::get<Options>(std::get<Command>(result));
}

NoCommand refused(std::vector<std::string> arguments) {
  const auto result = parse_arguments(std::move(arguments));
  const NoCommand* none = std::get_if<NoCommand>(&result);
  return none == nullptr ? NoCommand{"it was accepted", -1} : *none;
}

TEST(Arguments, UpHasSafeDefaults) {
  const auto up = parsed<UpOptions>({"up"});
  EXPECT_EQ(up.listen, "127.0.0.1:7070");
  EXPECT_EQ(up.workers, 1U);
  EXPECT_FALSE(up.insecure);
  EXPECT_FALSE(up.allow_network);
  EXPECT_TRUE(up.token.empty());
}

TEST(Arguments, WhatFollowsTheDashesIsTheProgramsOwn) {
  const auto exec =
      parsed<ExecOptions>({"exec", "-l", "bash", "-c", "echo", "--", "--json", "-l", "--", "x"});
  EXPECT_EQ(exec.language, "bash");
  EXPECT_EQ(exec.code, "echo");
  EXPECT_FALSE(exec.json);
  EXPECT_EQ(exec.arguments, (std::vector<std::string>{"--json", "-l", "--", "x"}));
}

TEST(Arguments, ExecTakesCodeOrFileNotBoth) {
  EXPECT_EQ(parsed<ExecOptions>({"exec", "main.py"}).file, "main.py");
  EXPECT_EQ(refused({"exec", "-c", "1", "main.py"}).exit_code, 2);
}

TEST(Arguments, RefusesWhatIsWrongWithExitCodeTwo) {
  EXPECT_EQ(refused({}).exit_code, 2);
  EXPECT_EQ(refused({"dance"}).exit_code, 2);
  EXPECT_EQ(refused({"up", "--workers", "many"}).exit_code, 2);
  EXPECT_EQ(refused({"up", "--log-level", "loud"}).exit_code, 2);
  EXPECT_EQ(refused({"exec", "--timeout", "-1", "-c", "1"}).exit_code, 2);
  EXPECT_EQ(refused({"keys", "new", "a", "--role", "king", "--dir", "d"}).exit_code, 2);
}

TEST(Arguments, HelpAndVersionAreNoErrors) {
  EXPECT_EQ(refused({"--help"}).exit_code, 0);
  EXPECT_EQ(refused({"--version"}).text, "runbus " RUNBUS_VERSION "\n");
  const NoCommand help = refused({"up", "--help"});
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_NE(help.text.find("--broker-listen"), std::string::npos);
}

TEST(Config, FillsWhatTheCommandLineDoesNotSay) {
  const TemporaryDirectory directory;
  std::ofstream(directory / "up.toml")
      << "listen = '127.0.0.1:1'\nworkers = 3\ninsecure = true\n"
         "allow_origin = ['http://a', 'http://b']\nlog-level = 'debug'\n";
  const auto up =
      parsed<UpOptions>({"up", "--config", directory / "up.toml", "--listen", "127.0.0.1:2"});
  EXPECT_EQ(up.listen, "127.0.0.1:2");
  EXPECT_EQ(up.workers, 3U);
  EXPECT_TRUE(up.insecure);
  EXPECT_EQ(up.allow_origin, (std::vector<std::string>{"http://a", "http://b"}));
  EXPECT_EQ(up.log_level, "debug");
}

TEST(Config, CommandLineCanSwitchOffWhatTheFileSwitchesOn) {
  const TemporaryDirectory directory;
  std::ofstream(directory / "up.toml") << "insecure = true\n";
  EXPECT_FALSE(
      parsed<UpOptions>({"up", "--config", directory / "up.toml", "--no-insecure"}).insecure);
}

TEST(Config, NamesTheLineOfWhatItRefuses) {
  const TemporaryDirectory directory;
  const auto text_for = [&](const std::string& toml) {
    std::ofstream(directory / "up.toml") << toml;
    return refused({"up", "--config", directory / "up.toml"}).text;
  };
  EXPECT_NE(
      text_for("workers = 1\nlisen = 'x'\n").find("line 2: `runbus up` has no option 'lisen'"),
      std::string::npos);
  EXPECT_NE(text_for("workers = \n").find("line 1"), std::string::npos);
  EXPECT_NE(text_for("listen = 1.5\n").find("'listen' must be"), std::string::npos);
  EXPECT_NE(text_for("workers = 1000\n").find("--workers"), std::string::npos);
  EXPECT_NE(refused({"up", "--config", directory / "absent"}).text.find("cannot read"),
            std::string::npos);
}

TEST(Language, IsGuessedFromTheFilesName) {
  EXPECT_EQ(language_of("a/b.py"), "python");
  EXPECT_EQ(language_of("b.tar.js"), "javascript");
  EXPECT_EQ(language_of("x.unknown"), "");
  EXPECT_EQ(language_of("py"), "");
}

TEST(GatewayUrl, IsTakenApart) {
  const auto address = parse_gateway_url("http://127.0.0.1:7070/?token=abc&x=1");
  ASSERT_TRUE(address);
  EXPECT_EQ(address->host, "127.0.0.1");
  EXPECT_EQ(address->port, "7070");
  EXPECT_EQ(address->token, "abc");
  const auto six = parse_gateway_url("ws://[::1]:9/ws");
  ASSERT_TRUE(six);
  EXPECT_EQ(six->host, "::1");
  EXPECT_EQ(six->port, "9");
  EXPECT_EQ(parse_gateway_url("http://host")->port, "80");
}

TEST(GatewayUrl, RefusesOthersWithoutShowingTheToken) {
  for (const char* url : {"https://h/?token=secret", "ftp://h", "http://", "http://:80",
                          "http://h:x", "h:80", "http://user@h:80", "http://h:123456"}) {
    const auto address = parse_gateway_url(url);
    ASSERT_FALSE(address) << url;
    EXPECT_EQ(address.error().detail.find("secret"), std::string::npos);
  }
}

class FindGateway : public ::testing::Test {
 protected:
  void SetUp() override {
    ::unsetenv("RUNBUS_URL");
    ::unsetenv("RUNBUS_TOKEN");
    std::ofstream(directory_ / "url") << "http://127.0.0.1:5\n";
    std::ofstream(directory_ / "token") << "local\n";
    std::ofstream(directory_ / "other") << "other\n";
  }
  void TearDown() override { SetUp(); }
  TemporaryDirectory directory_;
};

TEST_F(FindGateway, UsesTheStateDirectorysAddressAndToken) {
  const auto address = find_gateway({.url = {}, .token_file = {}, .state_dir = directory_.path()});
  ASSERT_TRUE(address);
  EXPECT_EQ(address->port, "5");
  EXPECT_EQ(address->token, "local");
}

TEST_F(FindGateway, NeverSendsTheLocalTokenElsewhere) {
  const auto address =
      find_gateway({.url = "http://elsewhere:1", .token_file = {}, .state_dir = directory_.path()});
  ASSERT_TRUE(address);
  EXPECT_EQ(address->token, "");
}

TEST_F(FindGateway, TakesTheEnvironment) {
  ::setenv("RUNBUS_URL", "http://elsewhere:1", 1);
  ::setenv("RUNBUS_TOKEN", "mine", 1);
  const auto address = find_gateway({});
  ASSERT_TRUE(address);
  EXPECT_EQ(address->host, "elsewhere");
  EXPECT_EQ(address->token, "mine");
  const auto named = find_gateway({.url = {}, .token_file = directory_ / "other", .state_dir = {}});
  ASSERT_TRUE(named);
  EXPECT_EQ(named->token, "other");
}

TEST_F(FindGateway, SaysHowToStartOneWhenNoneRuns) {
  const auto address =
      find_gateway({.url = {}, .token_file = {}, .state_dir = directory_ / "none"});
  ASSERT_FALSE(address);
  EXPECT_NE(address.error().detail.find("runbus up"), std::string::npos);
}

}  // namespace
}  // namespace runbus::cli
