#include <google/protobuf/descriptor.h>

#include <array>
#include <charconv>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <cstdlib>

#include "proto/wire/transcoder.h"
#include "proto/wire/well_known.h"

namespace runbus::wire {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::EnumValueDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::OneofDescriptor;
using google::protobuf::Reflection;

// Readers in JavaScript hold numbers as doubles: integers past this would be rounded.
constexpr std::uint64_t kMaxExactInteger = 1ULL << 53U;

class Writer {
 public:
  Writer(std::string& out, std::size_t max_bytes)
      : out_(out), start_(out.size()), max_bytes_(max_bytes) {}

  // Takes back everything when it was too much.
  bool finish() {
    if (full()) {
      out_.resize(start_);
      return false;
    }
    return true;
  }

  void write_message(const Message& message);
  void write_members(const Message& message);
  void write_map_members(const Message& message, const FieldDescriptor& field);

 private:
  void write_field(const Message& message, const FieldDescriptor& field);
  // Element `index` of a repeated field, or the value of a singular one where it is negative.
  void write_slot(const Message& message, const FieldDescriptor& field, int index);
  void write_key(const Message& entry, const FieldDescriptor& field);
  void write_list(const Message& message, const FieldDescriptor& field);
  void write_map(const Message& message, const FieldDescriptor& field);
  void write_enum(const FieldDescriptor& field, int number);
  void write_time(const Message& message, bool timestamp);
  void write_value(const Message& message);
  void write_field_mask(const Message& message);

  void write_null() { out_.append("null"); }
  void write_bool(bool value) { out_.append(value ? "true" : "false"); }

  template <std::integral T>
  void write_integer(T value) {
    std::array<char, 24> digits{};
    const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr;
    bool exact = true;
    if constexpr (sizeof(T) == 8) {
      const bool negative = std::is_signed_v<T> && value < 0;
      const auto bits = static_cast<std::uint64_t>(value);
      exact = (negative ? 0 - bits : bits) <= kMaxExactInteger;
    }
    quote_unless(exact);
    out_.append(digits.data(), end);
    quote_unless(exact);
  }

  template <std::floating_point T>
  void write_float(T value) {
    if (!std::isfinite(value)) {
      out_.append(std::isnan(value) ? "\"NaN\"" : value > 0 ? "\"Infinity\"" : "\"-Infinity\"");
      return;
    }
    if (value == 0 && std::signbit(value)) {
      out_.append("-0.0");  // many readers take -0 for an integer
      return;
    }
    std::array<char, 32> digits{};
    const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr;
    out_.append(digits.data(), end);
  }

  void quote_unless(bool plain) {
    if (!plain) {
      out_.push_back('"');
    }
  }
  // A comma unless this is the first of its list.
  void separate(bool& first) {
    if (!first) {
      out_.push_back(',');
    }
    first = false;
  }

  // Asked before each member and element, so the bound is overrun by one scalar at most.
  bool full() const { return out_.size() - start_ > max_bytes_; }

  std::string& out_;
  std::size_t start_;
  std::size_t max_bytes_;
  // The Value type of the JSON tree last seen: its shape need not be checked again at each of its
  // nodes.
  const Descriptor* value_type_ = nullptr;
};

void Writer::write_message(const Message& message) {
  if (message.GetDescriptor() == value_type_) {
    return write_value(message);
  }
  switch (well_known(*message.GetDescriptor())) {
    case WellKnown::kTimestamp:
      return write_time(message, true);
    case WellKnown::kDuration:
      return write_time(message, false);
    case WellKnown::kStruct:
      return write_map(message, *message.GetDescriptor()->FindFieldByNumber(1));
    case WellKnown::kListValue:
      return write_list(message, *message.GetDescriptor()->FindFieldByNumber(1));
    case WellKnown::kValue:
      value_type_ = message.GetDescriptor();
      return write_value(message);
    case WellKnown::kWrapper:
      return write_slot(message, *message.GetDescriptor()->FindFieldByNumber(1), -1);
    case WellKnown::kFieldMask:
      return write_field_mask(message);
    case WellKnown::kNone:
      break;
  }
  out_.push_back('{');
  write_members(message);
  out_.push_back('}');
}

void Writer::write_members(const Message& message) {
  const Descriptor& type = *message.GetDescriptor();
  const Reflection& reflection = *message.GetReflection();
  bool first = true;
  for (int i = 0; i < type.field_count() && !full(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    const bool absent = field.has_presence() && !reflection.HasField(message, &field);
    if (absent && (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE ||
                   field.real_containing_oneof() != nullptr)) {
      continue;
    }
    separate(first);
    out_.push_back('"');
    out_.append(field.name());  // an identifier: nothing in it to escape
    out_.append("\":");
    if (absent) {
      write_null();
    } else {
      write_field(message, field);
    }
  }
}

void Writer::write_field(const Message& message, const FieldDescriptor& field) {
  if (field.is_map()) {
    write_map(message, field);
  } else if (field.is_repeated()) {
    write_list(message, field);
  } else {
    write_slot(message, field, -1);
  }
}

void Writer::write_list(const Message& message, const FieldDescriptor& field) {
  out_.push_back('[');
  const int size = message.GetReflection()->FieldSize(message, &field);
  bool first = true;
  for (int i = 0; i < size && !full(); ++i) {
    separate(first);
    write_slot(message, field, i);
  }
  out_.push_back(']');
}

void Writer::write_map(const Message& message, const FieldDescriptor& field) {
  out_.push_back('{');
  write_map_members(message, field);
  out_.push_back('}');
}

void Writer::write_map_members(const Message& message, const FieldDescriptor& field) {
  const FieldDescriptor& key = *field.message_type()->map_key();
  const FieldDescriptor& value = *field.message_type()->map_value();
  const int size = message.GetReflection()->FieldSize(message, &field);
  bool first = true;
  for (int i = 0; i < size && !full(); ++i) {
    const Message& entry = message.GetReflection()->GetRepeatedMessage(message, &field, i);
    separate(first);
    write_key(entry, key);
    out_.push_back(':');
    write_slot(entry, value, -1);
  }
}

void Writer::write_key(const Message& entry, const FieldDescriptor& field) {
  const Reflection& reflection = *entry.GetReflection();
  const auto quoted = [this](const std::string& text) {
    out_.append("\"").append(text).append("\"");
  };
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return quoted(std::to_string(reflection.GetInt32(entry, &field)));
    case FieldDescriptor::CPPTYPE_INT64:
      return quoted(std::to_string(reflection.GetInt64(entry, &field)));
    case FieldDescriptor::CPPTYPE_UINT32:
      return quoted(std::to_string(reflection.GetUInt32(entry, &field)));
    case FieldDescriptor::CPPTYPE_UINT64:
      return quoted(std::to_string(reflection.GetUInt64(entry, &field)));
    case FieldDescriptor::CPPTYPE_BOOL:
      return quoted(reflection.GetBool(entry, &field) ? "true" : "false");
    default: {
      // Descriptors allow no other key types than these and strings.
      std::string scratch;
      append_json_string(reflection.GetStringReference(entry, &field, &scratch), out_);
    }
  }
}

void Writer::write_slot(const Message& message, const FieldDescriptor& field, int index) {
  const Reflection& reflection = *message.GetReflection();
  const bool one = index < 0;
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return write_integer(one ? reflection.GetInt32(message, &field)
                               : reflection.GetRepeatedInt32(message, &field, index));
    case FieldDescriptor::CPPTYPE_INT64:
      return write_integer(one ? reflection.GetInt64(message, &field)
                               : reflection.GetRepeatedInt64(message, &field, index));
    case FieldDescriptor::CPPTYPE_UINT32:
      return write_integer(one ? reflection.GetUInt32(message, &field)
                               : reflection.GetRepeatedUInt32(message, &field, index));
    case FieldDescriptor::CPPTYPE_UINT64:
      return write_integer(one ? reflection.GetUInt64(message, &field)
                               : reflection.GetRepeatedUInt64(message, &field, index));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return write_float(one ? reflection.GetDouble(message, &field)
                             : reflection.GetRepeatedDouble(message, &field, index));
    case FieldDescriptor::CPPTYPE_FLOAT:
      return write_float(one ? reflection.GetFloat(message, &field)
                             : reflection.GetRepeatedFloat(message, &field, index));
    case FieldDescriptor::CPPTYPE_BOOL:
      return write_bool(one ? reflection.GetBool(message, &field)
                            : reflection.GetRepeatedBool(message, &field, index));
    case FieldDescriptor::CPPTYPE_ENUM:
      return write_enum(field, one ? reflection.GetEnumValue(message, &field)
                                   : reflection.GetRepeatedEnumValue(message, &field, index));
    case FieldDescriptor::CPPTYPE_STRING: {
      std::string scratch;
      const std::string& text =
          one ? reflection.GetStringReference(message, &field, &scratch)
              : reflection.GetRepeatedStringReference(message, &field, index, &scratch);
      if (field.type() == FieldDescriptor::TYPE_STRING) {
        return append_json_string(text, out_);
      }
      out_.push_back('"');
      append_base64(text, out_);
      out_.push_back('"');
      return;
    }
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return write_message(one ? reflection.GetMessage(message, &field)
                               : reflection.GetRepeatedMessage(message, &field, index));
  }
}

void Writer::write_enum(const FieldDescriptor& field, int number) {
  if (field.enum_type()->full_name() == "google.protobuf.NullValue") {
    return write_null();
  }
  const EnumValueDescriptor* value = field.enum_type()->FindValueByNumber(number);
  if (value == nullptr) {
    write_integer(number);
  } else {
    out_.append("\"").append(value->name()).append("\"");
  }
}

void Writer::write_time(const Message& message, bool timestamp) {
  const Descriptor& type = *message.GetDescriptor();
  const Reflection& reflection = *message.GetReflection();
  const std::int64_t seconds = reflection.GetInt64(message, type.FindFieldByNumber(1));
  const std::int32_t nanos = reflection.GetInt32(message, type.FindFieldByNumber(2));
  out_.push_back('"');
  if (timestamp ? append_timestamp(seconds, nanos, out_) : append_duration(seconds, nanos, out_)) {
    out_.push_back('"');
  } else {
    out_.pop_back();
    write_null();
  }
}

// The members of google.protobuf.Value by number; well_known() has checked their types and that one
// oneof holds them all.
void Writer::write_value(const Message& message) {
  const Reflection& reflection = *message.GetReflection();
  const OneofDescriptor* kind = message.GetDescriptor()->oneof_decl(0);
  const FieldDescriptor* field = reflection.GetOneofFieldDescriptor(message, kind);
  if (field == nullptr || field->number() == 1) {
    return write_null();
  }
  if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
    return write_slot(message, *field, -1);
  }
  const Message& tree = reflection.GetMessage(message, field);
  const FieldDescriptor& inside = *tree.GetDescriptor()->FindFieldByNumber(1);
  write_field(tree, inside);
}

void Writer::write_field_mask(const Message& message) {
  const FieldDescriptor& paths = *message.GetDescriptor()->FindFieldByNumber(1);
  const int size = message.GetReflection()->FieldSize(message, &paths);
  std::string joined;
  for (int i = 0; i < size; ++i) {
    joined.append(i == 0 ? "" : ",")
        .append(message.GetReflection()->GetRepeatedString(message, &paths, i));
  }
  append_json_string(joined, out_);
}

}  // namespace

bool append_json(const Message& message, std::string& out, std::size_t max_bytes) {
  Writer writer(out, max_bytes);
  writer.write_message(message);
  return writer.finish();
}

bool append_json_members(const Message& message, std::string& out, std::size_t max_bytes) {
  Writer writer(out, max_bytes);
  if (well_known(*message.GetDescriptor()) == WellKnown::kStruct) {
    writer.write_map_members(message, *message.GetDescriptor()->FindFieldByNumber(1));
  } else {
    writer.write_members(message);
  }
  return writer.finish();
}

}  // namespace runbus::wire
