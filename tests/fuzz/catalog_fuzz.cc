#include <google/protobuf/descriptor.pb.h>
#include <google/protobuf/message.h>
#include <google/protobuf/stubs/logging.h>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "proto/wire/catalog.h"
#include "proto/wire/transcoder.h"

// Descriptor sets from a hostile worker: building, describing and using what was accepted must not
// crash, and must give JSON. The input is one descriptor set, offered under each service name it
// declares.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const google::protobuf::LogSilencer silence;
  using runbus::wire::Catalog;
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  google::protobuf::FileDescriptorSet set;
  if (!set.ParseFromString(bytes)) {
    return 0;
  }
  std::vector<runbus::v1::ServiceOffer> offers;
  for (const auto& file : set.file()) {
    for (const auto& service : file.service()) {
      runbus::v1::ServiceOffer& offer = offers.emplace_back();
      offer.set_service(file.package().empty() ? service.name()
                                               : file.package() + "." + service.name());
      offer.set_descriptor_set(bytes);
    }
  }
  std::vector<std::string> problems;
  const auto catalog = Catalog::build(offers, &problems);
  rapidjson::Document document;
  if (!runbus::wire::parse_json(catalog->openrpc(), {}, document)) {
    std::abort();
  }
  for (const auto* method : catalog->methods()) {
    const auto request = catalog->new_request(*method);
    std::string json;
    runbus::wire::append_json(*request, json);
    if (!runbus::wire::parse_json(json, {}, document)) {
      std::abort();
    }
    (void)runbus::wire::json_to_message(document, *request);
    (void)catalog->new_response(*method)->ParseFromString(bytes);
  }
  return 0;
}
