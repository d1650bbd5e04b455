#include "proto/wire/well_known.h"

#include <array>
#include <charconv>
#include <chrono>
#include <cstdlib>

namespace runbus::wire {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

constexpr std::int32_t kBillion = 1'000'000'000;
constexpr std::int64_t kMaxDurationSeconds = 315'576'000'000;
constexpr std::int64_t kMinTimestamp = -62'135'596'800;  // 0001-01-01T00:00:00Z
constexpr std::int64_t kMaxTimestamp = 253'402'300'799;  // 9999-12-31T23:59:59Z

bool has_singular(const Descriptor& type, int number, FieldDescriptor::Type field_type) {
  const FieldDescriptor* field = type.FindFieldByNumber(number);
  return field != nullptr && !field->is_repeated() && field->type() == field_type;
}

bool is_map_of_values(const Descriptor& type, const Descriptor& value) {
  const FieldDescriptor* fields = type.FindFieldByNumber(1);
  return type.field_count() == 1 && fields != nullptr && fields->is_map() &&
         fields->message_type()->map_key()->type() == FieldDescriptor::TYPE_STRING &&
         fields->message_type()->map_value()->message_type() == &value;
}

bool is_list_of_values(const Descriptor& type, const Descriptor& value) {
  const FieldDescriptor* values = type.FindFieldByNumber(1);
  return type.field_count() == 1 && values != nullptr && values->is_repeated() &&
         values->type() == FieldDescriptor::TYPE_MESSAGE && values->message_type() == &value;
}

bool is_json_value(const Descriptor& type) {
  constexpr std::array kTypes{FieldDescriptor::TYPE_ENUM,    FieldDescriptor::TYPE_DOUBLE,
                              FieldDescriptor::TYPE_STRING,  FieldDescriptor::TYPE_BOOL,
                              FieldDescriptor::TYPE_MESSAGE, FieldDescriptor::TYPE_MESSAGE};
  if (type.field_count() != 6 || type.real_oneof_decl_count() != 1 ||
      type.oneof_decl(0)->field_count() != 6) {
    return false;
  }
  for (std::size_t i = 0; i < kTypes.size(); ++i) {
    if (!has_singular(type, static_cast<int>(i) + 1, kTypes[i])) {
      return false;
    }
  }
  return is_map_of_values(*type.FindFieldByNumber(5)->message_type(), type) &&
         is_list_of_values(*type.FindFieldByNumber(6)->message_type(), type);
}

// Whether `type` is Struct or ListValue: field 1 leads to a Value that leads back here by field
// `back`.
bool is_in_json_family(const Descriptor& type, int back) {
  const FieldDescriptor* field = type.FindFieldByNumber(1);
  if (field == nullptr || field->type() != FieldDescriptor::TYPE_MESSAGE) {
    return false;
  }
  const Descriptor* value =
      field->is_map() ? field->message_type()->map_value()->message_type() : field->message_type();
  return value != nullptr && is_json_value(*value) &&
         value->FindFieldByNumber(back)->message_type() == &type;
}

bool is_wrapper(const Descriptor& type) {
  const FieldDescriptor* value = type.FindFieldByNumber(1);
  return type.field_count() == 1 && value != nullptr && !value->is_repeated() &&
         value->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE &&
         value->cpp_type() != FieldDescriptor::CPPTYPE_ENUM;
}

bool is_field_mask(const Descriptor& type) {
  const FieldDescriptor* paths = type.FindFieldByNumber(1);
  return type.field_count() == 1 && paths != nullptr && paths->is_repeated() &&
         paths->type() == FieldDescriptor::TYPE_STRING;
}

// `count` decimal digits, with zeros in front. snprintf takes ten times as long.
void append_digits(unsigned value, int count, std::string& out) {
  const std::size_t start = out.size();
  out.append(static_cast<std::size_t>(count), '0');
  for (std::size_t at = out.size(); at != start; value /= 10) {
    out[--at] = static_cast<char>('0' + value % 10);
  }
}

// ".500", ".000001", nothing: as few groups of three digits as hold `nanos`.
void append_fraction(std::int32_t nanos, std::string& out) {
  if (nanos == 0) {
    return;
  }
  int digits = 9;
  for (; nanos % 1000 == 0; nanos /= 1000) {
    digits -= 3;
  }
  out.push_back('.');
  append_digits(static_cast<unsigned>(nanos), digits, out);
}

// Takes exactly `digits` decimal digits off the front of `text`.
bool take_number(std::string_view& text, std::size_t digits, int& number) {
  if (text.size() < digits) {
    return false;
  }
  number = 0;
  for (std::size_t i = 0; i < digits; ++i) {
    if (text[i] < '0' || text[i] > '9') {
      return false;
    }
    number = number * 10 + (text[i] - '0');
  }
  text.remove_prefix(digits);
  return true;
}

bool take(std::string_view& text, char c) {
  if (!text.starts_with(c)) {
    return false;
  }
  text.remove_prefix(1);
  return true;
}

// Takes "" or a point and one to nine digits.
bool take_fraction(std::string_view& text, std::int32_t& nanos) {
  nanos = 0;
  if (!take(text, '.')) {
    return true;
  }
  std::size_t count = 0;
  std::int32_t unit = kBillion;
  for (int digit = 0; count < 9 && take_number(text, 1, digit); ++count) {
    unit /= 10;
    nanos += digit * unit;
  }
  return count > 0;
}

// Takes "Z" or "+HH:MM"; the offset from UTC in seconds.
bool take_zone(std::string_view& text, std::int64_t& offset) {
  offset = 0;
  if (take(text, 'Z')) {
    return true;
  }
  const bool west = text.starts_with('-');
  int hours = 0;
  int minutes = 0;
  if (!(take(text, '+') || take(text, '-')) || !take_number(text, 2, hours) || !take(text, ':') ||
      !take_number(text, 2, minutes) || hours > 23 || minutes > 59) {
    return false;
  }
  offset = (west ? -60 : 60) * (std::int64_t{hours} * 60 + minutes);
  return true;
}

}  // namespace

WellKnown well_known(const Descriptor& type) {
  switch (type.well_known_type()) {
    case Descriptor::WELLKNOWNTYPE_UNSPECIFIED:
    case Descriptor::WELLKNOWNTYPE_ANY:
      return WellKnown::kNone;
    case Descriptor::WELLKNOWNTYPE_TIMESTAMP:
    case Descriptor::WELLKNOWNTYPE_DURATION:
      if (type.field_count() != 2 || !has_singular(type, 1, FieldDescriptor::TYPE_INT64) ||
          !has_singular(type, 2, FieldDescriptor::TYPE_INT32)) {
        return WellKnown::kNone;
      }
      return type.well_known_type() == Descriptor::WELLKNOWNTYPE_DURATION ? WellKnown::kDuration
                                                                          : WellKnown::kTimestamp;
    case Descriptor::WELLKNOWNTYPE_STRUCT:
      return is_in_json_family(type, 5) ? WellKnown::kStruct : WellKnown::kNone;
    case Descriptor::WELLKNOWNTYPE_LISTVALUE:
      return is_in_json_family(type, 6) ? WellKnown::kListValue : WellKnown::kNone;
    case Descriptor::WELLKNOWNTYPE_VALUE:
      return is_json_value(type) ? WellKnown::kValue : WellKnown::kNone;
    case Descriptor::WELLKNOWNTYPE_FIELDMASK:
      return is_field_mask(type) ? WellKnown::kFieldMask : WellKnown::kNone;
    default:
      return is_wrapper(type) ? WellKnown::kWrapper : WellKnown::kNone;
  }
}

bool append_timestamp(std::int64_t seconds, std::int32_t nanos, std::string& out) {
  if (seconds < kMinTimestamp || seconds > kMaxTimestamp || nanos < 0 || nanos >= kBillion) {
    return false;
  }
  const std::chrono::sys_seconds time{std::chrono::seconds(seconds)};
  const auto day = std::chrono::floor<std::chrono::days>(time);
  const std::chrono::year_month_day date(day);
  const std::chrono::hh_mm_ss clock(time - day);
  const auto append = [&out](unsigned value, int count, const char* after) {
    append_digits(value, count, out);
    out.append(after);
  };
  append(static_cast<unsigned>(static_cast<int>(date.year())), 4, "-");
  append(static_cast<unsigned>(date.month()), 2, "-");
  append(static_cast<unsigned>(date.day()), 2, "T");
  append(static_cast<unsigned>(clock.hours().count()), 2, ":");
  append(static_cast<unsigned>(clock.minutes().count()), 2, ":");
  append(static_cast<unsigned>(clock.seconds().count()), 2, "");
  append_fraction(nanos, out);
  out.push_back('Z');
  return true;
}

bool parse_timestamp(std::string_view text, std::int64_t& seconds, std::int32_t& nanos) {
  int year = 0;
  int month = 0;
  int day = 0;
  int hour = 0;
  int minute = 0;
  int second = 0;
  std::int64_t zone = 0;
  if (!take_number(text, 4, year) || !take(text, '-') || !take_number(text, 2, month) ||
      !take(text, '-') || !take_number(text, 2, day) || !take(text, 'T') ||
      !take_number(text, 2, hour) || !take(text, ':') || !take_number(text, 2, minute) ||
      !take(text, ':') || !take_number(text, 2, second) || !take_fraction(text, nanos) ||
      !take_zone(text, zone) || !text.empty()) {
    return false;
  }
  const std::chrono::year_month_day date(std::chrono::year(year),
                                         std::chrono::month(static_cast<unsigned>(month)),
                                         std::chrono::day(static_cast<unsigned>(day)));
  if (!date.ok() || hour > 23 || minute > 59 || second > 59) {
    return false;
  }
  const std::int64_t days = std::chrono::sys_days(date).time_since_epoch().count();
  seconds = days * 86'400 + hour * 3'600 + minute * 60 + second - zone;
  return seconds >= kMinTimestamp && seconds <= kMaxTimestamp;
}

bool append_duration(std::int64_t seconds, std::int32_t nanos, std::string& out) {
  if (seconds < -kMaxDurationSeconds || seconds > kMaxDurationSeconds || nanos <= -kBillion ||
      nanos >= kBillion || (seconds < 0 && nanos > 0) || (seconds > 0 && nanos < 0)) {
    return false;
  }
  if (seconds < 0 || nanos < 0) {
    out.push_back('-');
  }
  out.append(std::to_string(std::abs(seconds)));
  append_fraction(std::abs(nanos), out);
  out.push_back('s');
  return true;
}

bool parse_duration(std::string_view text, std::int64_t& seconds, std::int32_t& nanos) {
  const bool negative = take(text, '-');
  const std::size_t digits = text.find_first_not_of("0123456789");
  if (digits == 0 || digits == std::string_view::npos) {
    return false;
  }
  const auto [end, error] = std::from_chars(text.data(), text.data() + digits, seconds);
  if (error != std::errc() || seconds > kMaxDurationSeconds) {
    return false;
  }
  text.remove_prefix(digits);
  if (!take_fraction(text, nanos) || text != "s") {
    return false;
  }
  if (negative) {
    seconds = -seconds;
    nanos = -nanos;
  }
  return true;
}

}  // namespace runbus::wire
