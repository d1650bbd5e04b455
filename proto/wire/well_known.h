#pragma once

#include <google/protobuf/descriptor.h>

#include <cstdint>
#include <string>
#include <string_view>

// The types of google.protobuf that JSON writes in a form of their own.
namespace runbus::wire {

enum class WellKnown {
  kNone,
  kTimestamp,
  kDuration,
  kStruct,
  kValue,
  kListValue,
  kWrapper,
  kFieldMask
};

// By name and by shape: a worker's descriptors may call anything google.protobuf.Timestamp, so a
// type that does not have exactly the fields of the real one is kNone, an ordinary message. Once it
// is kStruct, kValue or kListValue, all three types of that family have their shape.
WellKnown well_known(const google::protobuf::Descriptor& type);

// RFC 3339 in UTC with 0, 3, 6 or 9 digits of fraction; false, with nothing appended, out of the
// years 1 to 9999.
bool append_timestamp(std::int64_t seconds, std::int32_t nanos, std::string& out);
bool parse_timestamp(std::string_view text, std::int64_t& seconds, std::int32_t& nanos);

// "1.5s"; false, with nothing appended, past 315,576,000,000 s or where the signs differ.
bool append_duration(std::int64_t seconds, std::int32_t nanos, std::string& out);
bool parse_duration(std::string_view text, std::int64_t& seconds, std::int32_t& nanos);

}  // namespace runbus::wire
