#include "proto/wire/catalog.h"

#include <google/protobuf/descriptor.pb.h>
#include <google/protobuf/dynamic_message.h>

#include <algorithm>
#include <array>
#include <set>
#include <utility>

#include "proto/wire/offer_pool.h"
#include "proto/wire/openrpc.h"
#include "proto/wire/text.h"

namespace runbus::wire {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::MethodDescriptor;
using google::protobuf::MethodOptions;

constexpr std::size_t kMaxServices = 1024;
constexpr std::size_t kMaxDescriptorBytes = 64U << 20U;
constexpr std::size_t kMaxMethodsPerService = 1024;
constexpr std::size_t kMaxNameLength = 128;

// A name goes into JSON, logs and metrics of other programs.
bool is_method_name(std::string_view name) {
  return !name.empty() && name.size() <= kMaxNameLength &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '.' || c == '_' || c == '-' || c == '/';
         });
}

// JSON-RPC 2.0 §4.3 reserves "rpc."; the others are answered by the gateway and the broker, who
// offer these services before any worker's offer is looked at.
bool is_reserved(std::string_view name, std::string_view service) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 3> kOurs{
      {{"connection.", "runbus.v1.ConnectionService"},
       {"events.", "runbus.v1.EventsService"},
       {"bus.", "runbus.v1.BusService"}}};
  return name.starts_with("rpc.") ||
         std::any_of(kOurs.begin(), kOurs.end(), [name, service](const auto& ours) {
           return name.starts_with(ours.first) && service != ours.second;
         });
}

struct Entry {
  Method method;
  std::vector<std::string> aliases;
  OfferPool* origin = nullptr;
};

bool take_roles(Method& method, std::string& problem) {
  const Descriptor& request = *method.descriptor->input_type();
  for (int i = 0; i < request.field_count(); ++i) {
    const FieldDescriptor* field = request.field(i);
    const v1::FieldRole role = field->options().GetExtension(v1::role);
    const FieldDescriptor** place = nullptr;
    if (role == v1::SESSION_ID) {
      place = &method.session_field;
    } else if (role == v1::NEW_ID) {
      place = &method.new_id_field;
    } else if (role == v1::EXISTING_ID) {
      place = &method.existing_id_field;
    } else {
      continue;
    }
    if (field->type() != FieldDescriptor::TYPE_STRING || field->is_repeated() ||
        *place != nullptr) {
      problem = "a role wants one string field: " + clip(field->full_name(), 200);
      return false;
    }
    *place = field;
  }
  return true;
}

bool take_stream(Method& method, std::string& problem) {
  const Descriptor& item = *method.descriptor->output_type();
  for (int i = 0; i < item.field_count(); ++i) {
    const FieldDescriptor* field = item.field(i);
    const std::string& notification = field->options().GetExtension(v1::notification);
    const bool result = field->options().GetExtension(v1::result);
    if (notification.empty() && !result) {
      continue;
    }
    if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE || field->is_repeated() ||
        (result && method.result_field != nullptr)) {
      problem = "a stream wants one message per notification and one result: " +
                clip(field->full_name(), 200);
      return false;
    }
    if (result) {
      method.result_field = field;
      continue;
    }
    if (!is_method_name(notification) || is_reserved(notification, method.service)) {
      problem = "a notification cannot have the name " + clip(notification, kMaxNameLength);
      return false;
    }
    method.notifications[field->number()] = notification;
  }
  return true;
}

bool describe(const MethodDescriptor& descriptor, const v1::MethodInfo& info, Entry& entry,
              std::string& problem) {
  Method& method = entry.method;
  const auto level = descriptor.options().idempotency_level();
  method.name = info.name();
  method.service = descriptor.service()->full_name();
  method.descriptor = &descriptor;
  method.server_streaming = descriptor.server_streaming();
  method.client_streaming = descriptor.client_streaming();
  method.internal = info.internal();
  method.resumable = info.resumable();
  method.idempotent = level == MethodOptions::IDEMPOTENT || level == MethodOptions::NO_SIDE_EFFECTS;
  method.documentation = comment_of(descriptor);
  entry.aliases.assign(info.aliases().begin(), info.aliases().end());
  return take_roles(method, problem) && (!method.server_streaming || take_stream(method, problem));
}

}  // namespace

struct Catalog::Impl {
  // Before the entries, which point into them.
  std::vector<std::unique_ptr<OfferPool>> pools;
  std::map<std::string, Entry, std::less<>> entries;
  std::map<std::string, const Method*, std::less<>> aliases;
  mutable std::string openrpc;

  bool has(std::string_view name) const { return entries.contains(name) || aliases.contains(name); }
  bool add(const v1::ServiceOffer& offer, std::string& problem);
  bool check_name(const std::string& name, const std::string& service,
                  std::set<std::string_view>& taken, std::string& problem) const;
  bool read_methods(OfferPool& pool, std::vector<Entry>& found, std::string& problem) const;
};

bool Catalog::Impl::check_name(const std::string& name, const std::string& service,
                               std::set<std::string_view>& taken, std::string& problem) const {
  const char* reason = nullptr;
  if (!is_method_name(name)) {
    reason = "not a method name: ";
  } else if (is_reserved(name, service)) {
    reason = "a reserved name: ";
  } else if (has(name) || !taken.insert(name).second) {
    reason = "a name that another method has: ";
  }
  if (reason == nullptr) {
    return true;
  }
  problem = reason + clip(name, kMaxNameLength);
  return false;
}

bool Catalog::Impl::read_methods(OfferPool& pool, std::vector<Entry>& found,
                                 std::string& problem) const {
  std::set<std::string_view> taken;
  for (int i = 0; i < pool.service->method_count(); ++i) {
    const MethodDescriptor& descriptor = *pool.service->method(i);
    // Options live as long as the pool, and the names in `taken` with them.
    const v1::MethodInfo& info = descriptor.options().GetExtension(v1::method);
    if (info.name().empty()) {
      continue;
    }
    if (!check_name(info.name(), pool.service->full_name(), taken, problem)) {
      return false;
    }
    for (const std::string& alias : info.aliases()) {
      if (!check_name(alias, pool.service->full_name(), taken, problem)) {
        return false;
      }
    }
    if (taken.size() > kMaxMethodsPerService) {
      problem = "too many methods";
      return false;
    }
    Entry entry;
    entry.origin = &pool;
    if (!describe(descriptor, info, entry, problem)) {
      return false;
    }
    found.push_back(std::move(entry));
  }
  return true;
}

bool Catalog::Impl::add(const v1::ServiceOffer& offer, std::string& problem) {
  std::unique_ptr<OfferPool> pool = load_offer(offer, problem);
  std::vector<Entry> found;
  if (pool == nullptr || !read_methods(*pool, found, problem)) {
    return false;
  }
  for (Entry& entry : found) {
    const std::string name = entry.method.name;
    const Entry& placed = entries.emplace(name, std::move(entry)).first->second;
    for (const std::string& alias : placed.aliases) {
      aliases.emplace(alias, &placed.method);
    }
  }
  pools.push_back(std::move(pool));
  return true;
}

Catalog::Catalog() : impl_(std::make_unique<Impl>()) {}
Catalog::~Catalog() = default;

std::shared_ptr<const Catalog> Catalog::build(const std::vector<v1::ServiceOffer>& offers,
                                              std::vector<std::string>* problems) {
  std::shared_ptr<Catalog> catalog(new Catalog());
  std::map<std::string_view, const v1::ServiceOffer*> first;
  std::size_t bytes = 0;
  for (const v1::ServiceOffer& offer : offers) {
    // Most offers are the same as another worker's.
    const auto [known, added] = first.try_emplace(offer.service(), &offer);
    if (!added && known->second->descriptor_set() == offer.descriptor_set()) {
      continue;
    }
    std::string problem;
    bytes += added ? offer.descriptor_set().size() : 0;
    if (!added) {
      problem = "described differently by another worker, whose description is used";
    } else if (first.size() > kMaxServices || bytes > kMaxDescriptorBytes) {
      problem = "too many services, or too large descriptions of them";
    } else if (catalog->impl_->add(offer, problem)) {
      continue;
    }
    if (added) {
      // A bad description must not keep out a good one.
      first.erase(known);
      bytes -= offer.descriptor_set().size();
    }
    if (problems != nullptr) {
      problems->push_back(clip(offer.service(), 200) + ": " + problem);
    }
  }
  return catalog;
}

const Method* Catalog::find(std::string_view name) const {
  if (const auto entry = impl_->entries.find(name); entry != impl_->entries.end()) {
    return &entry->second.method;
  }
  const auto alias = impl_->aliases.find(name);
  return alias == impl_->aliases.end() ? nullptr : alias->second;
}

std::vector<const Method*> Catalog::methods() const {
  std::vector<const Method*> all;
  all.reserve(impl_->entries.size());
  for (const auto& [name, entry] : impl_->entries) {
    all.push_back(&entry.method);
  }
  return all;
}

std::unique_ptr<Message> Catalog::new_request(const Method& method) const {
  OfferPool& origin = *impl_->entries.find(method.name)->second.origin;
  return std::unique_ptr<Message>(
      origin.messages.GetPrototype(method.descriptor->input_type())->New());
}

std::unique_ptr<Message> Catalog::new_response(const Method& method) const {
  OfferPool& origin = *impl_->entries.find(method.name)->second.origin;
  return std::unique_ptr<Message>(
      origin.messages.GetPrototype(method.descriptor->output_type())->New());
}

const std::string& Catalog::openrpc() const {
  if (impl_->openrpc.empty()) {
    std::vector<const Method*> open = methods();
    std::erase_if(open, [](const Method* method) { return method->internal; });
    impl_->openrpc = make_openrpc(open);
  }
  return impl_->openrpc;
}

}  // namespace runbus::wire
