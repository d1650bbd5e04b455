#pragma once

#include <google/protobuf/message.h>

#include <string>
#include <string_view>

#include "proto/support/error.h"

// The texts of JSON-RPC 2.0 §5 responses. `id` is JSON text.
namespace runbus::gateway {

// {"code","message","data":{kind, retryable, detail, limit?}}, worded by the catalogue.
void append_error(const Error& error, std::string& out);

std::string error_reply(std::string_view id, const Error& error);
// kQuota, limit "reply_size", when the result becomes more than `max_bytes`. `about` as many are
// expected.
Result<std::string> result_reply(std::string_view id, const google::protobuf::Message& result,
                                 std::size_t max_bytes, std::size_t about = 0);
// `result` is JSON text.
std::string raw_result_reply(std::string_view id, std::string_view result);

}  // namespace runbus::gateway
