#include <google/protobuf/util/field_comparator.h>
#include <google/protobuf/util/json_util.h>
#include <google/protobuf/util/message_differencer.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "proto/wire/transcoder.h"
#include "tests/unit/proto/kinds.pb.h"

// The transcoder against protobuf's own JSON functions. The first byte chooses: JSON text that both
// read, or a binary message that both write. Allowed differences are the documented ones: we are
// stricter in what we read (names, repeated keys, oneofs, canonical numbers), and a message only we
// reject ends the round.
namespace runbus::wire {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::util::DefaultFieldComparator;
using google::protobuf::util::MessageDifferencer;
using test::Kinds;

void require(bool holds, const char* what, const std::string& json) {
  if (!holds) {
    std::fprintf(stderr, "%s\n%s\n", what, json.c_str());
    std::abort();
  }
}

bool equal(const Kinds& a, const Kinds& b) {
  DefaultFieldComparator comparator;
  comparator.set_treat_nan_as_equal(true);
  MessageDifferencer differencer;
  differencer.set_field_comparator(&comparator);
  return differencer.Compare(a, b);
}

bool read(const std::string& json, Kinds& message) {
  rapidjson::Document document;
  return parse_json(json, {}, document) && json_to_message(document, message);
}

bool oracle_read(const std::string& json, Kinds& message) {
  return google::protobuf::util::JsonStringToMessage(json, &message).ok();
}

// What the two write differently by intent: for us Any is an ordinary message, a mask keeps its
// names, and a Value that is not set is null.
bool has_other_form(const Message& message) {
  const auto& type = *message.GetDescriptor();
  if (type.full_name() == "google.protobuf.Any" ||
      type.full_name() == "google.protobuf.FieldMask") {
    return true;
  }
  std::vector<const FieldDescriptor*> fields;
  const auto& reflection = *message.GetReflection();
  reflection.ListFields(message, &fields);
  if (type.full_name() == "google.protobuf.Value" && fields.empty()) {
    return true;
  }
  for (const FieldDescriptor* field : fields) {
    if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
      continue;
    }
    const int size = field->is_repeated() ? reflection.FieldSize(message, field) : 1;
    for (int i = 0; i < size; ++i) {
      if (has_other_form(field->is_repeated() ? reflection.GetRepeatedMessage(message, field, i)
                                              : reflection.GetMessage(message, field))) {
        return true;
      }
    }
  }
  return false;
}

void check_round_trip(const Kinds& message) {
  std::string json;
  append_json(message, json);
  Kinds back;
  require(read(json, back), "what was written is not read", json);
  require(equal(message, back), "what was written is read as something else", json);
  if (has_other_form(message)) {
    return;
  }
  Kinds theirs;
  require(oracle_read(json, theirs), "protobuf does not read it", json);
  require(equal(message, theirs), "protobuf reads it as something else", json);
}

void check_text(const std::string& json) {
  Kinds ours;
  if (!read(json, ours)) {
    return;
  }
  check_round_trip(ours);
  Kinds theirs;
  if (!has_other_form(ours)) {
    require(oracle_read(json, theirs), "only we read it", json);
    require(equal(ours, theirs), "read differently",
            json + "\n" + ours.DebugString() + "\n" + theirs.DebugString());
  }
}

void check_message(const std::string& wire) {
  Kinds message;
  if (!message.ParseFromString(wire)) {
    return;
  }
  message.DiscardUnknownFields();
  std::string ours;
  append_json(message, ours);
  rapidjson::Document document;
  JsonLimits limits;
  limits.max_depth = 1000;
  require(parse_json(ours, limits, document).has_value(), "not JSON", ours);
  if (has_other_form(message)) {
    return;
  }
  std::string theirs;
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  if (!google::protobuf::util::MessageToJsonString(message, &theirs, options).ok()) {
    return;  // a time out of range, a NaN in a Value: they give up where we write null
  }
  // Protobuf writes -0, and reads it as 0.
  for (const char* lost_sign : {"-0,", "-0}", "-0]"}) {
    if (theirs.find(lost_sign) != std::string::npos) {
      return;
    }
  }
  Kinds ours_back;
  Kinds theirs_back;
  if (json_to_message(document, ours_back) && read(theirs, theirs_back)) {
    require(equal(ours_back, theirs_back), "written differently", ours + "\n" + theirs);
    check_round_trip(ours_back);
  }
}

}  // namespace
}  // namespace runbus::wire

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const google::protobuf::LogSilencer silence;
  if (size == 0) {
    return 0;
  }
  const std::string input(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] == 'm') {
    runbus::wire::check_message(input);
  } else {
    runbus::wire::check_text(input);
  }
  return 0;
}
