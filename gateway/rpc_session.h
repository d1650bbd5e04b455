#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>

#include "gateway/bus/bus_client.h"
#include "gateway/config.h"
#include "gateway/events/hub.h"
#include "gateway/rpc_batch.h"
#include "gateway/rpc_call.h"
#include "gateway/rpc_request.h"
#include "gateway/session_ids.h"
#include "gateway/sink.h"

namespace runbus::gateway {

// What all sessions share; outlives them.
struct RpcServices {
  const GatewayConfig& config;
  BusClient& bus;
  Hub& hub;
  std::uint64_t window = 0;  // of all streams, above the least that each has
};

// Who is calling.
struct Caller {
  std::string principal;
  std::string traceparent;  // W3C Trace Context, or empty
  double linger = 60;       // seconds that the caller's own session goes on after it
};

// JSON-RPC 2.0 for one connection, whatever carries it: takes texts, gives each request its one
// answer through the Sink, runs the calls of a batch at once, and bounds what a client can have in
// flight. Created by make_shared; calls in flight keep it alive.
class RpcSession : public std::enable_shared_from_this<RpcSession> {
 public:
  RpcSession(RpcServices& services, Sink& sink, Caller caller);

  // A request or a batch. Whether an answer was or will be sent.
  bool on_message(std::string_view text);
  // Answers what was no text at all.
  void refuse(const Error& error);
  // The connection has ended: its calls are told so, its subscriptions end, its own session is
  // released. The sink is not used again. Idempotent.
  void close();
  // No one waits for more answers, but calls without one go on; the own session is released after
  // the last.
  void detach();

  // For RpcCall. `reply` is empty for a notification.
  void finish(RpcCall& call, std::string reply);
  Sink* sink() { return sink_; }
  std::size_t max_json_bytes() const { return services_.config.max_json_bytes; }

  std::size_t calls_in_flight() const { return calls_.size(); }

 private:
  using BatchPtr = std::shared_ptr<RpcBatch>;

  void dispatch(RpcMessage& message, RpcRequest& request, const BatchPtr& batch);
  void reply(const std::string& id, const BatchPtr& batch, std::string text);
  void reply_error(const RpcRequest& request, const BatchPtr& batch, const Error& error);

  void call(const std::shared_ptr<const wire::Catalog>& catalog, const wire::Method& method,
            const rapidjson::Value& params, const RpcRequest& request, const BatchPtr& batch);
  Result<void> admit(std::size_t request_bytes) const;
  std::uint64_t take_window(const wire::Method& method);
  void give_window_back(std::uint64_t window);

  // Notifications about other calls: `$/cancelRequest`, `$/input`.
  void about_call(const RpcRequest& request, const BatchPtr& batch);
  Result<void> input(const RpcRequest& request);
  Result<void> cancel(const RpcRequest& request);
  std::shared_ptr<RpcCall> find_call(const rapidjson::Value& params, Error& error) const;

  // Answered by the gateway (rpc_native.cc).
  static bool is_native(const wire::Method& method);
  void native(const wire::Method& method, const rapidjson::Value& params, const RpcRequest& request,
              const BatchPtr& batch);
  Result<std::string> native_result(const std::string& rpc, const rapidjson::Value& params);
  Result<std::string> ping(const rapidjson::Value& params);
  Result<std::string> info(const rapidjson::Value& params);
  Result<std::string> unsubscribe(const rapidjson::Value& params);
  void subscribe(const rapidjson::Value& params, const RpcRequest& request, const BatchPtr& batch);
  void publish(const rapidjson::Value& params, const RpcRequest& request, const BatchPtr& batch);
  const std::string& connection_id();

  void release();

  RpcServices& services_;
  Sink* sink_;
  Caller caller_;
  SessionIds ids_;
  std::string connection_id_;
  std::unordered_map<std::string, std::shared_ptr<RpcCall>> calls_;
  std::uint64_t unnamed_ = 0;  // numbers calls without a usable id
  std::size_t request_bytes_ = 0;
  std::uint64_t window_ = 0;
  std::size_t subscriptions_ = 0;
  bool closed_ = false;
  bool detached_ = false;
};

}  // namespace runbus::gateway
