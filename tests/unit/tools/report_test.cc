#include <gtest/gtest.h>
#include <rapidjson/document.h>

#include "tools/runbus/bench_report.h"

namespace runbus::cli {
namespace {

Report example() {
  Report report;
  report.add({.what = "fast",
              .value = 2,
              .unit = "ms",
              .baseline_name = "ms cold",
              .baseline = 10,
              .budget = "<= 0.2 x",
              .met = true});
  report.add({.what = "slow",
              .value = 5,
              .unit = "KB",
              .baseline_name = {},
              .baseline = 0,
              .budget = "<= 1",
              .met = false});
  report.skip("echo", "not built");
  return report;
}

TEST(Report, TableSaysRatioAndWhetherTheBudgetIsMet) {
  const std::string table = example().table();
  EXPECT_NE(table.find("0.2000"), std::string::npos) << table;
  EXPECT_NE(table.find(" met\n"), std::string::npos);
  EXPECT_NE(table.find("MISSED\n"), std::string::npos);
  EXPECT_NE(table.find("SKIPPED echo: not built"), std::string::npos);
}

TEST(Report, JsonHasTheSame) {
  rapidjson::Document json;
  json.Parse(example().json().c_str());
  ASSERT_FALSE(json.HasParseError()) << example().json();
  EXPECT_EQ(json["measurements"].Size(), 2U);
  EXPECT_TRUE(json["measurements"][0]["met"].GetBool());
  EXPECT_DOUBLE_EQ(json["measurements"][0]["ratio"].GetDouble(), 0.2);
  EXPECT_STREQ(json["skipped"][0].GetString(), "echo: not built");
}

TEST(Report, FailedGroupIsAFailure) {
  Report report;
  EXPECT_FALSE(report.failed());
  report.fail("x", "y");
  EXPECT_TRUE(report.failed());
}

TEST(Percentile, IsOfTheSortedSamples) {
  std::vector<double> samples{5, 1, 4, 2, 3};
  EXPECT_EQ(percentile(samples, 0.5), 3);
  EXPECT_EQ(percentile(samples, 0.99), 5);
  std::vector<double> none;
  EXPECT_EQ(percentile(none, 0.5), 0);
}

}  // namespace
}  // namespace runbus::cli
