#include "services/execution/languages.h"

#include <gmock/gmock.h>

#include <fstream>
#include <set>
#include <sstream>

#include "services/execution/toolchain.h"
#include "tests/unit/session/loop.h"

namespace runbus::execution {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr const char* kRow = R"(
[[language]]
name = "x"
aliases = ["ex"]
source = ".{run}.main.x"
run = ["x", "{source}"]
probe = ["x", "--version"]
)";

TEST(Languages, ReadsARow) {
  const auto table = parse_languages(std::string(kRow) + R"(
compile = ["xc", "{source}"]
environment = { A = "1" }
warm = "x"
warm_run = ["x", "-w"]
preload = ["m"]
address_space = true
)");
  ASSERT_TRUE(table.has_value());
  const Language& language = table->front();
  EXPECT_EQ(language.name, "x");
  EXPECT_THAT(language.aliases, ElementsAre("ex"));
  EXPECT_THAT(language.compile, ElementsAre("xc", "{source}"));
  EXPECT_THAT(language.run, ElementsAre("x", "{source}"));
  EXPECT_EQ(language.environment.at("A"), "1");
  EXPECT_THAT(language.warm_run, ElementsAre("x", "-w"));
  EXPECT_THAT(language.preload, ElementsAre("m"));
  EXPECT_TRUE(language.address_space);
}

TEST(Languages, NamesTheRowAndMemberThatIsWrong) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "no [[language]] rows"},
      {"[[language]\n", "line 1"},
      {"[[language]]\nname = 5", "row 1: name: expected text"},
      {std::string(kRow) + "colour = \"red\"", "row 1: colour: no such member"},
      {std::string(kRow) + "compile = \"gcc\"", "row 1: compile: expected an array of text"},
      {std::string(kRow) + "warm = \"x\"", "row 1: warm_run: missing or empty"},
      {std::string(kRow) + "address_space = 1", "row 1: address_space: expected true or false"},
      {"[[language]]\nname=\"y\"\nsource=\"main.y\"\nrun=[\"y\"]\nprobe=[\"y\"]", "needs {run}"},
      {std::string(kRow) +
           "[[language]]\nname=\"ex\"\nsource=\"{run}\"\nrun=[\"y\"]\nprobe=[\"y\"]",
       "row 2: the name ex is of x"},
  };
  for (const auto& [text, detail] : cases) {
    const auto table = parse_languages(text);
    ASSERT_FALSE(table.has_value()) << text;
    EXPECT_THAT(table.error().detail, HasSubstr(detail)) << text;
  }
}

TEST(Languages, TheTableThatIsShippedIsGood) {
  std::ifstream file(RUNBUS_LANGUAGES);
  std::ostringstream text;
  text << file.rdbuf();
  const auto table = parse_languages(text.str());
  ASSERT_TRUE(table.has_value()) << table.error().detail;
  std::set<std::string> names;
  for (const Language& language : *table) {
    names.insert(language.name);
  }
  for (const char* name : {"python", "javascript", "bash", "typescript", "c", "cpp", "go", "rust",
                           "java", "ruby", "php", "perl", "lua", "r", "awk", "sql"}) {
    EXPECT_TRUE(names.contains(name)) << name;
  }
}

TEST(Toolchain, FindsVersions) {
  EXPECT_EQ(find_version("Python 3.11.2 (main)"), "3.11.2");
  EXPECT_EQ(find_version("v20.20.2\n"), "20.20.2");
  EXPECT_EQ(find_version("GNU bash, version 5.2.15(1)-release"), "5.2.15");
  EXPECT_EQ(find_version("release 7, then 8."), "");
}

TEST(Toolchain, TakesTheFirstAlternativeWhoseProbeWorks) {
  const auto table = parse_languages(R"(
[[language]]
name = "sh"
aliases = ["posix"]
source = "{run}"
run = ["first"]
probe = ["sh", "-c", "echo 1.5; exit 3"]
[[language]]
name = "sh"
source = "{run}"
run = ["second"]
probe = ["sh", "-c", "echo 2.5"]
[[language]]
name = "sh"
source = "{run}"
run = ["third"]
probe = ["sh", "-c", "echo 3.5"]
[[language]]
name = "nothing"
source = "{run}"
run = ["nothing"]
probe = ["runbus-no-such-tool"]
)");
  ASSERT_TRUE(table.has_value()) << table.error().detail;
  testing::Loop loop;
  Toolchain toolchain(loop.io, *table, {});
  EXPECT_THAT(toolchain.languages(), IsEmpty());
  int known = 0;
  toolchain.when_known([&] { ++known; });
  ASSERT_TRUE(loop.until([&] { return known == 1; }));
  ASSERT_EQ(toolchain.languages().size(), 1U);
  EXPECT_EQ(toolchain.languages()[0].version, "2.5");
  EXPECT_THAT(toolchain.languages()[0].run, ElementsAre("second"));
  EXPECT_NE(toolchain.find("SH"), nullptr);
  EXPECT_EQ(toolchain.find("nothing"), nullptr);
  toolchain.when_known([&] { ++known; });
  EXPECT_EQ(known, 1);
  ASSERT_TRUE(loop.until([&] { return known == 2; }));
}

}  // namespace
}  // namespace runbus::execution
