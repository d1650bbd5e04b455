#include "services/worker/service.h"

#include <stdexcept>

#include "runbus/v1/options.pb.h"

namespace runbus::worker {

Service::Service(const google::protobuf::ServiceDescriptor& descriptor, std::uint32_t capacity)
    : descriptor_(descriptor), capacity_(capacity) {
  if (capacity == 0) {
    throw std::logic_error("service " + descriptor.full_name() + " has capacity 0");
  }
}

const Service::Rpc* Service::find(std::string_view method) const {
  const auto found = rpcs_.find(method);
  return found == rpcs_.end() ? nullptr : found->second.get();
}

void Service::check_complete() const {
  for (int i = 0; i < descriptor_.method_count(); ++i) {
    const google::protobuf::MethodDescriptor& method = *descriptor_.method(i);
    const std::string& name = method.options().GetExtension(v1::method).name();
    if (!name.empty() && find(name) == nullptr) {
      throw std::logic_error("rpc " + method.full_name() + " has no handler");
    }
  }
}

void Service::add(std::string_view rpc, std::unique_ptr<google::protobuf::Message> prototype,
                  std::function<void(CallPtr, const google::protobuf::Message&)> handler) {
  const std::string rpc_name(rpc);
  const google::protobuf::MethodDescriptor* method = descriptor_.FindMethodByName(rpc_name);
  if (method == nullptr) {
    throw std::logic_error("service " + descriptor_.full_name() + " has no rpc " + rpc_name);
  }
  if (prototype->GetDescriptor() != method->input_type()) {
    throw std::logic_error("rpc " + method->full_name() + " takes " +
                           method->input_type()->full_name() + ", its handler " +
                           prototype->GetDescriptor()->full_name());
  }
  const v1::MethodInfo& info = method->options().GetExtension(v1::method);
  if (info.name().empty()) {
    throw std::logic_error("rpc " + method->full_name() + " has no JSON-RPC name");
  }
  auto entry = std::make_shared<Rpc>();
  entry->descriptor = method;
  entry->prototype = std::move(prototype);
  entry->handler = std::move(handler);
  if (!rpcs_.emplace(info.name(), entry).second) {
    throw std::logic_error("method " + info.name() + " has two handlers");
  }
  for (const std::string& alias : info.aliases()) {
    if (!rpcs_.emplace(alias, entry).second) {
      throw std::logic_error("method " + alias + " has two handlers");
    }
  }
}

}  // namespace runbus::worker
