#include <google/protobuf/util/json_util.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "proto/wire/transcoder.h"
#include "tests/unit/proto/kinds.pb.h"
#include "tests/unit/proto/required.pb.h"

namespace runbus::wire {
namespace {

using google::protobuf::Message;
using google::protobuf::util::MessageDifferencer;
using test::Kinds;

std::string write(const Message& message) {
  std::string out;
  append_json(message, out);
  return out;
}

// The text of one member of `message`, "absent" when it is left out.
std::string member(const Message& message, const char* name) {
  rapidjson::Document document;
  const std::string json = write(message);
  const Result<void> parsed = parse_json(json, {}, document);
  EXPECT_TRUE(parsed) << json;
  if (!parsed || !document.HasMember(name)) {
    return "absent";
  }
  const std::string start = std::string("\"") + name + "\":";
  const std::size_t at = json.find(start) + start.size();
  return json.substr(at, json.find_first_of(",}", at) - at);
}

Kinds full() {
  Kinds m;
  m.set_a_double(0.1);
  m.set_a_float(0.1F);
  m.set_an_int32(-1);
  m.set_an_int64(std::numeric_limits<std::int64_t>::min());
  m.set_a_uint64(std::numeric_limits<std::uint64_t>::max());
  m.set_a_bool(true);
  m.set_a_string("\"\\\n\xe2\x82\xac");
  m.set_a_bytes(std::string("\0\xff\x10", 3));
  m.set_a_color(test::GREEN);
  m.set_maybe_int32(0);
  m.set_maybe_string("");
  m.add_int32s(1);
  m.add_int32s(-2);
  m.add_doubles(-std::numeric_limits<double>::infinity());
  m.add_strings("");
  m.add_colors(test::RED);
  m.add_colors(static_cast<test::Color>(99));
  m.add_nesteds()->set_size(7);
  (*m.mutable_by_int32())[-3] = "minus three";
  (*m.mutable_by_bool())[true].set_string_value("s");
  (*m.mutable_by_uint64())[std::numeric_limits<std::uint64_t>::max()] = "b";
  (*m.mutable_by_string())["a \"key\""].mutable_child()->set_a_bool(true);
  m.mutable_message()->set_name("chosen");
  m.mutable_timestamp()->set_seconds(1'700'000'000);
  m.mutable_timestamp()->set_nanos(1'000);
  m.mutable_duration()->set_nanos(-500'000'000);
  auto& fields = *m.mutable_object()->mutable_fields();
  fields["null"].set_null_value(google::protobuf::NULL_VALUE);
  fields["list"].mutable_list_value()->add_values()->set_number_value(3);
  fields["tree"].mutable_struct_value();
  m.mutable_int64_wrapper()->set_value(1LL << 60);
  m.mutable_string_wrapper();
  m.mutable_empty();
  return m;
}

TEST(JsonWriter, IsReadBackAsTheSameMessage) {
  const Kinds message = full();
  rapidjson::Document document;
  ASSERT_TRUE(parse_json(write(message), {}, document));
  Kinds back;
  const Result<void> result = json_to_message(document, back);
  ASSERT_TRUE(result) << result.error().detail;
  EXPECT_TRUE(MessageDifferencer::Equals(message, back)) << write(message);
}

TEST(JsonWriter, IsReadByProtobufAsTheSameMessage) {
  const Kinds message = full();
  Kinds back;
  const auto status = google::protobuf::util::JsonStringToMessage(write(message), &back);
  ASSERT_TRUE(status.ok()) << status.ToString() << write(message);
  EXPECT_TRUE(MessageDifferencer::Equals(message, back)) << back.DebugString();
}

TEST(JsonReader, ReadsWhatProtobufWrites) {
  const Kinds message = full();
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  for (const bool always : {false, true}) {
    options.always_print_primitive_fields = always;
    std::string json;
    ASSERT_TRUE(google::protobuf::util::MessageToJsonString(message, &json, options).ok());
    rapidjson::Document document;
    ASSERT_TRUE(parse_json(json, {}, document));
    Kinds back;
    const Result<void> result = json_to_message(document, back);
    ASSERT_TRUE(result) << result.error().detail;
    EXPECT_TRUE(MessageDifferencer::Equals(message, back)) << json;
  }
}

TEST(JsonWriter, PrintsZerosAndNullsAndLeavesMessagesOut) {
  const Kinds empty;
  EXPECT_EQ(member(empty, "an_int32"), "0");
  EXPECT_EQ(member(empty, "a_string"), "\"\"");
  EXPECT_EQ(member(empty, "a_bool"), "false");
  EXPECT_EQ(member(empty, "a_color"), "\"COLOR_UNSPECIFIED\"");
  EXPECT_EQ(member(empty, "strings"), "[]");
  EXPECT_EQ(member(empty, "by_int32"), "{");  // cut at its closing brace
  EXPECT_EQ(member(empty, "maybe_int32"), "null");
  EXPECT_EQ(member(empty, "maybe_string"), "null");
  EXPECT_EQ(member(empty, "nested"), "absent");
  EXPECT_EQ(member(empty, "text"), "absent");
  EXPECT_EQ(member(empty, "timestamp"), "absent");
  EXPECT_EQ(member(empty, "int32_wrapper"), "absent");
}

TEST(JsonWriter, QuotesIntegersThatADoubleCannotHold) {
  Kinds m;
  const std::int64_t exact = 1LL << 53;
  for (const std::int64_t value : {exact, -exact}) {
    m.set_an_int64(value);
    EXPECT_EQ(member(m, "an_int64"), std::to_string(value));
  }
  for (const std::int64_t value :
       {exact + 1, -exact - 1, std::numeric_limits<std::int64_t>::min()}) {
    m.set_an_int64(value);
    EXPECT_EQ(member(m, "an_int64"), "\"" + std::to_string(value) + "\"");
  }
  m.set_a_uint64(static_cast<std::uint64_t>(exact));
  EXPECT_EQ(member(m, "a_uint64"), "9007199254740992");
  m.set_a_uint64(std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(member(m, "a_uint64"), "\"18446744073709551615\"");
}

TEST(JsonWriter, WritesTheShortestDoubleThatComesBack) {
  Kinds m;
  const auto text = [&m](double value) {
    m.set_a_double(value);
    return member(m, "a_double");
  };
  EXPECT_EQ(text(0.1), "0.1");
  EXPECT_EQ(text(3), "3");
  EXPECT_EQ(text(-0.0), "-0.0");
  EXPECT_EQ(text(1e21), "1e+21");
  EXPECT_EQ(text(5e-324), "5e-324");
  EXPECT_EQ(text(std::numeric_limits<double>::quiet_NaN()), "\"NaN\"");
  EXPECT_EQ(text(std::numeric_limits<double>::infinity()), "\"Infinity\"");
  EXPECT_EQ(text(-std::numeric_limits<double>::infinity()), "\"-Infinity\"");
  m.set_a_float(0.1F);
  EXPECT_EQ(member(m, "a_float"), "0.1");
}

TEST(JsonWriter, WritesTimes) {
  Kinds m;
  const auto time = [&m](std::int64_t seconds, std::int32_t nanos) {
    m.mutable_timestamp()->set_seconds(seconds);
    m.mutable_timestamp()->set_nanos(nanos);
    return member(m, "timestamp");
  };
  EXPECT_EQ(time(0, 0), "\"1970-01-01T00:00:00Z\"");
  EXPECT_EQ(time(-1, 500'000'000), "\"1969-12-31T23:59:59.500Z\"");
  EXPECT_EQ(time(1709164800, 1'000), "\"2024-02-29T00:00:00.000001Z\"");
  EXPECT_EQ(time(253402300799, 1), "\"9999-12-31T23:59:59.000000001Z\"");
  EXPECT_EQ(time(-62135596800, 0), "\"0001-01-01T00:00:00Z\"");
  EXPECT_EQ(time(253402300800, 0), "null");
  EXPECT_EQ(time(-62135596801, 0), "null");
  EXPECT_EQ(time(0, -1), "null");
  EXPECT_EQ(time(0, 1'000'000'000), "null");
  m.mutable_duration()->set_seconds(-1);
  m.mutable_duration()->set_nanos(-10'000'000);
  EXPECT_EQ(member(m, "duration"), "\"-1.010s\"");
  m.mutable_duration()->set_nanos(1);
  EXPECT_EQ(member(m, "duration"), "null");
  m.mutable_duration()->set_seconds(std::numeric_limits<std::int64_t>::min());
  EXPECT_EQ(member(m, "duration"), "null");
}

TEST(JsonWriter, WritesJsonTreesAsThemselves) {
  google::protobuf::Struct tree;
  (*tree.mutable_fields())["a"].mutable_list_value()->add_values();
  EXPECT_EQ(write(tree), R"({"a":[null]})");
  std::string members;
  append_json_members(tree, members);
  EXPECT_EQ(members, R"("a":[null])");
}

TEST(JsonWriter, ReplacesBytesThatAreNotUtf8) {
  test::Required message;  // proto2 does not check its strings
  message.set_name("a\xff");
  EXPECT_EQ(write(message),
            "{\"name\":\"a\xef\xbf\xbd\",\"count\":null,\"closed\":null,\"part\":[]}");
}

TEST(JsonWriter, StopsAtABoundAndTakesBackWhatItWrote) {
  Kinds message;
  for (int i = 0; i < 10'000; ++i) {
    message.add_children();  // two bytes each, and a thousand as JSON
  }
  std::string out = "before";
  EXPECT_FALSE(append_json(message, out, 1U << 20U));
  EXPECT_EQ(out, "before");
  EXPECT_LT(out.capacity(), 8U << 20U);
  EXPECT_FALSE(append_json_members(message, out, 1U << 20U));
  EXPECT_EQ(out, "before");
  EXPECT_TRUE(append_json(Kinds(), out, 1U << 20U));
  EXPECT_GT(out.size(), 6U);
}

TEST(JsonWriter, GivesMembersForACallersOwnObject) {
  test::Nested message;
  message.set_name("n");
  std::string out = "{\"call\":1,";
  append_json_members(message, out);
  EXPECT_EQ(out, "{\"call\":1,\"name\":\"n\",\"size\":null");
  std::string nothing;
  append_json_members(google::protobuf::Empty(), nothing);
  EXPECT_EQ(nothing, "");
}

}  // namespace
}  // namespace runbus::wire
