#include "gateway/rpc_reply.h"

#include "proto/wire/transcoder.h"

namespace runbus::gateway {
namespace {

constexpr std::string_view kResultHead = R"({"jsonrpc":"2.0","result":)";
constexpr std::string_view kErrorHead = R"({"jsonrpc":"2.0","error":)";

void append_tail(std::string_view id, std::string& out) {
  out.append(",\"id\":").append(id).append("}");
}

}  // namespace

void append_error(const Error& error, std::string& out) {
  const CatalogueEntry& entry = catalogue(error.code);
  out.append("{\"code\":").append(std::to_string(static_cast<std::int32_t>(entry.code)));
  out.append(",\"message\":");
  wire::append_json_string(entry.message, out);
  out.append(",\"data\":{\"kind\":");
  wire::append_json_string(entry.kind, out);
  out.append(",\"retryable\":").append(entry.retryable ? "true" : "false");
  out.append(",\"detail\":");
  wire::append_json_string(error.detail, out);
  if (!error.limit.empty()) {
    out.append(",\"limit\":");
    wire::append_json_string(error.limit, out);
  }
  out.append("}}");
}

std::string error_reply(std::string_view id, const Error& error) {
  std::string out(kErrorHead);
  append_error(error, out);
  append_tail(id, out);
  return out;
}

Result<std::string> result_reply(std::string_view id, const google::protobuf::Message& result,
                                 std::size_t max_bytes, std::size_t about) {
  std::string out;
  out.reserve(kResultHead.size() + about + id.size() + 16);
  out.append(kResultHead);
  if (!wire::append_json(result, out, max_bytes)) {
    Error error = make_error(ErrorCode::kQuota, "the result is more than " +
                                                    std::to_string(max_bytes) + " bytes of JSON");
    error.limit = "reply_size";
    return error;
  }
  append_tail(id, out);
  return out;
}

std::string raw_result_reply(std::string_view id, std::string_view result) {
  std::string out;
  out.reserve(kResultHead.size() + result.size() + id.size() + 16);
  out.append(kResultHead).append(result);
  append_tail(id, out);
  return out;
}

}  // namespace runbus::gateway
