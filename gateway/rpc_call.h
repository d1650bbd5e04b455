#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "gateway/bus/pending_call.h"
#include "gateway/rpc_batch.h"
#include "gateway/sink.h"
#include "proto/wire/catalog.h"

namespace runbus::gateway {

class RpcSession;

// One JSON-RPC call that a worker serves: turns its items and its result into frames. Lives as long
// as the call or an item of it that waits to be written.
class RpcCall final : public CallObserver, public std::enable_shared_from_this<RpcCall> {
 public:
  struct Parts {
    std::string id;   // JSON text; empty for a notification
    std::string key;  // under which the session keeps it
    std::shared_ptr<RpcBatch> batch;
    std::shared_ptr<const wire::Catalog> catalog;
    const wire::Method* method = nullptr;
    Sink::Items items = Sink::Items::kNone;
    std::uint64_t window = 0;
    std::size_t request_bytes = 0;
  };
  RpcCall(std::shared_ptr<RpcSession> session, Parts parts);

  const Parts& parts() const { return parts_; }
  void attach(std::shared_ptr<PendingCall> pending) { pending_ = std::move(pending); }
  const std::shared_ptr<PendingCall>& pending() const { return pending_; }

  void on_item(zmq::message_t& body) override;
  void on_result(std::string_view body) override;
  void on_error(const Error& error) override;

  // For the items.
  void render(std::string_view body, std::string& out);
  void delivered(std::uint64_t bytes);

 private:
  bool parse(std::string_view body);
  void malformed(const char* what);

  std::shared_ptr<RpcSession> session_;
  Parts parts_;
  std::shared_ptr<PendingCall> pending_;
  std::unique_ptr<google::protobuf::Message> scratch_;  // one for all items
};

}  // namespace runbus::gateway
