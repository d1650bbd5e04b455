#pragma once

#include <rapidjson/document.h>

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "proto/support/error.h"
#include "proto/wire/transcoder.h"

namespace runbus::gateway {

// One request object of JSON-RPC 2.0 §4.
struct RpcRequest {
  // The JSON text of the id as the client wrote it (an escape in a string may be spelt otherwise);
  // empty for a notification; "null" where a malformed request has no usable id (§5).
  std::string id;
  // Equal for equal ids; empty for a notification and for null.
  std::string key;
  std::string method;
  // An object or an array of the message's document, or null when there are none.
  rapidjson::Value* params = nullptr;
  // Why this is no request; it is then answered with that even when it has no id.
  std::optional<Error> error;

  bool notification() const { return id.empty(); }
};

// What one WebSocket message or HTTP body holds: a request or a batch (§6). A text that is no JSON,
// or an empty batch, is one malformed request.
class RpcMessage {
 public:
  RpcMessage(std::string_view text, const wire::JsonLimits& limits, std::size_t max_batch);
  RpcMessage(const RpcMessage&) = delete;
  RpcMessage& operator=(const RpcMessage&) = delete;

  bool batch() const { return batch_; }
  std::vector<RpcRequest>& requests() { return requests_; }
  rapidjson::Document::AllocatorType& allocator() { return document_.GetAllocator(); }

 private:
  void read_batch(std::string_view text, std::size_t max_batch);

  // Most messages fit in here, and are parsed without an allocation.
  std::array<char, 8192> buffer_;
  rapidjson::MemoryPoolAllocator<> pool_;
  rapidjson::Document document_;
  std::vector<RpcRequest> requests_;
  bool batch_ = false;
};

// The key (RpcRequest::key) of an id found in params, as of `$/cancelRequest`; empty when it is no
// usable id.
std::string id_key(const rapidjson::Value& id);

}  // namespace runbus::gateway
