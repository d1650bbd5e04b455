#pragma once

#include <google/protobuf/message.h>

#include <rapidjson/document.h>

#include <cstddef>
#include <string>
#include <string_view>

#include "proto/support/error.h"

// JSON to protobuf and back, by reflection: what lets the gateway serve a service it has no code for.
// Follows the protobuf JSON mapping, except that names are the proto field names (`execution_id`), that an
// absent field with explicit presence prints as null, and that reading is strict: an unknown member, a wrong
// type, an overflow, bad UTF-8, a second member of a oneof or a repeated key is kInvalidParams whose detail
// starts with the member's path ("config.timeout: expected a number, got a string").
namespace runbus::wire {

constexpr std::size_t kUnlimited = ~std::size_t{0};

struct JsonLimits {
  std::size_t max_bytes = 16U << 20U;
  std::size_t max_depth = 64;
  // Values and keys together: each costs a fixed amount of memory, however short its text.
  std::size_t max_values = 1U << 20U;
};

// Parses JSON text: iterative, full precision, UTF-8 checked, depth and size capped. kParseError with the
// byte offset when it is not JSON; kValidation with `limit` "json_depth", "json_size" or "json_values" past a
// limit. After an error the document is null.
// `document` is for params: numbers keep 64-bit integers exact.
Result<void> parse_json(std::string_view text, const JsonLimits& limits, rapidjson::Document& document);

// Fills `message` (cleared first) from an object; null leaves a field absent. Accepted besides the plain
// forms: 64-bit integers as strings, enums by name or number, bytes as base64 (standard or URL alphabet,
// padding optional), Timestamp as RFC 3339, Duration as "1.5s", Struct, Value, ListValue, wrappers, FieldMask
// as "a,b.c", doubles as "NaN", "Infinity", "-Infinity". Any is an ordinary message of its two fields.
// kValidation with `limit` "json_depth" where the message would nest deeper than protobuf parsers accept, and
// "json_values" where its submessages would take over about 64 MiB.
// After an error the message is empty.
Result<void> json_to_message(const rapidjson::Value& json, google::protobuf::Message& message);

// Appends `message` as a JSON object to `out`. Scalars without presence are always printed; bytes as base64;
// 64-bit integers as numbers up to 2^53 and as strings beyond; strings that are not UTF-8 have the bad
// bytes replaced by U+FFFD. Unset messages and oneof members are left out; a Timestamp or Duration that is out
// of its range is null. A message of a well-known type is written in that type's form (Timestamp: a string).
// A few bytes of message can become a lot of JSON: past `max_bytes` nothing is appended and the answer is false.
bool append_json(const google::protobuf::Message& message, std::string& out,
                 std::size_t max_bytes = kUnlimited);

// Appends the members alone, without braces, for a caller that adds its own ("call"): "" or "\"a\":1,\"b\":2".
bool append_json_members(const google::protobuf::Message& message, std::string& out,
                         std::size_t max_bytes = kUnlimited);

// Appends `text` as a JSON string with its quotes; bytes that are not UTF-8 become U+FFFD. Fast: output of
// programs passes through here.
void append_json_string(std::string_view text, std::string& out);

void append_base64(std::string_view bytes, std::string& out);
Result<std::string> decode_base64(std::string_view text);

// Length of the longest prefix of `text` that is whole valid UTF-8 characters; `incomplete` is set when what
// follows is the beginning of a character that more bytes could complete.
std::size_t valid_utf8_prefix(std::string_view text, bool& incomplete);

}  // namespace runbus::wire
