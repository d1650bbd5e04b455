// The methods that the gateway answers itself (proto/runbus/v1/gateway.proto).
#include <google/protobuf/util/time_util.h>

#include <chrono>
#include <utility>

#include "gateway/rpc_reply.h"
#include "gateway/rpc_session.h"
#include "proto/support/id.h"
#include "proto/wire/frame.h"
#include "runbus/v1/gateway.pb.h"

namespace runbus::gateway {
namespace {

constexpr std::size_t kMaxEventBytes = 256U << 10U;

std::string json(const google::protobuf::Message& message) {
  std::string text;
  wire::append_json(message, text);
  return text;
}

Result<void> check_user_topic(const std::string& topic) {
  if (!topic.starts_with("user.")) {
    return make_error(ErrorCode::kAuthorization, "topic: clients publish under \"user.\" only");
  }
  if (!wire::is_valid_topic(topic)) {
    return make_error(
        ErrorCode::kInvalidParams,
        "topic: at most 128 letters, digits, \"_\", \"-\" and single dots between them");
  }
  return {};
}

}  // namespace

bool RpcSession::is_native(const wire::Method& method) {
  return method.service == "runbus.v1.ConnectionService" ||
         method.service == "runbus.v1.EventsService";
}

void RpcSession::native(const wire::Method& method, const rapidjson::Value& params,
                        const RpcRequest& request, const BatchPtr& batch) {
  if (method.descriptor->name() == "Subscribe") {
    subscribe(params, request, batch);
    return;
  }
  const Result<std::string> result = native_result(method.descriptor->name(), params);
  if (!result) {
    reply_error(request, batch, result.error());
  } else if (!request.notification()) {
    reply(request.id, batch, raw_result_reply(request.id, *result));
  }
}

Result<std::string> RpcSession::native_result(const std::string& rpc,
                                              const rapidjson::Value& params) {
  if (rpc == "Ping") {
    return ping(params);
  }
  if (rpc == "Info") {
    return info(params);
  }
  if (rpc == "Publish") {
    return publish(params);
  }
  if (rpc == "Unsubscribe") {
    return unsubscribe(params);
  }
  return make_error(ErrorCode::kMethodNotFound, rpc);
}

const std::string& RpcSession::connection_id() {
  if (connection_id_.empty()) {
    connection_id_ = make_uuid();
  }
  return connection_id_;
}

Result<std::string> RpcSession::ping(const rapidjson::Value& params) {
  v1::PingRequest request;
  if (const Result<void> read = wire::json_to_message(params, request); !read) {
    return read.error();
  }
  v1::PingResponse response;
  response.set_pong(true);
  response.set_timestamp(
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count());
  response.set_connection_id(connection_id());
  return json(response);
}

Result<std::string> RpcSession::info(const rapidjson::Value& params) {
  v1::ConnectionInfoRequest request;
  if (const Result<void> read = wire::json_to_message(params, request); !read) {
    return read.error();
  }
  v1::ConnectionInfoResponse response;
  response.set_connection_id(connection_id());
  response.set_session_id(ids_.own());
  response.set_principal(caller_.principal);
  response.set_version(RUNBUS_VERSION);
  response.set_calls_in_flight(static_cast<std::uint32_t>(calls_.size()));
  response.set_subscriptions(static_cast<std::uint32_t>(subscriptions_));
  return json(response);
}

Result<std::string> RpcSession::publish(const rapidjson::Value& params) {
  v1::PublishRequest request;
  if (const Result<void> read = wire::json_to_message(params, request); !read) {
    return read.error();
  }
  if (const Result<void> checked = check_user_topic(request.topic()); !checked) {
    return checked.error();
  }
  if (request.data().ByteSizeLong() > kMaxEventBytes) {
    Error error = make_error(ErrorCode::kValidation, "data: an event has at most 262144 bytes");
    error.limit = "event_bytes";
    return error;
  }
  v1::Event event;
  event.set_topic(request.topic());
  *event.mutable_timestamp() = google::protobuf::util::TimeUtil::GetCurrentTime();
  *event.mutable_data() = std::move(*request.mutable_data());
  if (const Result<void> sent = services_.bus.publish(event, caller_.principal); !sent) {
    return sent.error();
  }
  return std::string("{}");
}

Result<std::string> RpcSession::unsubscribe(const rapidjson::Value& params) {
  v1::UnsubscribeRequest request;
  if (const Result<void> read = wire::json_to_message(params, request); !read) {
    return read.error();
  }
  if (sink_ == nullptr || !services_.hub.unsubscribe(*sink_, request.subscription())) {
    return make_error(ErrorCode::kNotFound, "subscription: this connection has no such one");
  }
  --subscriptions_;
  return std::string("{}");
}

void RpcSession::subscribe(const rapidjson::Value& params, const RpcRequest& request,
                           const BatchPtr& batch) {
  v1::SubscribeRequest subscribe_request;
  Result<void> allowed = wire::json_to_message(params, subscribe_request);
  if (allowed && (request.notification() || !sink_->persistent())) {
    allowed = make_error(
        ErrorCode::kInvalidRequest,
        "events.subscribe needs a WebSocket and an id: its answer names the subscription");
  }
  if (allowed && subscriptions_ >= services_.config.max_subscriptions) {
    Error error = make_error(ErrorCode::kRateLimit,
                             "at most " + std::to_string(services_.config.max_subscriptions) +
                                 " subscriptions of a connection");
    error.limit = "subscriptions";
    allowed = error;
  }
  if (!allowed) {
    reply_error(request, batch, allowed.error());
    return;
  }
  ++subscriptions_;
  services_.hub.subscribe(
      *sink_, subscribe_request,
      [self = shared_from_this(), id = request.id,
       batch](const Result<v1::SubscribeResponse>& result) {
        if (!result) {
          --self->subscriptions_;
          self->reply(id, batch, error_reply(id, result.error()));
        } else {
          self->reply(id, batch, result_reply(id, *result, self->max_json_bytes()).value());
        }
      });
}

}  // namespace runbus::gateway
