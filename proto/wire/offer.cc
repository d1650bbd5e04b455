#include <google/protobuf/descriptor.pb.h>

#include <map>
#include <set>
#include <stdexcept>
#include <string>

#include "proto/wire/catalog.h"

// Offers of the services that this process has generated code for.
namespace runbus::wire {
namespace {

using google::protobuf::FileDescriptor;
using google::protobuf::FileDescriptorProto;
using google::protobuf::FileDescriptorSet;
using google::protobuf::MethodDescriptor;
using google::protobuf::ServiceDescriptor;

std::map<std::string, FileDescriptorProto> parse_builtin_files() {
  FileDescriptorSet set;
  if (!set.ParseFromArray(builtin_descriptor_set().data(),
                          static_cast<int>(builtin_descriptor_set().size()))) {
    throw std::logic_error("the descriptor set that protoc made cannot be parsed");
  }
  std::map<std::string, FileDescriptorProto> files;
  for (FileDescriptorProto& file : *set.mutable_file()) {
    files[file.name()].Swap(&file);
  }
  return files;
}

const std::map<std::string, FileDescriptorProto>& builtin_files() {
  static const std::map<std::string, FileDescriptorProto> files = parse_builtin_files();
  return files;
}

void add_file(const FileDescriptor& file, std::set<const FileDescriptor*>& done,
              FileDescriptorSet& set) {
  if (!done.insert(&file).second) {
    return;
  }
  for (int i = 0; i < file.dependency_count(); ++i) {
    add_file(*file.dependency(i), done, set);
  }
  // Google's files are the larger part of the comments, and nobody asks for them.
  const auto builtin = builtin_files().find(file.name());
  if (builtin != builtin_files().end() && file.package() != "google.protobuf") {
    *set.add_file() = builtin->second;
  } else {
    FileDescriptorProto& copy = *set.add_file();
    file.CopyTo(&copy);
    file.CopyJsonNameTo(&copy);
  }
}

}  // namespace

std::string descriptor_set_of(const ServiceDescriptor& service) {
  FileDescriptorSet set;
  std::set<const FileDescriptor*> done;
  add_file(*service.file(), done, set);
  return set.SerializeAsString();
}

v1::ServiceOffer make_offer(const ServiceDescriptor& service, std::uint32_t capacity) {
  v1::ServiceOffer offer;
  offer.set_service(service.full_name());
  offer.set_descriptor_set(descriptor_set_of(service));
  offer.set_capacity(capacity);
  for (int i = 0; i < service.method_count(); ++i) {
    const v1::MethodInfo& info = service.method(i)->options().GetExtension(v1::method);
    if (info.name().empty()) {
      continue;
    }
    offer.add_methods(info.name());
    for (const std::string& alias : info.aliases()) {
      offer.add_methods(alias);
    }
  }
  return offer;
}

}  // namespace runbus::wire
