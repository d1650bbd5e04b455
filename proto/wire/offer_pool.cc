#include "proto/wire/offer_pool.h"

#include <google/protobuf/descriptor.pb.h>

#include <algorithm>
#include <string_view>
#include <vector>

#include "proto/wire/text.h"

namespace runbus::wire {
namespace {

using google::protobuf::DescriptorPool;
using google::protobuf::DescriptorProto;
using google::protobuf::EnumDescriptorProto;
using google::protobuf::FieldDescriptor;
using google::protobuf::FileDescriptorProto;
using google::protobuf::FileDescriptorSet;
using google::protobuf::Message;
using google::protobuf::SourceLocation;
using google::protobuf::UninterpretedOption;

class FirstError : public DescriptorPool::ErrorCollector {
 public:
  void AddError(const std::string& file, const std::string& element, const Message* /*descriptor*/,
                ErrorLocation /*location*/, const std::string& message) override {
    if (text.empty()) {
      text = clip(file, 100) + ": " + clip(element, 100) + ": " + clip(message, 200);
    }
  }

  std::string text;
};

class Inspector {
 public:
  // The bound that `file` breaks, or "". Counts over all files it is shown.
  std::string_view inspect(const FileDescriptorProto& file) {
    for (const EnumDescriptorProto& type : file.enum_type()) {
      inspect_enum(type);
    }
    for (const DescriptorProto& type : file.message_type()) {
      inspect_message(type, 1);
    }
    return broken_;
  }

 private:
  void inspect_enum(const EnumDescriptorProto& type) {
    if (type.reserved_range_size() > OfferBounds::kRangesPerType) {
      broken_ = "too many reserved ranges in an enum";
    }
  }

  void inspect_message(const DescriptorProto& type, int nesting) {
    if (++messages_ > OfferBounds::kMessages) {
      broken_ = "too many message types";
      return;
    }
    if (nesting > OfferBounds::kNesting) {
      broken_ = "message types nested too deeply";
      return;
    }
    if (type.reserved_range_size() > OfferBounds::kRangesPerType ||
        type.extension_range_size() > OfferBounds::kRangesPerType) {
      broken_ = "too many ranges in a message type";
    }
    if (type.field_size() > OfferBounds::kFieldsPerType) {
      broken_ = "too many fields in a message type";
    }
    for (const EnumDescriptorProto& nested : type.enum_type()) {
      inspect_enum(nested);
    }
    for (const DescriptorProto& nested : type.nested_type()) {
      inspect_message(nested, nesting + 1);
    }
  }

  int messages_ = 0;
  std::string_view broken_;
};

// protoc resolves all options. One that is left would be resolved here, by building messages of the
// worker's types: nothing that a description needs.
bool has_uninterpreted_option(const Message& part) {
  if (part.GetDescriptor() == UninterpretedOption::descriptor()) {
    return true;
  }
  std::vector<const FieldDescriptor*> fields;
  part.GetReflection()->ListFields(part, &fields);
  for (const FieldDescriptor* field : fields) {
    if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE ||
        field->name() == "source_code_info") {
      continue;
    }
    if (!field->is_repeated()) {
      if (has_uninterpreted_option(part.GetReflection()->GetMessage(part, field))) {
        return true;
      }
      continue;
    }
    const int size = part.GetReflection()->FieldSize(part, field);
    for (int i = 0; i < size; ++i) {
      if (has_uninterpreted_option(part.GetReflection()->GetRepeatedMessage(part, field, i))) {
        return true;
      }
    }
  }
  return false;
}

std::string check_bounds(const FileDescriptorSet& set) {
  if (set.file_size() > OfferBounds::kFiles) {
    return "more than " + std::to_string(OfferBounds::kFiles) + " files";
  }
  Inspector inspector;
  for (const FileDescriptorProto& file : set.file()) {
    if (const std::string_view broken = inspector.inspect(file); !broken.empty()) {
      return clip(file.name(), 100) + ": " + std::string(broken);
    }
    if (has_uninterpreted_option(file)) {
      return clip(file.name(), 100) + ": an option that is not resolved";
    }
  }
  return {};
}

}  // namespace

std::unique_ptr<OfferPool> load_offer(const v1::ServiceOffer& offer, std::string& problem) {
  if (offer.descriptor_set().size() > OfferBounds::kBytes) {
    problem = "a descriptor set of more than " + std::to_string(OfferBounds::kBytes) + " bytes";
    return nullptr;
  }
  FileDescriptorSet set;
  if (!set.ParseFromString(offer.descriptor_set())) {
    problem = "not a FileDescriptorSet";
    return nullptr;
  }
  problem = check_bounds(set);
  if (!problem.empty()) {
    return nullptr;
  }
  auto loaded = std::make_unique<OfferPool>();
  for (const FileDescriptorProto& file : set.file()) {
    FirstError error;
    if (loaded->pool.BuildFileCollectingErrors(file, &error) == nullptr) {
      problem = error.text.empty() ? "a file that does not hold together" : error.text;
      return nullptr;
    }
  }
  loaded->service = loaded->pool.FindServiceByName(offer.service());
  if (loaded->service == nullptr) {
    problem = "no such service in its descriptor set";
    return nullptr;
  }
  return loaded;
}

std::string comment_of(const SourceLocation& location) {
  std::string_view rest =
      location.leading_comments.empty() ? location.trailing_comments : location.leading_comments;
  std::string text;
  while (!rest.empty()) {
    std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    if (line.starts_with(' ')) {
      line.remove_prefix(1);
    }
    text.append(line).push_back('\n');
  }
  const std::size_t last = text.find_last_not_of(" \t\r\n");
  text.resize(last == std::string::npos ? 0 : last + 1);
  return text;
}

}  // namespace runbus::wire
