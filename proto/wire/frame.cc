#include "proto/wire/frame.h"

#include <algorithm>
#include <stdexcept>

#include "proto/support/id.h"

namespace runbus::wire {
namespace {

bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
         c == '.' || c == '-';
}

bool empty_or_id(const std::string& text) { return text.empty() || is_valid_id(text); }

bool names_a_call(v1::Kind kind) { return kind >= v1::CALL && kind <= v1::ERROR; }

}  // namespace

std::string_view parse_header(std::string_view bytes, v1::Header& header) {
  if (bytes.size() > kMaxHeaderBytes) {
    return "header_size";
  }
  if (!header.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return "header_syntax";
  }
  if (header.kind() == v1::KIND_UNSPECIFIED || !v1::Kind_IsValid(header.kind())) {
    return "header_kind";
  }
  const bool call_id_ok =
      names_a_call(header.kind()) ? is_valid_id(header.call_id()) : empty_or_id(header.call_id());
  if (!call_id_ok || !empty_or_id(header.session_id()) || !empty_or_id(header.origin()) ||
      !empty_or_id(header.worker_id())) {
    return "header_id";
  }
  const bool method_ok = header.kind() == v1::CALL ? is_valid_method(header.method())
                                                   : header.method().size() <= kMaxMethodLength;
  if (!method_ok || header.principal().size() > kMaxPrincipalLength ||
      header.traceparent().size() > kMaxTraceparentLength) {
    return "header_text";
  }
  return {};
}

bool is_valid_method(std::string_view name) {
  return !name.empty() && name.size() <= kMaxMethodLength &&
         std::all_of(name.begin(), name.end(),
                     [](char c) { return is_word(c) || c == '/' || c == '$'; });
}

bool is_valid_topic(std::string_view topic) {
  return !topic.empty() && topic.size() <= 128 && topic.front() != '.' && topic.back() != '.' &&
         topic.find("..") == std::string_view::npos &&
         std::all_of(topic.begin(), topic.end(), is_word);
}

bool is_data(v1::Kind kind) {
  return kind == v1::CALL || kind == v1::ITEM || kind == v1::INPUT || kind == v1::EVENT;
}

zmq::message_t encode(const google::protobuf::MessageLite& message) {
  const std::size_t size = message.ByteSizeLong();
  zmq::message_t out(size);
  if (!message.SerializeToArray(out.data(), static_cast<int>(size))) {
    throw std::length_error("a bus message is too large to serialize");
  }
  return out;
}

zmq::message_t share(zmq::message_t& message) {
  zmq::message_t copy;
  copy.copy(message);
  return copy;
}

}  // namespace runbus::wire
