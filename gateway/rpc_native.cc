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

std::string json(const google::protobuf::Message& message) {
  std::string text;
  wire::append_json(message, text);
  return text;
}

Result<void> check_event(const v1::Event& event) {
  const std::string& topic = event.topic();
  if (!topic.starts_with("user.")) {
    return make_error(ErrorCode::kAuthorization, "topic: clients publish under \"user.\" only");
  }
  if (!wire::is_valid_topic(topic)) {
    return make_error(
        ErrorCode::kInvalidParams,
        "topic: at most 128 letters, digits, \"_\", \"-\" and single dots between them");
  }
  // Room for what the broker adds.
  constexpr std::size_t kMost = wire::kMaxEventBytes - 256;
  if (event.ByteSizeLong() > kMost) {
    Error error = make_error(ErrorCode::kValidation,
                             "data: an event has at most " + std::to_string(kMost) + " bytes");
    error.limit = "event_bytes";
    return error;
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
  if (method.descriptor->name() == "Publish") {
    publish(params, request, batch);
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

void RpcSession::publish(const rapidjson::Value& params, const RpcRequest& request,
                         const BatchPtr& batch) {
  v1::PublishRequest publish_request;
  Result<void> allowed = wire::json_to_message(params, publish_request);
  v1::Event event;
  if (allowed) {
    event.set_topic(publish_request.topic());
    *event.mutable_timestamp() = google::protobuf::util::TimeUtil::GetCurrentTime();
    *event.mutable_data() = std::move(*publish_request.mutable_data());
    allowed = check_event(event);
  }
  if (!allowed) {
    reply_error(request, batch, allowed.error());
    return;
  }
  services_.bus.publish(
      event, caller_.principal,
      [self = shared_from_this(), id = request.id, batch](const Result<v1::Published>& position) {
        if (id.empty()) {
          return;
        }
        if (!position) {
          self->reply(id, batch, error_reply(id, position.error()));
          return;
        }
        v1::PublishResponse response;
        response.set_epoch(position->epoch());
        response.set_offset(position->offset());
        self->reply(id, batch, result_reply(id, response, self->max_json_bytes()).value());
      });
}

}  // namespace runbus::gateway
