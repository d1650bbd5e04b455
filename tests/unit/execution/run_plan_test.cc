#include "services/execution/run_plan.h"

#include <gmock/gmock.h>

#include <functional>
#include <limits>
#include <utility>

namespace runbus::execution {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

v1::CodeRequest request() {
  v1::CodeRequest result;
  result.set_code("print(1)");
  result.set_session_id("s");
  result.set_execution_id("e");
  return result;
}

Language language() {
  Language result;
  result.name = "python";
  result.source = ".{run}.main.py";
  result.run = {"python3", "{source}"};
  result.environment = {{"A", "language"}, {"B", "language"}};
  result.address_space = true;
  return result;
}

void expect_refused(const v1::CodeRequest& bad, const std::string& detail) {
  const auto checked = check_request(bad);
  ASSERT_FALSE(checked.has_value()) << detail;
  EXPECT_EQ(checked.error().code, ErrorCode::kValidation);
  EXPECT_THAT(checked.error().detail, HasSubstr(detail));
}

TEST(CheckRequest, TakesAPlainRequest) { EXPECT_TRUE(check_request(request()).has_value()); }

TEST(CheckRequest, NamesWhatIsWrong) {
  const std::vector<std::pair<std::string, std::function<void(v1::CodeRequest&)>>> cases = {
      {"No code provided for execution", [](auto& r) { r.clear_code(); }},
      {"execution_id:", [](auto& r) { r.set_execution_id("../x"); }},
      {"session_id:", [](auto& r) { r.set_session_id(""); }},
      {"entry: give either", [](auto& r) { r.set_entry("a.py"); }},
      {"entry: must be relative", [](auto& r) { r.clear_code(), r.set_entry("/etc/passwd"); }},
      {"entry: must not have \"..\"", [](auto& r) { r.clear_code(), r.set_entry("a/../../b"); }},
      {"files[0].path", [](auto& r) { r.add_files()->set_path(""); }},
      {"files[1].path: must not",
       [](auto& r) { r.add_files()->set_path("a"), r.add_files()->set_path(".."); }},
      {"args[0]: has a zero byte", [](auto& r) { r.add_args(std::string("a\0b", 3)); }},
      {"config.timeout:", [](auto& r) { r.mutable_config()->set_timeout(0); }},
      {"config.timeout:", [](auto& r) { r.mutable_config()->set_timeout(3601); }},
      {"config.timeout:",
       [](auto& r) { r.mutable_config()->set_timeout(std::numeric_limits<double>::quiet_NaN()); }},
      {"config.max_output_size:",
       [](auto& r) { r.mutable_config()->set_max_output_size(1ULL << 40U); }},
      {"config.max_memory:", [](auto& r) { r.mutable_config()->set_max_memory(1); }},
      {"config.max_processes:", [](auto& r) { r.mutable_config()->set_max_processes(0); }},
      {"config.working_directory:",
       [](auto& r) { r.mutable_config()->set_working_directory("/tmp"); }},
      {"config.network:", [](auto& r) { r.mutable_config()->set_network("host"); }},
      {"config.environment:",
       [](auto& r) { (*r.mutable_config()->mutable_environment())["A=B"] = ""; }},
      {"config.environment.A: has a zero byte",
       [](auto& r) { (*r.mutable_config()->mutable_environment())["A"] = std::string(1, '\0'); }},
      {"config.environment: at most 128 KiB",
       [](auto& r) {
         (*r.mutable_config()->mutable_environment())["A"] = std::string(200'000, 'x');
       }},
      {"files: at most 1000",
       [](auto& r) {
         for (int index = 0; index <= 1000; ++index) {
           r.add_files()->set_path("a");
         }
       }},
      {"files: at most 16 MiB",
       [](auto& r) {
         r.add_files()->set_path("a");
         r.mutable_files(0)->set_data(std::string(17U << 20U, 'x'));
       }},
      {"args: at most 128 KiB", [](auto& r) { r.add_args(std::string(140'000, 'x')); }},
  };
  for (const auto& [detail, spoil] : cases) {
    v1::CodeRequest bad = request();
    spoil(bad);
    expect_refused(bad, detail);
  }
}

TEST(MakePlan, WritesTheCodeUnderANameOfItsOwnAndRunsIt) {
  v1::CodeRequest asked = request();
  asked.add_args("-x");
  asked.mutable_config()->set_timeout(1.5);
  const RunPlan plan = make_plan(asked, language(), "7f-3", false);
  ASSERT_EQ(plan.files.size(), 1U);
  EXPECT_EQ(plan.files[0].first, ".7f-3.main.py");
  EXPECT_EQ(plan.files[0].second, "print(1)");
  ASSERT_EQ(plan.spawn.steps_size(), 1);
  EXPECT_THAT(plan.spawn.steps(0).argv(), ElementsAre("python3", ".7f-3.main.py", "-x"));
  EXPECT_FALSE(plan.spawn.steps(0).takes_input());
  EXPECT_EQ(plan.spawn.timeout_ms(), 1500U);
  EXPECT_TRUE(make_plan(asked, language(), "7f-3", true).spawn.steps(0).takes_input());
}

TEST(MakePlan, CompilesFirstAndGivesArgumentsToTheProgramAlone) {
  Language c = language();
  c.source = ".{run}.main.c";
  c.compile = {"gcc", "-o", "{output}", "{source}"};
  c.run = {"{output}"};
  v1::CodeRequest asked = request();
  asked.add_args("{source}");
  asked.set_stdin("in");
  const RunPlan plan = make_plan(asked, c, "r", false);
  ASSERT_EQ(plan.spawn.steps_size(), 2);
  EXPECT_THAT(plan.spawn.steps(0).argv(), ElementsAre("gcc", "-o", "./.r.out", ".r.main.c"));
  EXPECT_FALSE(plan.spawn.steps(0).takes_input());
  EXPECT_THAT(plan.spawn.steps(1).argv(), ElementsAre("./.r.out", "{source}"));
  EXPECT_TRUE(plan.spawn.steps(1).takes_input());
}

TEST(MakePlan, NamesAnEntryFromTheWorkingDirectory) {
  v1::CodeRequest asked = request();
  asked.clear_code();
  asked.set_entry("src/./app.py");
  asked.mutable_config()->set_working_directory("a/b/");
  const RunPlan plan = make_plan(asked, language(), "r", false);
  EXPECT_TRUE(plan.files.empty());
  EXPECT_THAT(plan.spawn.steps(0).argv(), ElementsAre("python3", "../../src/app.py"));
  EXPECT_EQ(plan.spawn.steps(0).working_directory(), "a/b");
}

TEST(MakePlan, AnEntryIsNeverAnOption) {
  v1::CodeRequest asked = request();
  asked.clear_code();
  asked.set_entry("-c");
  const RunPlan plan = make_plan(asked, language(), "r", false);
  EXPECT_THAT(plan.spawn.steps(0).argv(), ElementsAre("python3", "./-c"));
}

TEST(MakePlan, LimitsAddressSpaceOnlyWhereTheLanguageCanLiveWithIt) {
  v1::CodeRequest asked = request();
  asked.mutable_config()->set_max_memory(64U << 20U);
  EXPECT_EQ(make_plan(asked, language(), "r", false).spawn.steps(0).limits().address_space(),
            64U << 20U);
  Language other = language();
  other.address_space = false;
  EXPECT_EQ(make_plan(asked, other, "r", false).spawn.steps(0).limits().address_space(), 0U);
}

TEST(Environment, LaysTheCallOverTheSessionOverTheLanguage) {
  v1::Config config;
  (*config.mutable_environment())["C"] = "call";
  const auto lines = environment_of(language(), "/w", {{"B", "session"}, {"C", "session"}}, config);
  EXPECT_THAT(lines, Contains("A=language"));
  EXPECT_THAT(lines, Contains("B=session"));
  EXPECT_THAT(lines, Contains("C=call"));
  EXPECT_THAT(lines, Contains("HOME=/w"));
}

TEST(Fingerprint, IsOfWhatIsAskedForAlone) {
  const std::string first = fingerprint(request());
  v1::CodeRequest same = request();
  same.set_session_id("other");
  same.set_language("py");
  EXPECT_EQ(fingerprint(same), first);
  v1::CodeRequest other = request();
  other.set_code("print(2)");
  EXPECT_NE(fingerprint(other), first);
  v1::CodeRequest forward = request();
  v1::CodeRequest backward = request();
  for (int index = 0; index < 50; ++index) {
    (*forward.mutable_config()->mutable_environment())["V" + std::to_string(index)] = "x";
    (*backward.mutable_config()->mutable_environment())["V" + std::to_string(49 - index)] = "x";
  }
  EXPECT_EQ(fingerprint(forward), fingerprint(backward));
}

TEST(Tags, SurviveTheWayThroughTheAgentAndJunkIsNothing) {
  const Tag tag = decode_tag(encode_tag(Tag{"python", std::string(64, 'a')}));
  EXPECT_EQ(tag.language, "python");
  EXPECT_EQ(tag.fingerprint, std::string(64, 'a'));
  EXPECT_EQ(decode_tag("\x01\xff").language, "");
  EXPECT_EQ(decode_tag(std::string(1000, 'x')).language, "");
}

}  // namespace
}  // namespace runbus::execution
