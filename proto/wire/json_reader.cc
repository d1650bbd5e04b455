#include <google/protobuf/descriptor.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "proto/wire/json_path.h"
#include "proto/wire/json_scalar.h"
#include "proto/wire/text.h"
#include "proto/wire/transcoder.h"
#include "proto/wire/well_known.h"

namespace runbus::wire {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::FileDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;
using rapidjson::Value;

// Protobuf parsers give up past 100 nested messages; a map's entry is one, and so is each Value,
// Struct and ListValue of a JSON tree.
constexpr int kMaxNesting = 96;

// "{}" makes a message whose fields all take memory, filled or not: about this much for each, and
// in all.
constexpr std::size_t kMessageCost = 48;
constexpr std::size_t kFieldCost = 24;
constexpr std::size_t kMaxCost = 64U << 20U;

// Names from a worker's schema are in details, and have no bound of their own.
constexpr std::size_t kMaxDetail = 1024;

// A field of a message under construction: set it, or add to it when it is repeated.
struct Slot {
  Message& message;
  const FieldDescriptor& field;

  template <class T, class Set, class Add>
  void put(T value, Set set, Add add) const {
    const Reflection& reflection = *message.GetReflection();
    if (field.is_repeated()) {
      (reflection.*add)(&message, &field, std::move(value));
    } else {
      (reflection.*set)(&message, &field, std::move(value));
    }
  }
  Message& put_message() const {
    const Reflection& reflection = *message.GetReflection();
    return field.is_repeated() ? *reflection.AddMessage(&message, &field)
                               : *reflection.MutableMessage(&message, &field);
  }
};

// Turns one JSON tree into one message. The functions return false with error_ set at the first
// thing wrong.
class Reader {
 public:
  bool read_message(const Value& json, Message& message, const JsonPath& path, int depth);
  Error take_error() { return std::move(error_); }

 private:
  bool fail(const JsonPath& path, std::string_view text);
  bool mismatch(const JsonPath& path, std::string_view expected, const Value& json);
  // That `json` is an object without repeated keys.
  bool check_object(const Value& json, const JsonPath& path);
  bool enter(const JsonPath& path, int depth);
  // Counts a message that is about to be made.
  bool charge(const Descriptor& type, const JsonPath& path);
  // Makes the error at hand one of a limit.
  bool refuse(const char* limit);

  bool read_members(const Value& json, Message& message, const JsonPath& path, int depth);
  bool read_member(const Value& json, Message& message, const FieldDescriptor& field,
                   const JsonPath& path, int depth);
  bool read_map(const Value& json, Message& message, const FieldDescriptor& field,
                const JsonPath& path, int depth);
  bool read_key(std::string_view key, Message& entry, const FieldDescriptor& field,
                const JsonPath& path);
  bool read_slot(const Value& json, const Slot& slot, const JsonPath& path, int depth);

  bool read_time(const Value& json, Message& message, const JsonPath& path, bool timestamp);
  bool read_value(const Value& json, Message& message, const JsonPath& path, int depth);
  bool read_field_mask(const Value& json, Message& message, const JsonPath& path);

  // The Value type of the JSON tree last seen: its shape need not be checked again at each of its
  // nodes.
  const Descriptor* value_type_ = nullptr;
  std::size_t cost_ = 0;
  Error error_;
};

bool Reader::fail(const JsonPath& path, std::string_view text) {
  std::string detail = to_string(path);
  if (!detail.empty()) {
    detail.append(": ");
  }
  error_ = make_error(ErrorCode::kInvalidParams, clip(detail.append(text), kMaxDetail));
  return false;
}

bool Reader::mismatch(const JsonPath& path, std::string_view expected, const Value& json) {
  return fail(path, expected_but_got(expected, json));
}

bool Reader::enter(const JsonPath& path, int depth) {
  if (depth <= kMaxNesting) {
    return true;
  }
  fail(path, "nested too deeply");
  return refuse("json_depth");
}

bool Reader::charge(const Descriptor& type, const JsonPath& path) {
  cost_ += kMessageCost + kFieldCost * static_cast<std::size_t>(type.field_count());
  if (cost_ <= kMaxCost) {
    return true;
  }
  fail(path, "too many objects");
  return refuse("json_values");
}

bool Reader::refuse(const char* limit) {
  error_.code = ErrorCode::kValidation;
  error_.limit = limit;
  return false;
}

bool Reader::check_object(const Value& json, const JsonPath& path) {
  if (!json.IsObject()) {
    return mismatch(path, "an object", json);
  }
  std::vector<std::string_view> keys;
  keys.reserve(json.MemberCount());
  for (const auto& member : json.GetObject()) {
    keys.push_back(text_of(member.name));
  }
  std::sort(keys.begin(), keys.end());
  const auto repeated = std::adjacent_find(keys.begin(), keys.end());
  return repeated == keys.end() || fail(path.key(*repeated), "given twice");
}

bool Reader::read_message(const Value& json, Message& message, const JsonPath& path, int depth) {
  if (!enter(path, depth)) {
    return false;
  }
  const Descriptor& type = *message.GetDescriptor();
  if (&type == value_type_) {
    return read_value(json, message, path, depth);
  }
  switch (well_known(type)) {
    case WellKnown::kTimestamp:
      return read_time(json, message, path, true);
    case WellKnown::kDuration:
      return read_time(json, message, path, false);
    case WellKnown::kStruct:
      return read_map(json, message, *type.FindFieldByNumber(1), path, depth);
    case WellKnown::kListValue:
      return read_member(json, message, *type.FindFieldByNumber(1), path, depth);
    case WellKnown::kValue:
      value_type_ = &type;
      return read_value(json, message, path, depth);
    case WellKnown::kWrapper:
      return read_slot(json, {message, *type.FindFieldByNumber(1)}, path, depth);
    case WellKnown::kFieldMask:
      return read_field_mask(json, message, path);
    case WellKnown::kNone:
      break;
  }
  return read_members(json, message, path, depth);
}

// Types for which null is a value and not an absence.
bool takes_null(const FieldDescriptor& field) {
  if (field.is_repeated()) {
    return false;
  }
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
    return well_known(*field.message_type()) == WellKnown::kValue;
  }
  return false;
}

bool Reader::read_members(const Value& json, Message& message, const JsonPath& path, int depth) {
  if (!check_object(json, path)) {
    return false;
  }
  const Descriptor& type = *message.GetDescriptor();
  for (const auto& member : json.GetObject()) {
    const std::string name(text_of(member.name));
    const FieldDescriptor* field = type.FindFieldByName(name);
    if (field == nullptr) {
      return fail(path.key(name), "unknown field");
    }
    if (member.value.IsNull() && !takes_null(*field)) {
      continue;
    }
    const JsonPath here = path.field(field->name());
    const auto* oneof = field->real_containing_oneof();
    if (oneof != nullptr && message.GetReflection()->HasOneof(message, oneof)) {
      return fail(here, "a second member of the oneof " + oneof->name());
    }
    if (!read_member(member.value, message, *field, here, depth)) {
      return false;
    }
  }
  if (type.file()->syntax() != FileDescriptor::SYNTAX_PROTO3) {
    for (int i = 0; i < type.field_count(); ++i) {
      const FieldDescriptor& field = *type.field(i);
      if (field.is_required() && !message.GetReflection()->HasField(message, &field)) {
        return fail(path.field(field.name()), "required");
      }
    }
  }
  return true;
}

bool Reader::read_member(const Value& json, Message& message, const FieldDescriptor& field,
                         const JsonPath& path, int depth) {
  if (field.is_map()) {
    return read_map(json, message, field, path, depth);
  }
  if (!field.is_repeated()) {
    return read_slot(json, {message, field}, path, depth);
  }
  if (!json.IsArray()) {
    return mismatch(path, "an array", json);
  }
  for (rapidjson::SizeType i = 0; i < json.Size(); ++i) {
    if (!read_slot(json[i], {message, field}, path.element(i), depth)) {
      return false;
    }
  }
  return true;
}

bool Reader::read_map(const Value& json, Message& message, const FieldDescriptor& field,
                      const JsonPath& path, int depth) {
  if (!enter(path, depth + 1) || !check_object(json, path)) {
    return false;
  }
  const FieldDescriptor& key_field = *field.message_type()->map_key();
  const FieldDescriptor& value_field = *field.message_type()->map_value();
  for (const auto& member : json.GetObject()) {
    const std::string_view key = text_of(member.name);
    const JsonPath here = path.key(key);
    if (!charge(*field.message_type(), here)) {
      return false;
    }
    Message& entry = *message.GetReflection()->AddMessage(&message, &field);
    if (!read_key(key, entry, key_field, here) ||
        !read_slot(member.value, {entry, value_field}, here, depth + 1)) {
      return false;
    }
  }
  return true;
}

bool Reader::read_key(std::string_view key, Message& entry, const FieldDescriptor& field,
                      const JsonPath& path) {
  const Slot slot{entry, field};
  const auto integer = [&](auto value, auto set, auto add) {
    if (!scalar_from_key(key, value)) {
      return fail(path, std::string("not a key of type ").append(field.type_name()));
    }
    slot.put(value, set, add);
    return true;
  };
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return integer(std::int32_t{}, &Reflection::SetInt32, &Reflection::AddInt32);
    case FieldDescriptor::CPPTYPE_INT64:
      return integer(std::int64_t{}, &Reflection::SetInt64, &Reflection::AddInt64);
    case FieldDescriptor::CPPTYPE_UINT32:
      return integer(std::uint32_t{}, &Reflection::SetUInt32, &Reflection::AddUInt32);
    case FieldDescriptor::CPPTYPE_UINT64:
      return integer(std::uint64_t{}, &Reflection::SetUInt64, &Reflection::AddUInt64);
    case FieldDescriptor::CPPTYPE_BOOL:
      return integer(bool{}, &Reflection::SetBool, &Reflection::AddBool);
    case FieldDescriptor::CPPTYPE_STRING:
      if (!is_utf8(key)) {
        return fail(path, "not UTF-8");
      }
      slot.put(std::string(key), &Reflection::SetString, &Reflection::AddString);
      return true;
    default:
      return fail(path, "a map with keys of an unknown type");
  }
}

bool Reader::read_slot(const Value& json, const Slot& slot, const JsonPath& path, int depth) {
  const auto store = [&](auto value, auto set, auto add) {
    if (std::string problem = scalar_from_json(json, value); !problem.empty()) {
      return fail(path, problem);
    }
    slot.put(std::move(value), set, add);
    return true;
  };
  switch (slot.field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return store(std::int32_t{}, &Reflection::SetInt32, &Reflection::AddInt32);
    case FieldDescriptor::CPPTYPE_INT64:
      return store(std::int64_t{}, &Reflection::SetInt64, &Reflection::AddInt64);
    case FieldDescriptor::CPPTYPE_UINT32:
      return store(std::uint32_t{}, &Reflection::SetUInt32, &Reflection::AddUInt32);
    case FieldDescriptor::CPPTYPE_UINT64:
      return store(std::uint64_t{}, &Reflection::SetUInt64, &Reflection::AddUInt64);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return store(double{}, &Reflection::SetDouble, &Reflection::AddDouble);
    case FieldDescriptor::CPPTYPE_FLOAT:
      return store(float{}, &Reflection::SetFloat, &Reflection::AddFloat);
    case FieldDescriptor::CPPTYPE_BOOL:
      return store(bool{}, &Reflection::SetBool, &Reflection::AddBool);
    case FieldDescriptor::CPPTYPE_ENUM:
      return store(EnumNumber{*slot.field.enum_type()}, &Reflection::SetEnumValue,
                   &Reflection::AddEnumValue);
    case FieldDescriptor::CPPTYPE_STRING:
      return slot.field.type() == FieldDescriptor::TYPE_BYTES
                 ? store(Bytes{}, &Reflection::SetString, &Reflection::AddString)
                 : store(std::string{}, &Reflection::SetString, &Reflection::AddString);
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return charge(*slot.field.message_type(), path) &&
             read_message(json, slot.put_message(), path, depth + 1);
  }
  return fail(path, "a field of an unknown type");
}

bool Reader::read_time(const Value& json, Message& message, const JsonPath& path, bool timestamp) {
  const char* expected = timestamp ? "an RFC 3339 time" : "a duration like \"1.5s\"";
  if (!json.IsString()) {
    return mismatch(path, expected, json);
  }
  std::int64_t seconds = 0;
  std::int32_t nanos = 0;
  const bool good = timestamp ? parse_timestamp(text_of(json), seconds, nanos)
                              : parse_duration(text_of(json), seconds, nanos);
  if (!good) {
    return fail(path, std::string("not ").append(expected));
  }
  const Descriptor& type = *message.GetDescriptor();
  message.GetReflection()->SetInt64(&message, type.FindFieldByNumber(1), seconds);
  message.GetReflection()->SetInt32(&message, type.FindFieldByNumber(2), nanos);
  return true;
}

// The members of google.protobuf.Value by number; well_known() has checked their types.
bool Reader::read_value(const Value& json, Message& message, const JsonPath& path, int depth) {
  constexpr int kNull = 1;
  constexpr int kNumber = 2;
  constexpr int kString = 3;
  constexpr int kBool = 4;
  constexpr int kStruct = 5;
  constexpr int kList = 6;
  int member = kNull;
  if (json.IsNumber()) {
    member = kNumber;
  } else if (json.IsString()) {
    member = kString;
  } else if (json.IsBool()) {
    member = kBool;
  } else if (json.IsObject()) {
    member = kStruct;
  } else if (json.IsArray()) {
    member = kList;
  }
  const FieldDescriptor& field = *message.GetDescriptor()->FindFieldByNumber(member);
  if (member == kNull) {
    message.GetReflection()->SetEnumValue(&message, &field, 0);
    return true;
  }
  if (member < kStruct) {
    return read_slot(json, {message, field}, path, depth);
  }
  if (!enter(path, depth + 1)) {
    return false;
  }
  Message& tree = *message.GetReflection()->MutableMessage(&message, &field);
  const FieldDescriptor& inside = *tree.GetDescriptor()->FindFieldByNumber(1);
  return member == kStruct ? read_map(json, tree, inside, path, depth + 1)
                           : read_member(json, tree, inside, path, depth + 1);
}

bool Reader::read_field_mask(const Value& json, Message& message, const JsonPath& path) {
  if (!json.IsString()) {
    return mismatch(path, "a string of field paths", json);
  }
  const FieldDescriptor& paths = *message.GetDescriptor()->FindFieldByNumber(1);
  if (!is_utf8(text_of(json))) {
    return fail(path, "not UTF-8");
  }
  std::string_view rest = text_of(json);
  while (!rest.empty()) {
    const std::size_t comma = std::min(rest.find(','), rest.size());
    message.GetReflection()->AddString(&message, &paths, std::string(rest.substr(0, comma)));
    rest.remove_prefix(std::min(comma + 1, rest.size()));
  }
  return true;
}

}  // namespace

Result<void> json_to_message(const Value& json, Message& message) {
  message.Clear();
  Reader reader;
  if (reader.read_message(json, message, JsonPath{}, 0)) {
    return {};
  }
  message.Clear();
  return reader.take_error();
}

}  // namespace runbus::wire
