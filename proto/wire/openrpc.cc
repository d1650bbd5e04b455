#include "proto/wire/openrpc.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>

#include <deque>
#include <map>
#include <set>

#include "proto/wire/json_builder.h"
#include "proto/wire/offer_pool.h"
#include "proto/wire/well_known.h"

namespace runbus::wire {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::DescriptorProto;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;

class Document {
 public:
  std::string write(const std::vector<const Method*>& methods);

 private:
  void write_method(const Method& method);
  void write_notifications(const Method& method);
  void write_components();
  void write_schema(const Descriptor& type);
  void write_description(const std::string& comment);
  void write_field_schema(const FieldDescriptor& field, const std::string& comment);
  // The inside of the schema of one value of the field.
  void write_value_schema(const FieldDescriptor& field, bool nullable);
  void write_message_schema(const Descriptor& type);
  void write_enum_schema(const EnumDescriptor& type, bool nullable);
  void write_type(std::string_view type, std::string_view format, bool nullable);
  void write_integer(std::string_view format, bool nullable);

  // The name of the type under components.schemas; it is written there later.
  const std::string& reference(const Descriptor& type);

  JsonBuilder json_;
  std::map<const Descriptor*, std::string> names_;
  // What a name stands for: two workers may describe the same type, each in a pool of its own.
  std::map<std::string, std::string> definitions_;
  std::deque<const Descriptor*> pending_;
};

std::string Document::write(const std::vector<const Method*>& methods) {
  json_.open('{').key("openrpc").string("1.2.6");
  json_.key("info").open('{');
  json_.key("title").string("runbus").key("version").string(RUNBUS_VERSION).close('}');
  json_.key("methods").open('[');
  for (const Method* method : methods) {
    write_method(*method);
  }
  json_.close(']');
  write_components();
  json_.close('}');
  return json_.take();
}

void Document::write_method(const Method& method) {
  json_.open('{').key("name").string(method.name);
  if (!method.documentation.empty()) {
    json_.key("summary").string(method.documentation.substr(0, method.documentation.find('\n')));
    json_.key("description").string(method.documentation);
  }
  json_.key("paramStructure").string("by-name").key("params").open('[');
  const Descriptor& request = *method.descriptor->input_type();
  for (int i = 0; i < request.field_count(); ++i) {
    const FieldDescriptor& field = *request.field(i);
    const std::string comment = comment_of(field);
    json_.open('{').key("name").string(field.name());
    write_description(comment);
    json_.key("required").raw(field.is_required() ? "true" : "false");
    json_.key("schema");
    write_field_schema(field, {});
    json_.close('}');
  }
  json_.close(']').key("result").open('{').key("name").string("result").key("schema").open('{');
  write_message_schema(method.result_field != nullptr ? *method.result_field->message_type()
                                                      : *method.descriptor->output_type());
  json_.close('}').close('}');
  if (method.server_streaming) {
    json_.key("x-streaming").raw("true");
    write_notifications(method);
  }
  if (method.client_streaming) {
    json_.key("x-client-streaming").raw("true");
  }
  if (method.idempotent) {
    json_.key("x-idempotent").raw("true");
  }
  const auto& aliases = method.descriptor->options().GetExtension(v1::method).aliases();
  if (!aliases.empty()) {
    json_.key("x-aliases").open('[');
    for (const std::string& alias : aliases) {
      json_.string(alias);
    }
    json_.close(']');
  }
  json_.close('}');
}

void Document::write_notifications(const Method& method) {
  json_.key("x-notifications").open('[');
  for (const auto& [number, name] : method.notifications) {
    const FieldDescriptor& field = *method.descriptor->output_type()->FindFieldByNumber(number);
    json_.open('{').key("name").string(name).key("params").open('{');
    write_message_schema(*field.message_type());
    json_.close('}').close('}');
  }
  json_.close(']');
}

void Document::write_components() {
  json_.key("components").open('{').key("schemas").open('{');
  while (!pending_.empty()) {
    const Descriptor& type = *pending_.front();
    pending_.pop_front();
    json_.key(names_.at(&type));
    write_schema(type);
  }
  json_.close('}').close('}');
}

void Document::write_schema(const Descriptor& type) {
  json_.open('{').key("type").string("object");
  write_description(comment_of(type));
  json_.key("properties").open('{');
  bool required = false;
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    json_.key(field.name());
    write_field_schema(field, comment_of(field));
    required = required || field.is_required();
  }
  json_.close('}');
  if (required) {
    json_.key("required").open('[');
    for (int i = 0; i < type.field_count(); ++i) {
      if (type.field(i)->is_required()) {
        json_.string(type.field(i)->name());
      }
    }
    json_.close(']');
  }
  json_.key("additionalProperties").raw("false").close('}');
}

void Document::write_description(const std::string& comment) {
  if (!comment.empty()) {
    json_.key("description").string(comment);
  }
}

void Document::write_field_schema(const FieldDescriptor& field, const std::string& comment) {
  json_.open('{');
  write_description(comment);
  if (const auto* oneof = field.real_containing_oneof(); oneof != nullptr) {
    json_.key("x-oneof").string(oneof->name());
  }
  if (field.is_map()) {
    json_.key("type").string("object").key("additionalProperties").open('{');
    write_value_schema(*field.message_type()->map_value(), false);
    json_.close('}');
  } else if (field.is_repeated()) {
    json_.key("type").string("array").key("items").open('{');
    write_value_schema(field, false);
    json_.close('}');
  } else {
    write_value_schema(field, field.has_presence() && !field.is_required());
  }
  json_.close('}');
}

void Document::write_value_schema(const FieldDescriptor& field, bool nullable) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return write_type("integer", "int32", nullable);
    case FieldDescriptor::CPPTYPE_UINT32:
      return write_type("integer", "uint32", nullable);
    case FieldDescriptor::CPPTYPE_INT64:
      return write_integer("int64", nullable);
    case FieldDescriptor::CPPTYPE_UINT64:
      return write_integer("uint64", nullable);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return write_type("number", "double", nullable);
    case FieldDescriptor::CPPTYPE_FLOAT:
      return write_type("number", "float", nullable);
    case FieldDescriptor::CPPTYPE_BOOL:
      return write_type("boolean", {}, nullable);
    case FieldDescriptor::CPPTYPE_ENUM:
      return write_enum_schema(*field.enum_type(), nullable);
    case FieldDescriptor::CPPTYPE_STRING:
      write_type("string", {}, nullable);
      if (field.type() == FieldDescriptor::TYPE_BYTES) {
        json_.key("contentEncoding").string("base64");
      }
      return;
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return write_message_schema(*field.message_type());
  }
}

void Document::write_type(std::string_view type, std::string_view format, bool nullable) {
  json_.key("type");
  if (nullable) {
    json_.open('[').string(type).string("null").close(']');
  } else {
    json_.string(type);
  }
  if (!format.empty()) {
    json_.key("format").string(format);
  }
}

void Document::write_integer(std::string_view format, bool nullable) {
  json_.key("type").open('[').string("integer").string("string");
  if (nullable) {
    json_.string("null");
  }
  json_.close(']').key("format").string(format);
}

void Document::write_enum_schema(const EnumDescriptor& type, bool nullable) {
  if (type.full_name() == "google.protobuf.NullValue") {
    json_.key("type").string("null");
    return;
  }
  json_.key("enum").open('[');
  for (int i = 0; i < type.value_count(); ++i) {
    json_.string(type.value(i)->name());
  }
  if (nullable) {
    json_.raw("null");
  }
  json_.close(']');
}

void Document::write_message_schema(const Descriptor& type) {
  switch (well_known(type)) {
    case WellKnown::kTimestamp:
      return write_type("string", "date-time", false);
    case WellKnown::kDuration:
      json_.key("type").string("string").key("pattern").string("^-?[0-9]+(\\.[0-9]{1,9})?s$");
      return;
    case WellKnown::kStruct:
      return write_type("object", {}, false);
    case WellKnown::kListValue:
      return write_type("array", {}, false);
    case WellKnown::kValue:
      return;  // anything
    case WellKnown::kWrapper:
      return write_value_schema(*type.FindFieldByNumber(1), true);
    case WellKnown::kFieldMask:
      return write_type("string", {}, false);
    case WellKnown::kNone:
      json_.key("$ref").string("#/components/schemas/" + reference(type));
  }
}

const std::string& Document::reference(const Descriptor& type) {
  if (const auto known = names_.find(&type); known != names_.end()) {
    return known->second;
  }
  DescriptorProto proto;
  type.CopyTo(&proto);
  const std::string definition = proto.SerializeAsString();
  std::string name = type.full_name();
  for (int other = 2;; ++other) {
    const auto [at, added] = definitions_.try_emplace(name, definition);
    if (added) {
      pending_.push_back(&type);
    }
    if (added || at->second == definition) {
      return names_.emplace(&type, name).first->second;
    }
    name = type.full_name() + "-" + std::to_string(other);
  }
}

}  // namespace

std::string make_openrpc(const std::vector<const Method*>& methods) {
  return Document().write(methods);
}

}  // namespace runbus::wire
