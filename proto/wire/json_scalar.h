#pragma once

#include <google/protobuf/descriptor.h>
#include <rapidjson/document.h>

#include <cstdint>
#include <string>
#include <string_view>

// One JSON value as one protobuf scalar. Each function returns what is wrong with the value
// ("expected a number, got a string"), or "" and the value. The text never repeats the value.
namespace runbus::wire {

// An enum's number, by name or number; null is the only value of NullValue. A closed enum (proto2)
// takes only the numbers it knows.
struct EnumNumber {
  const google::protobuf::EnumDescriptor& type;
  int number = 0;
  operator int() const {
    return number;
  }  // NOLINT(google-explicit-constructor): what reflection takes
};

// A bytes field's content, from base64.
struct Bytes {
  std::string content;
  operator std::string() && { return std::move(content); }  // NOLINT(google-explicit-constructor)
};

std::string_view text_of(const rapidjson::Value& string);
std::string expected_but_got(std::string_view expected, const rapidjson::Value& json);

// Integers: numbers without a fraction (1.0 is one), in range; of 64 bits also decimal strings.
std::string scalar_from_json(const rapidjson::Value& json, std::int32_t& value);
std::string scalar_from_json(const rapidjson::Value& json, std::int64_t& value);
std::string scalar_from_json(const rapidjson::Value& json, std::uint32_t& value);
std::string scalar_from_json(const rapidjson::Value& json, std::uint64_t& value);
std::string scalar_from_json(const rapidjson::Value& json, double& value);
std::string scalar_from_json(const rapidjson::Value& json, float& value);
std::string scalar_from_json(const rapidjson::Value& json, bool& value);
std::string scalar_from_json(const rapidjson::Value& json, std::string& value);
std::string scalar_from_json(const rapidjson::Value& json, Bytes& value);
std::string scalar_from_json(const rapidjson::Value& json, EnumNumber& value);

// The key of a map. Only the canonical text of a value is one, so that different texts are
// different keys.
bool scalar_from_key(std::string_view key, std::int32_t& value);
bool scalar_from_key(std::string_view key, std::int64_t& value);
bool scalar_from_key(std::string_view key, std::uint32_t& value);
bool scalar_from_key(std::string_view key, std::uint64_t& value);
bool scalar_from_key(std::string_view key, bool& value);

}  // namespace runbus::wire
