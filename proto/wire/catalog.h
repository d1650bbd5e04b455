#pragma once

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "proto/support/error.h"
#include "runbus/v1/bus.pb.h"

// The methods that can be called, learned from the descriptors that workers announce.
namespace runbus::wire {

// One rpc with what its options say. Lives as long as the Catalog that made it is referenced.
struct Method {
  std::string name;                          // "execute.code"
  std::string service;                       // "runbus.v1.ExecutionService"
  const google::protobuf::MethodDescriptor* descriptor = nullptr;
  bool server_streaming = false;
  bool client_streaming = false;
  bool internal = false;
  bool resumable = false;
  bool idempotent = false;                   // IDEMPOTENT or NO_SIDE_EFFECTS
  const google::protobuf::FieldDescriptor* session_field = nullptr;   // of the request, or null
  const google::protobuf::FieldDescriptor* new_id_field = nullptr;
  const google::protobuf::FieldDescriptor* existing_id_field = nullptr;
  // Of a server-streaming rpc's message: the member that is the last message, and the notification of each
  // other member by field number.
  const google::protobuf::FieldDescriptor* result_field = nullptr;
  std::map<int, std::string> notifications;
  std::string documentation;                 // the rpc's comment
};

// The built-in services' own FileDescriptorSet with comments (made at build time by protoc).
std::string_view builtin_descriptor_set();

// The set of files needed for one service of `pool`'s generated code, dependencies first, with the comments
// of builtin_descriptor_set where it has them. For ServiceOffer.descriptor_set.
std::string descriptor_set_of(const google::protobuf::ServiceDescriptor& service);

// A ServiceOffer for a generated service.
v1::ServiceOffer make_offer(const google::protobuf::ServiceDescriptor& service, std::uint32_t capacity);

// Immutable once built; messages made from it keep working while a shared_ptr to it is held. One thread.
class Catalog {
 public:
  // Builds from offers; an offer that is malformed (not a descriptor set, over 1 MiB, service missing, a method
  // name that another offer has already) is left out and reported in `problems`.
  static std::shared_ptr<const Catalog> build(const std::vector<v1::ServiceOffer>& offers,
                                              std::vector<std::string>* problems);
  ~Catalog();

  // By name or alias; null when there is none.
  const Method* find(std::string_view name) const;
  // In order of names, without aliases.
  std::vector<const Method*> methods() const;

  std::unique_ptr<google::protobuf::Message> new_request(const Method& method) const;
  std::unique_ptr<google::protobuf::Message> new_response(const Method& method) const;

  // OpenRPC 1.2 document of all methods that are not internal, as JSON.
  const std::string& openrpc() const;

 private:
  Catalog();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace runbus::wire
