#include "gateway/session_ids.h"

#include "proto/support/id.h"

namespace runbus::gateway {
namespace {

constexpr std::size_t kMaxThings = 1024;

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

std::string get(const Message& message, const FieldDescriptor* field) {
  return field == nullptr ? std::string() : message.GetReflection()->GetString(message, field);
}

Result<void> check(const FieldDescriptor* field, const std::string& id) {
  if (field == nullptr || id.empty() || is_valid_id(id)) {
    return {};
  }
  return make_error(ErrorCode::kInvalidParams,
                    field->name() +
                        ": an id is 1 to 128 of A-Z a-z 0-9 . _ : - and begins with a "
                        "letter or a digit");
}

}  // namespace

const std::string& SessionIds::own() {
  if (own_.empty()) {
    own_ = make_uuid();
  }
  return own_;
}

Result<std::string> SessionIds::fill(const wire::Method& method, Message& request) {
  std::string session = get(request, method.session_field);
  std::string made = get(request, method.new_id_field);
  const std::string existing = get(request, method.existing_id_field);
  for (const Result<void>& checked :
       {check(method.session_field, session), check(method.new_id_field, made),
        check(method.existing_id_field, existing)}) {
    if (!checked) {
      return checked.error();
    }
  }
  const auto* reflection = request.GetReflection();
  if (method.session_field != nullptr && session.empty()) {
    const auto known = made_.find(existing);
    session = known != made_.end() ? known->second : own();
    reflection->SetString(&request, method.session_field, session);
  }
  if (method.new_id_field != nullptr && made.empty()) {
    made = make_uuid();
    reflection->SetString(&request, method.new_id_field, made);
  }
  if (!session.empty() && session == own_) {
    own_used_ = true;
  }
  if (!made.empty() && !session.empty()) {
    remember(made, session);
  }
  return session;
}

void SessionIds::remember(const std::string& thing, const std::string& session) {
  if (session == own_) {
    made_.erase(thing);  // its place in order_ goes with time
    return;
  }
  if (made_.insert_or_assign(thing, session).second) {
    order_.push_back(thing);
  }
  while (order_.size() > kMaxThings) {
    made_.erase(order_.front());
    order_.pop_front();
  }
}

}  // namespace runbus::gateway
