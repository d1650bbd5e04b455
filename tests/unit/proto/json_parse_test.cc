#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>

#include "proto/wire/transcoder.h"

namespace runbus::wire {
namespace {

Result<void> parse(std::string_view text, const JsonLimits& limits = {}) {
  rapidjson::Document document;
  return parse_json(text, limits, document);
}

TEST(ParseJson, KeepsIntegersAndDoublesExact) {
  rapidjson::Document document;
  ASSERT_TRUE(
      parse_json("[18446744073709551615, -9223372036854775808, 0.1, 5e-324, 1e300]", {}, document));
  EXPECT_EQ(document[0].GetUint64(), std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(document[1].GetInt64(), std::numeric_limits<std::int64_t>::min());
  EXPECT_EQ(document[2].GetDouble(), 0.1);
  EXPECT_EQ(document[3].GetDouble(), 5e-324);
  EXPECT_EQ(document[4].GetDouble(), 1e300);
}

// RapidJSON's own conversion reads 0e308 as infinity, and 2e308 as a number.
TEST(ParseJson, ReadsNumbersAtTheEdges) {
  const auto number = [](std::string_view text) {
    rapidjson::Document document;
    EXPECT_TRUE(parse_json(text, {}, document)) << text;
    return document.IsNumber() ? document.GetDouble() : std::nan("");
  };
  EXPECT_EQ(number("0e308"), 0.0);
  EXPECT_EQ(number("0.0e308"), 0.0);
  EXPECT_EQ(number("1e-400"), 0.0);
  EXPECT_EQ(number("17976931348623157e292"), std::numeric_limits<double>::max());
  EXPECT_EQ(number("2.2250738585072011e-308"), 2.2250738585072011e-308);
  EXPECT_EQ(number("123456789012345678901234567890"), 123456789012345678901234567890.0);
  EXPECT_EQ(number("0.1E+1"), 1.0);
  EXPECT_TRUE(std::signbit(number("-0.0")));
  EXPECT_TRUE(std::signbit(number("-1e-400")));
  EXPECT_FALSE(std::signbit(number("0")));
  rapidjson::Document document;
  ASSERT_TRUE(parse_json("{\"1e5\":1.5,\"e\":[-2.5,3e0]}", {}, document));
  EXPECT_EQ(document["1e5"].GetDouble(), 1.5);
  EXPECT_EQ(document["e"][0].GetDouble(), -2.5);
  EXPECT_EQ(document["e"][1].GetDouble(), 3.0);
}

TEST(ParseJson, OutlivesItsText) {
  rapidjson::Document document;
  {
    std::string text = R"({"name": "a string that is too long to be kept in place"})";
    ASSERT_TRUE(parse_json(text, {}, document));
    text.assign(text.size(), 'x');
  }
  EXPECT_STREQ(document["name"].GetString(), "a string that is too long to be kept in place");
}

TEST(ParseJson, SaysWhereItIsNotJson) {
  for (const std::string_view text :
       {"",      " ",     "{",     "{\"a\":}", "[1,]",   "{} x",     "nul",
        "01",    "1.",    "+1",    "NaN",      "'a'",    "\"a\nb\"", "// c\n1",
        "{a:1}", "[1 2]", "1e400", "2e308",    "-2e308", "\"\\x\"",  "{}{}"}) {
    const Result<void> result = parse(text);
    ASSERT_FALSE(result) << text;
    EXPECT_EQ(result.error().code, ErrorCode::kParseError) << text;
    EXPECT_EQ(result.error().detail.rfind("at byte ", 0), 0U) << result.error().detail;
  }
  EXPECT_EQ(parse("[1, x]").error().detail.substr(0, 11), "at byte 4: ");
}

TEST(ParseJson, RefusesBadUtf8AndLoneSurrogates) {
  for (const std::string_view text :
       {"\"\xff\"", "\"\xc0\xaf\"", "\"\xed\xa0\x80\"", "\"\\ud800\"", "\"\\udc00\"",
        "\"\\udc00\\ud800\"", "{\"\\udfff\":1}", "[\"\\ud83dx\"]"}) {
    const Result<void> result = parse(text);
    ASSERT_FALSE(result) << text;
    EXPECT_EQ(result.error().code, ErrorCode::kParseError);
  }
  EXPECT_TRUE(parse("\"\\ud83d\\ude00\""));
}

// RapidJSON alone takes a zero byte for the end of the text.
TEST(ParseJson, RefusesAZeroByteAndWhatFollowsIt) {
  const Result<void> result = parse(std::string_view("{}\0{\"a\":1}", 10));
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::kParseError);
  EXPECT_EQ(result.error().detail, "at byte 2: a zero byte");
  rapidjson::Document document;
  ASSERT_TRUE(parse_json("\"a\\u0000b\"", {}, document));
  EXPECT_EQ(document.GetStringLength(), 3U);
}

TEST(ParseJson, StopsAtTheDepthLimit) {
  const auto nested = [](std::size_t depth) {
    return std::string(depth, '[') + std::string(depth, ']');
  };
  EXPECT_TRUE(parse(nested(64)));
  const Result<void> result = parse(nested(65));
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::kValidation);
  EXPECT_EQ(result.error().limit, "json_depth");
  // Depth is how deep, not how many.
  EXPECT_TRUE(parse("[" + std::string(200, ' ') + "[],[],[],{\"a\":[{}]}]", {.max_depth = 4}));
  // Far deeper than any stack, and not even closed.
  EXPECT_EQ(parse(std::string(5'000'000, '[')).error().limit, "json_depth");
}

TEST(ParseJson, StopsAtTheSizeLimit) {
  EXPECT_TRUE(parse("[1,2]", {.max_bytes = 5}));
  const Result<void> result = parse("[1,2] ", {.max_bytes = 5});
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::kValidation);
  EXPECT_EQ(result.error().limit, "json_size");
}

TEST(ParseJson, StopsAtTheNumberOfValues) {
  EXPECT_TRUE(parse(R"({"a":[1]})", {.max_values = 4}));
  const Result<void> result = parse(R"({"a":[1,2]})", {.max_values = 4});
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::kValidation);
  EXPECT_EQ(result.error().limit, "json_values");
}

TEST(ParseJson, LeavesNullBehindAnError) {
  rapidjson::Document document;
  ASSERT_TRUE(parse_json("[1]", {}, document));
  ASSERT_FALSE(parse_json("[1,", {}, document));
  EXPECT_TRUE(document.IsNull());
  ASSERT_TRUE(parse_json("{\"again\":true}", {}, document));
  EXPECT_TRUE(document["again"].GetBool());
}

}  // namespace
}  // namespace runbus::wire
