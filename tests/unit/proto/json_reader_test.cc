#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <string>

#include "proto/wire/transcoder.h"
#include "tests/unit/proto/kinds.pb.h"
#include "tests/unit/proto/required.pb.h"

namespace runbus::wire {
namespace {

using test::Kinds;

Error read_error(std::string_view json, google::protobuf::Message& message) {
  rapidjson::Document document;
  JsonLimits limits;
  limits.max_depth = 1000;
  const Result<void> parsed = parse_json(json, limits, document);
  if (!parsed) {
    ADD_FAILURE() << to_string(parsed.error());
    return parsed.error();
  }
  const Result<void> result = json_to_message(document, message);
  return result ? Error{ErrorCode::kInternal, "", "", "none"} : result.error();
}

Kinds read(std::string_view json) {
  Kinds message;
  const Error error = read_error(json, message);
  EXPECT_EQ(error.limit, "none") << json << ": " << error.detail;
  return message;
}

// The detail of the kInvalidParams that `json` gives.
std::string refusal(std::string_view json) {
  Kinds message;
  message.set_an_int32(1);
  const Error error = read_error(json, message);
  EXPECT_NE(error.limit, "none") << json << " was accepted";
  EXPECT_EQ(error.code, ErrorCode::kInvalidParams) << json;
  EXPECT_EQ(message.ByteSizeLong(), 0U) << "a failed read left something behind";
  return error.detail;
}

TEST(JsonReader, ReadsEveryScalar) {
  const Kinds m = read(R"({"a_double":1.5,"a_float":-0.25,"an_int32":-2147483648,
    "an_int64":-9223372036854775808,"a_uint32":4294967295,"a_uint64":18446744073709551615,"a_sint32":-1,
    "a_sint64":-2,"a_fixed32":3,"a_fixed64":4,"a_sfixed32":-5,"a_sfixed64":-6,"a_bool":true,
    "a_string":"\u00e4\u0000","a_bytes":"AAH/","a_color":"GREEN"})");
  EXPECT_EQ(m.a_double(), 1.5);
  EXPECT_EQ(m.a_float(), -0.25F);
  EXPECT_EQ(m.an_int32(), std::numeric_limits<std::int32_t>::min());
  EXPECT_EQ(m.an_int64(), std::numeric_limits<std::int64_t>::min());
  EXPECT_EQ(m.a_uint32(), std::numeric_limits<std::uint32_t>::max());
  EXPECT_EQ(m.a_uint64(), std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(m.a_sint32(), -1);
  EXPECT_EQ(m.a_sint64(), -2);
  EXPECT_EQ(m.a_fixed32(), 3U);
  EXPECT_EQ(m.a_fixed64(), 4U);
  EXPECT_EQ(m.a_sfixed32(), -5);
  EXPECT_EQ(m.a_sfixed64(), -6);
  EXPECT_TRUE(m.a_bool());
  EXPECT_EQ(m.a_string(), std::string("\xc3\xa4\0", 3));
  EXPECT_EQ(m.a_bytes(), std::string("\0\1\xff", 3));
  EXPECT_EQ(m.a_color(), test::GREEN);
}

TEST(JsonReader, TakesIntegersInTheirOtherForms) {
  const Kinds m = read(R"({"an_int64":"-9223372036854775808","a_uint64":"18446744073709551615",
    "an_int32":3.0,"a_uint32":1e3,"a_color":2,"int64s":["7",8]})");
  EXPECT_EQ(m.an_int64(), std::numeric_limits<std::int64_t>::min());
  EXPECT_EQ(m.a_uint64(), std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(m.an_int32(), 3);
  EXPECT_EQ(m.a_uint32(), 1000U);
  EXPECT_EQ(m.a_color(), test::GREEN);
  EXPECT_EQ(m.int64s(1), 8);
  EXPECT_EQ(read(R"({"a_color":77})").a_color(), 77) << "proto3 enums are open";
}

TEST(JsonReader, TakesDoublesThatJsonHasNoNumberFor) {
  const Kinds m = read(R"({"doubles":["NaN","Infinity","-Infinity",3],"a_float":"-Infinity"})");
  EXPECT_TRUE(std::isnan(m.doubles(0)));
  EXPECT_EQ(m.doubles(1), std::numeric_limits<double>::infinity());
  EXPECT_EQ(m.doubles(2), -std::numeric_limits<double>::infinity());
  EXPECT_EQ(m.doubles(3), 3.0);
  EXPECT_EQ(m.a_float(), -std::numeric_limits<float>::infinity());
}

TEST(JsonReader, TellsAbsentFromZero) {
  const Kinds absent =
      read(R"({"maybe_int32":null,"maybe_string":null,"nested":null,"strings":null})");
  EXPECT_FALSE(absent.has_maybe_int32());
  EXPECT_FALSE(absent.has_maybe_string());
  EXPECT_FALSE(absent.has_nested());
  const Kinds zero = read(R"({"maybe_int32":0,"maybe_string":"","nested":{}})");
  EXPECT_TRUE(zero.has_maybe_int32());
  EXPECT_TRUE(zero.has_maybe_string());
  EXPECT_TRUE(zero.has_nested());
}

TEST(JsonReader, ReadsMapsOfEveryKeyType) {
  const Kinds m = read(R"({"by_int32":{"-1":"a"},"by_int64":{"-9223372036854775808":1},
    "by_uint32":{"4294967295":0.5},"by_uint64":{"18446744073709551615":"AQ=="},"by_sint32":{"-7":true},
    "by_sint64":{"8":"RED"},"by_fixed32":{"9":1.5},"by_fixed64":{"10":"11"},
    "by_sfixed32":{"-12":{"name":"n"}},"by_sfixed64":{"13":"1970-01-01T00:00:01Z"},
    "by_bool":{"true":[1],"false":null},"by_string":{"":{"by_string":{"x y":{}}}}})");
  EXPECT_EQ(m.by_int32().at(-1), "a");
  EXPECT_EQ(m.by_int64().at(std::numeric_limits<std::int64_t>::min()), 1);
  EXPECT_EQ(m.by_uint32().at(4294967295U), 0.5);
  EXPECT_EQ(m.by_uint64().at(std::numeric_limits<std::uint64_t>::max()), "\x01");
  EXPECT_TRUE(m.by_sint32().at(-7));
  EXPECT_EQ(m.by_sint64().at(8), test::RED);
  EXPECT_EQ(m.by_fixed32().at(9), 1.5F);
  EXPECT_EQ(m.by_fixed64().at(10), 11U);
  EXPECT_EQ(m.by_sfixed32().at(-12).name(), "n");
  EXPECT_EQ(m.by_sfixed64().at(13).seconds(), 1);
  EXPECT_EQ(m.by_bool().at(true).list_value().values(0).number_value(), 1.0);
  EXPECT_EQ(m.by_bool().at(false).kind_case(), google::protobuf::Value::kNullValue);
  EXPECT_EQ(m.by_string().at("").by_string().count("x y"), 1U);
}

TEST(JsonReader, ReadsWellKnownTypes) {
  const Kinds m = read(R"({"timestamp":"2024-02-29T23:59:59.5+01:30","duration":"-1.000000001s",
    "object":{"a":[1,"two",true,null,{"b":{}}]},"value":"v","list":[[],{}],"mask":"a,b.c_d","empty":{},
    "null":null,"double_wrapper":1.5,"int64_wrapper":"5","bool_wrapper":false,"string_wrapper":"",
    "bytes_wrapper":"_w","uint32_wrapper":null,"any":{"type_url":"t","value":"AA=="}})");
  EXPECT_EQ(m.timestamp().seconds(), 1709245799);
  EXPECT_EQ(m.timestamp().nanos(), 500'000'000);
  EXPECT_EQ(m.duration().seconds(), -1);
  EXPECT_EQ(m.duration().nanos(), -1);
  const auto& list = m.object().fields().at("a").list_value();
  EXPECT_EQ(list.values_size(), 5);
  EXPECT_EQ(list.values(3).kind_case(), google::protobuf::Value::kNullValue);
  EXPECT_TRUE(list.values(4).struct_value().fields().at("b").has_struct_value());
  EXPECT_EQ(m.value().string_value(), "v");
  EXPECT_TRUE(m.list().values(1).has_struct_value());
  EXPECT_EQ(m.mask().paths(1), "b.c_d");
  EXPECT_TRUE(m.has_empty());
  EXPECT_EQ(m.double_wrapper().value(), 1.5);
  EXPECT_EQ(m.int64_wrapper().value(), 5);
  EXPECT_TRUE(m.has_bool_wrapper());
  EXPECT_TRUE(m.has_string_wrapper());
  EXPECT_EQ(m.bytes_wrapper().value(), "\xff");
  EXPECT_FALSE(m.has_uint32_wrapper());
  EXPECT_EQ(m.any().type_url(), "t");
}

TEST(JsonReader, TakesNullForAValueThatIsNull) {
  EXPECT_EQ(read(R"({"value":null})").value().kind_case(), google::protobuf::Value::kNullValue);
  EXPECT_EQ(read(R"({"anything":null})").choice_case(), Kinds::kAnything);
  EXPECT_EQ(read(R"({"values":[null]})").values_size(), 1);
}

TEST(JsonReader, TakesOneMemberOfAOneof) {
  EXPECT_EQ(read(R"({"text":""})").choice_case(), Kinds::kText);
  EXPECT_EQ(read(R"({"text":null,"message":{"name":"n"}})").message().name(), "n");
  EXPECT_EQ(refusal(R"({"text":"a","data":"AA=="})"), "data: a second member of the oneof choice");
}

TEST(JsonReader, NamesWhatIsWrongAndWhere) {
  EXPECT_EQ(refusal("[]"), "expected an object, got an array");
  EXPECT_EQ(refusal(R"({"bogus":1})"), "bogus: unknown field");
  EXPECT_EQ(refusal(R"({"aString":"camel case"})"), "aString: unknown field");
  EXPECT_EQ(refusal(R"({"child":{"child":{"bogus":1}}})"), "child.child.bogus: unknown field");
  EXPECT_EQ(refusal(R"({"children":[{},{"nesteds":[{"name":1}]}]})"),
            "children[1].nesteds[0].name: expected a string, got a number");
  EXPECT_EQ(refusal(R"({"by_string":{"k":{"a_bool":1}}})"),
            "by_string.k.a_bool: expected a boolean, got a number");
  EXPECT_EQ(refusal(R"({"a_double":"1.5"})"), "a_double: expected a number, got a string");
  EXPECT_EQ(refusal(R"({"an_int32":"1"})"), "an_int32: expected an integer, got a string");
  EXPECT_EQ(refusal(R"({"an_int32":1.5})"), "an_int32: expected an integer, got a fraction");
  EXPECT_EQ(refusal(R"({"an_int64":"1.0"})"),
            "an_int64: expected an integer, got a string that is none");
  EXPECT_EQ(refusal(R"({"strings":"x"})"), "strings: expected an array, got a string");
  EXPECT_EQ(refusal(R"({"strings":[null]})"), "strings[0]: expected a string, got null");
  EXPECT_EQ(refusal(R"({"nesteds":[null]})"), "nesteds[0]: expected an object, got null");
  EXPECT_EQ(refusal(R"({"by_int32":{"1":null}})"), "by_int32.1: expected a string, got null");
  EXPECT_EQ(refusal(R"({"by_int32":[]})"), "by_int32: expected an object, got an array");
  EXPECT_EQ(refusal(R"({"a_color":"BLUE"})"), "a_color: not a name of the enum Color");
  EXPECT_EQ(refusal(R"({"a_color":"red"})"), "a_color: not a name of the enum Color");
  EXPECT_EQ(refusal(R"({"a_bytes":"!"})"), "a_bytes: not base64");
  EXPECT_EQ(refusal(R"({"timestamp":1})"), "timestamp: expected an RFC 3339 time, got a number");
  EXPECT_EQ(refusal(R"({"empty":{"x":1}})"), "empty.x: unknown field");
  EXPECT_EQ(refusal(R"({"int32_wrapper":[]})"), "int32_wrapper: expected an integer, got an array");
}

TEST(JsonReader, RefusesWhatIsOutOfRange) {
  for (const std::string_view json :
       {R"({"an_int32":2147483648})", R"({"an_int32":-2147483649})", R"({"a_uint32":-1})",
        R"({"a_uint32":4294967296})", R"({"an_int64":9223372036854775808})", R"({"an_int64":1e19})",
        R"({"a_uint64":-1})", R"({"a_uint64":18446744073709551616})",
        R"({"a_uint64":"18446744073709551616"})", R"({"a_color":2147483648})",
        R"({"a_sfixed32":3e9})", R"({"a_float":1e39})"}) {
    EXPECT_NE(refusal(json).find("out of the range"), std::string::npos) << json;
  }
}

TEST(JsonReader, RefusesRepeatedKeys) {
  EXPECT_EQ(refusal(R"({"a_bool":true,"a_bool":true})"), "a_bool: given twice");
  EXPECT_EQ(refusal(R"({"a_bool":null,"a_bool":true})"), "a_bool: given twice");
  EXPECT_EQ(refusal(R"({"by_int32":{"1":"a","2":"b","1":"c"}})"), "by_int32.1: given twice");
  EXPECT_EQ(refusal(R"({"object":{"a":{"b":1,"b":2}}})"), "object.a.b: given twice");
}

TEST(JsonReader, RefusesKeysThatAreNotOfTheMapsType) {
  EXPECT_EQ(refusal(R"({"by_int32":{"x":"a"}})"), "by_int32.x: not a key of type int32");
  for (const std::string_view key : {"", "01", "+1", " 1", "1.0", "-0", "2147483648"}) {
    refusal("{\"by_int32\":{\"" + std::string(key) + "\":\"a\"}}");
  }
  EXPECT_EQ(refusal(R"({"by_bool":{"True":1}})"), "by_bool.True: not a key of type bool");
  refusal(R"({"by_uint64":{"-1":""}})");
}

TEST(JsonReader, RefusesTimesThatAreNone) {
  for (const std::string_view text :
       {"", "2024-01-01", "2024-01-01T00:00:00", "2023-02-29T00:00:00Z", "2024-13-01T00:00:00Z",
        "2024-01-01T24:00:00Z", "2024-01-01T00:60:00Z", "2024-01-01T00:00:60Z",
        "2024-01-01T00:00:00.Z", "2024-01-01T00:00:00.1234567890Z", "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01", "2024-01-01T00:00:00+24:00",
        "2024-01-01T00:00:00Zx", "24-01-01T00:00:00Z", "-024-01-01T00:00:00Z"}) {
    EXPECT_EQ(refusal("{\"timestamp\":\"" + std::string(text) + "\"}"),
              "timestamp: not an RFC 3339 time")
        << text;
  }
  for (const std::string_view text : {"", "s", "1", ".5s", "1.s", "1.0000000001s", "+1s", "1S",
                                      "1 s", "--1s", "315576000001s", "99999999999999999999s"}) {
    refusal("{\"duration\":\"" + std::string(text) + "\"}");
  }
}

TEST(JsonReader, EchoesLittleOfWhatItIsSent) {
  const std::string key(100'000, 'q');
  const std::string deep = "{\"object\":{\"" + key + "\":{\"" + key + "\":{\"a\":1,\"a\":2}}}}";
  for (const std::string& json : {"{\"" + key + "\":1}", deep, "{\"a_color\":\"" + key + "\"}",
                                  "{\"by_int32\":{\"" + key + "\":\"\"}}"}) {
    const std::string detail = refusal(json);
    EXPECT_LE(std::count(detail.begin(), detail.end(), 'q'), 64) << detail.size();
    EXPECT_LE(detail.size(), 200U);
  }
}

TEST(JsonReader, AcceptsOnlyWhatParsersOfTheMessageAccept) {
  const auto nested_objects = [](int depth) {
    std::string json = "{}";
    for (int i = 0; i < depth; ++i) {
      json = "{\"a\":" + json + "}";
    }
    return "{\"object\":" + json + "}";
  };
  const auto nested_children = [](int depth) {
    std::string json = "{}";
    for (int i = 0; i < depth; ++i) {
      json = "{\"child\":" + json + "}";
    }
    return json;
  };
  for (const auto& make : {std::function<std::string(int)>(nested_objects),
                           std::function<std::string(int)>(nested_children)}) {
    int accepted = 0;
    Error error;
    for (int depth = 1; depth < 200; ++depth) {
      Kinds message;
      error = read_error(make(depth), message);
      if (error.limit != "none") {
        break;
      }
      accepted = depth;
      Kinds back;
      ASSERT_TRUE(back.ParseFromString(message.SerializeAsString())) << depth;
    }
    EXPECT_GE(accepted, 30);
    EXPECT_EQ(error.code, ErrorCode::kValidation);
    EXPECT_EQ(error.limit, "json_depth");
  }
}

TEST(JsonReader, BoundsTheMemoryThatEmptyObjectsCost) {
  std::string json = "{\"children\":[{}";
  for (int i = 0; i < 60'000; ++i) {
    json += ",{}";
  }
  Kinds message;
  const Error error = read_error(json + "]}", message);
  EXPECT_EQ(error.code, ErrorCode::kValidation);
  EXPECT_EQ(error.limit, "json_values");
  EXPECT_EQ(message.children_size(), 0);
}

TEST(JsonReader, ChecksStringsThatNoParserHasChecked) {
  rapidjson::Document document;
  document.SetObject();
  document.AddMember("a_string", rapidjson::Value("\xff", 1), document.GetAllocator());
  Kinds message;
  const Result<void> result = json_to_message(document, message);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().detail, "a_string: not UTF-8");
}

TEST(JsonReader, ReplacesWhatTheMessageHad) {
  rapidjson::Document document;
  document.Parse("{\"a_bool\":true}");
  Kinds message;
  message.set_a_string("old");
  ASSERT_TRUE(json_to_message(document, message));
  EXPECT_TRUE(message.a_bool());
  EXPECT_EQ(message.a_string(), "");
}

TEST(JsonReader, KnowsProto2) {
  test::Required message;
  EXPECT_EQ(read_error("{}", message).detail, "name: required");
  EXPECT_EQ(read_error(R"({"name":"n","closed":3})", message).detail,
            "closed: not a number of the enum Closed");
  EXPECT_EQ(read_error(R"({"name":"n","closed":2,"part":[{"text":"t"}]})", message).detail, "");
  EXPECT_EQ(message.closed(), test::TWO);
  EXPECT_EQ(message.part(0).text(), "t");
}

}  // namespace
}  // namespace runbus::wire
