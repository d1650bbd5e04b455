#include "gateway/rpc_call.h"

#include <spdlog/spdlog.h>

#include <limits>
#include <utility>

#include "gateway/rpc_reply.h"
#include "gateway/rpc_session.h"
#include "proto/wire/transcoder.h"

namespace runbus::gateway {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

class StreamItem final : public Item {
 public:
  StreamItem(std::shared_ptr<RpcCall> call, zmq::message_t body)
      : call_(std::move(call)), body_(std::move(body)) {}
  std::size_t bytes() const override { return body_.size(); }
  void render(std::string& out) override { call_->render({body_.data<char>(), body_.size()}, out); }
  void delivered() override { call_->delivered(body_.size()); }

 private:
  std::shared_ptr<RpcCall> call_;
  zmq::message_t body_;
};

// The member of a stream's message that is set, or null.
const FieldDescriptor* set_member(const Message& message, const wire::Method& method) {
  const auto* reflection = message.GetReflection();
  for (const auto& [number, notification] : method.notifications) {
    const FieldDescriptor* field = message.GetDescriptor()->FindFieldByNumber(number);
    if (field != nullptr && reflection->HasField(message, field)) {
      return field;
    }
  }
  return nullptr;
}

}  // namespace

RpcCall::RpcCall(std::shared_ptr<RpcSession> session, Parts parts)
    : session_(std::move(session)), parts_(std::move(parts)) {}

void RpcCall::on_item(zmq::message_t& body) {
  Sink* sink = session_->sink();
  if (sink == nullptr || parts_.items == Sink::Items::kNone) {
    delivered(body.size());
    return;
  }
  sink->send_item(std::make_unique<StreamItem>(shared_from_this(), std::move(body)));
}

void RpcCall::delivered(std::uint64_t bytes) {
  if (pending_) {
    pending_->consumed(bytes);
  }
}

bool RpcCall::parse(std::string_view body) {
  if (!scratch_) {
    scratch_ = parts_.catalog->new_response(*parts_.method);
  }
  return body.size() <= static_cast<std::size_t>(std::numeric_limits<int>::max()) &&
         scratch_->ParseFromArray(body.data(), static_cast<int>(body.size()));
}

void RpcCall::render(std::string_view body, std::string& out) {
  if (!parse(body)) {
    malformed("an item that cannot be read");
    return;
  }
  const FieldDescriptor* member = set_member(*scratch_, *parts_.method);
  if (member == nullptr && !parts_.method->notifications.empty()) {
    malformed("an item without a known member");
    return;
  }
  // A service that names no notifications has its whole message as params, under the method's name.
  const Message& params =
      member == nullptr ? *scratch_ : scratch_->GetReflection()->GetMessage(*scratch_, member);
  const std::string& name =
      member == nullptr ? parts_.method->name : parts_.method->notifications.at(member->number());
  const bool events = parts_.items == Sink::Items::kServerSentEvents;
  const std::size_t start = out.size();
  out.reserve(start + body.size() + body.size() / 8 + 128);
  if (events) {
    out.append("event: ").append(name).append("\ndata: {");
  } else {
    out.append(R"({"jsonrpc":"2.0","method":")").append(name).append(R"(","params":{)");
  }
  if (!parts_.id.empty()) {
    out.append("\"call\":").append(parts_.id).append(",");
  }
  const std::size_t before = out.size();
  if (!wire::append_json_members(params, out, session_->max_json_bytes())) {
    out.resize(start);
    malformed("an item that is too large as JSON");
    return;
  }
  if (out.size() == before && out.back() == ',') {
    out.pop_back();
  }
  out.append(events ? "}\n\n" : "}}");
}

void RpcCall::on_result(std::string_view body) {
  if (!parse(body)) {
    malformed("a result that cannot be read");
    return;
  }
  const Message* result = scratch_.get();
  if (parts_.method->result_field != nullptr) {
    const auto* reflection = scratch_->GetReflection();
    if (!reflection->HasField(*scratch_, parts_.method->result_field)) {
      malformed("a last message without a result");
      return;
    }
    result = &reflection->GetMessage(*scratch_, parts_.method->result_field);
  }
  if (parts_.id.empty()) {
    session_->finish(*this, {});
    return;
  }
  auto reply = result_reply(parts_.id, *result, session_->max_json_bytes(),
                            body.size() + body.size() / 8 + 64);
  if (!reply) {
    on_error(reply.error());
    return;
  }
  session_->finish(*this, std::move(*reply));
}

void RpcCall::on_error(const Error& error) {
  session_->finish(*this, parts_.id.empty() ? std::string() : error_reply(parts_.id, error));
}

void RpcCall::malformed(const char* what) {
  spdlog::error("rpc: a worker of {} sent {}", parts_.method->service, what);
  if (pending_) {
    pending_->abandon();
  }
  on_error(make_error(ErrorCode::kInternal, "the worker's answer is malformed"));
}

}  // namespace runbus::gateway
