#include "gateway/rpc_session.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "gateway/rpc_reply.h"
#include "proto/support/log.h"
#include "runbus/v1/session.pb.h"

namespace runbus::gateway {
namespace {

constexpr std::chrono::seconds kReleaseTimeout{30};

// Params by position (JSON-RPC 2.0 §4.2): the expected order is that of the request message's
// fields.
Result<rapidjson::Value> by_name(rapidjson::Value* params, const google::protobuf::Descriptor& type,
                                 rapidjson::Document::AllocatorType& allocator) {
  rapidjson::Value object(rapidjson::kObjectType);
  if (params == nullptr) {
    return object;
  }
  if (params->IsObject()) {
    object.Swap(*params);
    return object;
  }
  if (params->Size() > static_cast<rapidjson::SizeType>(type.field_count())) {
    return make_error(ErrorCode::kInvalidParams,
                      "params: at most " + std::to_string(type.field_count()) + " by position");
  }
  for (rapidjson::SizeType i = 0; i < params->Size(); ++i) {
    const std::string& name = type.field(static_cast<int>(i))->name();
    object.AddMember(rapidjson::Value(name, allocator).Move(), (*params)[i], allocator);
  }
  return object;
}

}  // namespace

RpcSession::RpcSession(RpcServices& services, Sink& sink, Caller caller)
    : services_(services), sink_(&sink), caller_(std::move(caller)) {}

bool RpcSession::on_message(std::string_view text) {
  const auto self = shared_from_this();
  wire::JsonLimits limits;
  limits.max_bytes = services_.config.max_frame_bytes;
  RpcMessage message(text, limits, services_.config.max_batch);
  BatchPtr batch;
  if (message.batch()) {
    batch = std::make_shared<RpcBatch>(services_.config.write_queue_bytes);
  }
  bool answered = false;
  for (const RpcRequest& request : message.requests()) {
    if (!request.notification()) {
      answered = true;
      if (batch) {
        batch->expect();
      }
    }
  }
  for (RpcRequest& request : message.requests()) {
    if (closed_) {
      break;
    }
    dispatch(message, request, batch);
  }
  return answered;
}

void RpcSession::refuse(const Error& error) { reply("null", nullptr, error_reply("null", error)); }

void RpcSession::reply(const std::string& id, const BatchPtr& batch, std::string text) {
  if (sink_ == nullptr) {
    return;
  }
  if (!batch) {
    sink_->send(std::move(text));
    return;
  }
  batch->add(id, text);
  if (batch->complete()) {
    sink_->send(batch->take());
  }
}

void RpcSession::reply_error(const RpcRequest& request, const BatchPtr& batch, const Error& error) {
  if (!request.notification()) {
    reply(request.id, batch, error_reply(request.id, error));
  }
}

void RpcSession::dispatch(RpcMessage& message, RpcRequest& request, const BatchPtr& batch) {
  if (request.error) {
    reply_error(request, batch, *request.error);
    return;
  }
  if (!request.key.empty() && calls_.contains(request.key)) {
    reply_error(request, batch,
                make_error(ErrorCode::kInvalidRequest, "id: a call with this id is in flight"));
    return;
  }
  if (request.method.starts_with("$/")) {
    about_call(request, batch);
    return;
  }
  const std::shared_ptr<const wire::Catalog> catalog = services_.bus.catalog();
  if (request.method == "rpc.discover") {
    if (!request.notification()) {
      reply(request.id, batch, raw_result_reply(request.id, catalog->openrpc()));
    }
    return;
  }
  const wire::Method* method = catalog->find(request.method);
  if (method == nullptr && !services_.bus.ready()) {
    reply_error(request, batch,
                make_error(ErrorCode::kUnavailable, "the gateway is not connected to the bus"));
    return;
  }
  // Broker and gateway have started together: who could say that there is no such method?
  if (method == nullptr && !services_.bus.serves_anything()) {
    reply_error(request, batch,
                make_error(ErrorCode::kUnavailable, "no worker is attached at the moment"));
    return;
  }
  if (method == nullptr || method->internal) {
    reply_error(request, batch, make_error(ErrorCode::kMethodNotFound, printable(request.method)));
    return;
  }
  const Result<rapidjson::Value> params =
      by_name(request.params, *method->descriptor->input_type(), message.allocator());
  if (!params) {
    reply_error(request, batch, params.error());
  } else if (is_native(*method)) {
    native(*method, *params, request, batch);
  } else {
    call(catalog, *method, *params, request, batch);
  }
}

void RpcSession::call(const std::shared_ptr<const wire::Catalog>& catalog,
                      const wire::Method& method, const rapidjson::Value& params,
                      const RpcRequest& request, const BatchPtr& batch) {
  const std::unique_ptr<google::protobuf::Message> message = catalog->new_request(method);
  if (const Result<void> read = wire::json_to_message(params, *message); !read) {
    reply_error(request, batch, read.error());
    return;
  }
  const Result<std::string> session = ids_.fill(method, *message);
  if (!session) {
    reply_error(request, batch, session.error());
    return;
  }
  CallRequest out;
  if (!message->SerializeToString(&out.body)) {
    reply_error(request, batch, make_error(ErrorCode::kInvalidParams, "params: too large"));
    return;
  }
  if (const Result<void> admitted = admit(out.body.size()); !admitted) {
    reply_error(request, batch, admitted.error());
    return;
  }
  out.method = method.name;
  out.session_id = *session;
  out.principal = caller_.principal;
  out.traceparent = caller_.traceparent;
  out.resumable = method.resumable;
  out.idempotent = method.idempotent;
  out.window = take_window(method);
  out.timeout = services_.config.call_timeout;

  RpcCall::Parts parts;
  parts.id = request.id;
  // A key of text begins with a quote or a digit, so these are apart from all of them.
  parts.key = request.key.empty() ? "#" + std::to_string(++unnamed_) : request.key;
  parts.batch = batch;
  parts.catalog = catalog;
  parts.method = &method;
  parts.items = sink_->items();
  parts.window = out.window;
  parts.request_bytes = out.body.size();
  request_bytes_ += parts.request_bytes;
  const std::string key = parts.key;
  const auto call = std::make_shared<RpcCall>(shared_from_this(), std::move(parts));
  calls_.emplace(key, call);
  call->attach(services_.bus.call(std::move(out), call));
}

Result<void> RpcSession::admit(std::size_t request_bytes) const {
  if (calls_.size() >= services_.config.max_calls) {
    Error error =
        make_error(ErrorCode::kRateLimit, "at most " + std::to_string(services_.config.max_calls) +
                                              " calls of a connection can be in flight");
    error.limit = "calls";
    return error;
  }
  if (request_bytes_ + request_bytes > services_.config.max_request_bytes) {
    Error error = make_error(ErrorCode::kRateLimit,
                             "the requests of a connection that are in flight can have at most " +
                                 std::to_string(services_.config.max_request_bytes) + " bytes");
    error.limit = "request_bytes";
    return error;
  }
  return {};
}

// Each stream has the least window for sure; beyond it the first ones of a connection, and of the
// gateway, have the most, and both sums are bounded.
std::uint64_t RpcSession::take_window(const wire::Method& method) {
  if (!method.server_streaming) {
    return 0;
  }
  const GatewayConfig& config = services_.config;
  const std::uint64_t here = config.connection_window - std::min(window_, config.connection_window);
  const std::uint64_t in_all =
      config.gateway_window - std::min(services_.window, config.gateway_window);
  const std::uint64_t window =
      std::max(config.min_stream_window, std::min({config.stream_window, here / 2, in_all / 4}));
  window_ += window - config.min_stream_window;
  services_.window += window - config.min_stream_window;
  return window;
}

void RpcSession::give_window_back(std::uint64_t window) {
  if (window > 0) {
    window_ -= window - services_.config.min_stream_window;
    services_.window -= window - services_.config.min_stream_window;
  }
}

void RpcSession::finish(RpcCall& call, std::string text) {
  const auto found = calls_.find(call.parts().key);
  if (found == calls_.end() || found->second.get() != &call) {
    return;
  }
  const std::shared_ptr<RpcCall> keep = std::move(found->second);
  const auto self = shared_from_this();
  calls_.erase(found);
  request_bytes_ -= call.parts().request_bytes;
  give_window_back(call.parts().window);
  if (!text.empty()) {
    reply(call.parts().id, call.parts().batch, std::move(text));
  }
  if (detached_ && calls_.empty()) {
    release();
  }
}

void RpcSession::about_call(const RpcRequest& request, const BatchPtr& batch) {
  Result<void> done = make_error(ErrorCode::kMethodNotFound, printable(request.method));
  if (request.method == "$/cancelRequest") {
    done = cancel(request);
  } else if (request.method == "$/input") {
    done = input(request);
  }
  if (!done) {
    reply_error(request, batch, done.error());
  } else if (!request.notification()) {
    reply(request.id, batch, raw_result_reply(request.id, "{}"));
  }
}

std::shared_ptr<RpcCall> RpcSession::find_call(const rapidjson::Value& params, Error& error) const {
  const auto id = params.FindMember("id");
  const std::string key = id == params.MemberEnd() ? std::string() : id_key(id->value);
  const auto found = calls_.find(key);
  if (found != calls_.end()) {
    return found->second;
  }
  error = key.empty() ? make_error(ErrorCode::kInvalidParams, "id: expected the id of a call")
                      : make_error(ErrorCode::kNotFound, "id: no such call is in flight");
  return nullptr;
}

Result<void> RpcSession::cancel(const RpcRequest& request) {
  if (request.params == nullptr || !request.params->IsObject()) {
    return make_error(ErrorCode::kInvalidParams, "params: expected {id}");
  }
  Error error;
  const std::shared_ptr<RpcCall> call = find_call(*request.params, error);
  if (!call) {
    return error;
  }
  if (call->pending()) {
    call->pending()->cancel();
  }
  return {};
}

Result<void> RpcSession::input(const RpcRequest& request) {
  if (request.params == nullptr || !request.params->IsObject()) {
    return make_error(ErrorCode::kInvalidParams, "params: expected {id, params}");
  }
  Error error;
  const std::shared_ptr<RpcCall> call = find_call(*request.params, error);
  if (!call) {
    return error;
  }
  const wire::Method& method = *call->parts().method;
  if (!method.client_streaming) {
    return make_error(ErrorCode::kInvalidParams, "id: " + method.name + " takes no further input");
  }
  const auto member = request.params->FindMember("params");
  if (member == request.params->MemberEnd() || !member->value.IsObject()) {
    return make_error(ErrorCode::kInvalidParams, "params: expected an object");
  }
  const std::unique_ptr<google::protobuf::Message> message =
      call->parts().catalog->new_request(method);
  if (const Result<void> read = wire::json_to_message(member->value, *message); !read) {
    return read.error();
  }
  if (!call->pending()) {
    return make_error(ErrorCode::kUnavailable);
  }
  return call->pending()->input(message->SerializeAsString());
}

void RpcSession::close() {
  if (closed_) {
    return;
  }
  closed_ = true;
  const auto self = shared_from_this();
  if (sink_ != nullptr) {
    services_.hub.drop(*sink_);
  }
  sink_ = nullptr;
  const auto calls = std::exchange(calls_, {});
  for (const auto& [key, call] : calls) {
    give_window_back(call->parts().window);
    if (call->pending()) {
      call->pending()->abandon();
    }
  }
  release();
}

void RpcSession::detach() {
  if (closed_ || detached_) {
    return;
  }
  detached_ = true;
  if (sink_ != nullptr) {
    services_.hub.drop(*sink_);
  }
  sink_ = nullptr;
  if (calls_.empty()) {
    release();
  }
}

void RpcSession::release() {
  closed_ = true;
  if (!ids_.own_used()) {
    return;
  }
  v1::ReleaseRequest request;
  request.set_session_id(ids_.own());
  request.set_linger(caller_.linger);
  CallRequest call;
  call.method = "session.release";
  call.session_id = ids_.own();
  call.principal = caller_.principal;
  call.body = request.SerializeAsString();
  call.timeout = kReleaseTimeout;
  services_.bus.call(std::move(call), [](const Result<std::string_view>& result) {
    if (!result) {
      spdlog::debug("rpc: session.release: {}", to_string(result.error()));
    }
  });
}

}  // namespace runbus::gateway
