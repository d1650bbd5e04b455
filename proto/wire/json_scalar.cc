#include "proto/wire/json_scalar.h"

#include <charconv>
#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>

#include "proto/wire/text.h"
#include "proto/wire/transcoder.h"

namespace runbus::wire {
namespace {

using google::protobuf::EnumValueDescriptor;
using google::protobuf::FileDescriptor;
using rapidjson::Value;

std::string_view kind_of(const Value& json) {
  switch (json.GetType()) {
    case rapidjson::kNullType:
      return "null";
    case rapidjson::kFalseType:
    case rapidjson::kTrueType:
      return "a boolean";
    case rapidjson::kObjectType:
      return "an object";
    case rapidjson::kArrayType:
      return "an array";
    case rapidjson::kStringType:
      return "a string";
    case rapidjson::kNumberType:
      return "a number";
  }
  return "something else";
}

template <class T>
std::string out_of_range() {
  return "out of the range of a " + std::to_string(sizeof(T) * 8) + "-bit " +
         (std::is_signed_v<T> ? "integer" : "unsigned integer");
}

template <class T>
std::string integer_from_double(double number, T& value) {
  if (number != std::trunc(number)) {
    return "expected an integer, got a fraction";
  }
  // Powers of two, so exact; the upper one is the first value that does not fit.
  const double end = std::ldexp(1.0, std::numeric_limits<T>::digits);
  if (number >= end || number < (std::is_signed_v<T> ? -end : 0.0)) {
    return out_of_range<T>();
  }
  value = static_cast<T>(number);
  return {};
}

template <class T>
std::string integer_from_text(std::string_view text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (end != text.data() + text.size() || error == std::errc::invalid_argument) {
    return "expected an integer, got a string that is none";
  }
  return error == std::errc() ? std::string() : out_of_range<T>();
}

template <class T>
std::string integer_from_json(const Value& json, T& value) {
  if (json.IsInt64()) {
    value = static_cast<T>(json.GetInt64());
    return std::in_range<T>(json.GetInt64()) ? std::string() : out_of_range<T>();
  }
  if (json.IsUint64()) {
    value = static_cast<T>(json.GetUint64());
    return std::in_range<T>(json.GetUint64()) ? std::string() : out_of_range<T>();
  }
  if (json.IsDouble()) {
    return integer_from_double(json.GetDouble(), value);
  }
  if (sizeof(T) == 8 && json.IsString()) {
    return integer_from_text(text_of(json), value);
  }
  return expected_but_got("an integer", json);
}

template <class T>
bool integer_from_key(std::string_view key, T& value) {
  return integer_from_text(key, value).empty() && std::to_string(value) == key;
}

}  // namespace

std::string_view text_of(const Value& string) {
  return {string.GetString(), string.GetStringLength()};
}

std::string expected_but_got(std::string_view expected, const Value& json) {
  return std::string("expected ").append(expected).append(", got ").append(kind_of(json));
}

std::string scalar_from_json(const Value& json, std::int32_t& value) {
  return integer_from_json(json, value);
}
std::string scalar_from_json(const Value& json, std::int64_t& value) {
  return integer_from_json(json, value);
}
std::string scalar_from_json(const Value& json, std::uint32_t& value) {
  return integer_from_json(json, value);
}
std::string scalar_from_json(const Value& json, std::uint64_t& value) {
  return integer_from_json(json, value);
}

std::string scalar_from_json(const Value& json, double& value) {
  if (json.IsNumber()) {
    value = json.GetDouble();
    return {};
  }
  if (json.IsString()) {
    const std::string_view text = text_of(json);
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    if (text == "NaN") {
      value = std::numeric_limits<double>::quiet_NaN();
      return {};
    }
    if (text == "Infinity" || text == "-Infinity") {
      value = text.front() == '-' ? -kInfinity : kInfinity;
      return {};
    }
  }
  return expected_but_got("a number", json);
}

std::string scalar_from_json(const Value& json, float& value) {
  double number = 0;
  if (std::string problem = scalar_from_json(json, number); !problem.empty()) {
    return problem;
  }
  if (std::isfinite(number) && std::abs(number) > double{std::numeric_limits<float>::max()}) {
    return "out of the range of a float";
  }
  value = static_cast<float>(number);
  return {};
}

std::string scalar_from_json(const Value& json, bool& value) {
  if (!json.IsBool()) {
    return expected_but_got("a boolean", json);
  }
  value = json.GetBool();
  return {};
}

std::string scalar_from_json(const Value& json, std::string& value) {
  if (!json.IsString()) {
    return expected_but_got("a string", json);
  }
  if (!is_utf8(text_of(json))) {
    return "not UTF-8";
  }
  value.assign(text_of(json));
  return {};
}

std::string scalar_from_json(const Value& json, Bytes& value) {
  if (!json.IsString()) {
    return expected_but_got("base64", json);
  }
  Result<std::string> decoded = decode_base64(text_of(json));
  if (!decoded) {
    return decoded.error().detail;
  }
  value.content = std::move(*decoded);
  return {};
}

std::string scalar_from_json(const Value& json, EnumNumber& value) {
  if (json.IsNull() && value.type.full_name() == "google.protobuf.NullValue") {
    value.number = 0;
    return {};
  }
  if (json.IsString()) {
    const EnumValueDescriptor* named = value.type.FindValueByName(std::string(text_of(json)));
    if (named == nullptr) {
      return "not a name of the enum " + value.type.name();
    }
    value.number = named->number();
    return {};
  }
  if (!json.IsNumber()) {
    return expected_but_got("a name or a number of the enum " + value.type.name(), json);
  }
  if (std::string problem = integer_from_json(json, value.number); !problem.empty()) {
    return problem;
  }
  const bool closed = value.type.file()->syntax() != FileDescriptor::SYNTAX_PROTO3;
  if (closed && value.type.FindValueByNumber(value.number) == nullptr) {
    return "not a number of the enum " + value.type.name();
  }
  return {};
}

bool scalar_from_key(std::string_view key, std::int32_t& value) {
  return integer_from_key(key, value);
}
bool scalar_from_key(std::string_view key, std::int64_t& value) {
  return integer_from_key(key, value);
}
bool scalar_from_key(std::string_view key, std::uint32_t& value) {
  return integer_from_key(key, value);
}
bool scalar_from_key(std::string_view key, std::uint64_t& value) {
  return integer_from_key(key, value);
}
bool scalar_from_key(std::string_view key, bool& value) {
  value = key == "true";
  return value || key == "false";
}

}  // namespace runbus::wire
