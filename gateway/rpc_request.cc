#include "gateway/rpc_request.h"

#include <charconv>

namespace runbus::gateway {
namespace {

constexpr std::size_t kMaxIdBytes = 256;
constexpr std::size_t kMaxMethodBytes = 256;

// Walks over JSON text that has been parsed already, so it may assume that the text is well formed.
class RawScanner {
 public:
  explicit RawScanner(std::string_view text) : text_(text) {}

  // The elements of the array that the text is.
  std::vector<std::string_view> elements() {
    std::vector<std::string_view> found;
    skip_space();
    ++at_;  // [
    for (;;) {
      skip_space();
      if (at_ >= text_.size() || text_[at_] == ']') {
        return found;
      }
      found.push_back(value());
      skip_comma();
    }
  }

  // The value of the member `id` of the object that the text is.
  std::string_view id() {
    skip_space();
    ++at_;  // {
    for (;;) {
      skip_space();
      if (at_ >= text_.size() || text_[at_] == '}') {
        return {};
      }
      const std::string_view name = value();
      skip_space();
      ++at_;  // :
      skip_space();
      const std::string_view member = value();
      if (name == "\"id\"") {
        return member;
      }
      skip_comma();
    }
  }

 private:
  void skip_space() {
    while (at_ < text_.size() &&
           (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r')) {
      ++at_;
    }
  }
  void skip_comma() {
    skip_space();
    if (at_ < text_.size() && text_[at_] == ',') {
      ++at_;
    }
  }
  void skip_string() {
    for (++at_; at_ < text_.size() && text_[at_] != '"'; ++at_) {
      if (text_[at_] == '\\') {
        ++at_;
      }
    }
    ++at_;
  }
  std::string_view value() {
    const std::size_t begin = at_;
    int depth = 0;
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '"') {
        skip_string();
      } else if (c == '{' || c == '[') {
        ++depth;
        ++at_;
      } else if ((c == '}' || c == ']') && depth > 0) {
        --depth;
        ++at_;
      } else {
        at_ = depth > 0 ? at_ + 1 : text_.find_first_of(",]}: \t\r\n", at_);
        at_ = std::min(at_, text_.size());
        if (depth > 0) {
          continue;
        }
      }
      if (depth == 0) {
        break;
      }
    }
    at_ = std::min(at_, text_.size());
    return text_.substr(begin, at_ - begin);
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

std::string_view type_name(const rapidjson::Value& value) {
  switch (value.GetType()) {
    case rapidjson::kNullType:
      return "null";
    case rapidjson::kFalseType:
    case rapidjson::kTrueType:
      return "a boolean";
    case rapidjson::kObjectType:
      return "an object";
    case rapidjson::kArrayType:
      return "an array";
    case rapidjson::kStringType:
      return "a string";
    case rapidjson::kNumberType:
      break;
  }
  return "a number";
}

Error invalid(std::string detail) {
  return make_error(ErrorCode::kInvalidRequest, std::move(detail));
}

std::string expected(std::string_view member, std::string_view what, const rapidjson::Value& got) {
  std::string detail(member);
  return detail.append(": expected ").append(what).append(", got ").append(type_name(got));
}

template <class Number>
std::string number_text(Number number) {
  std::array<char, 32> text{};
  const auto end = std::to_chars(text.data(), text.data() + text.size(), number).ptr;
  return {text.data(), end};
}

// Members of the envelope; rapidjson keeps all of a repeated member, which would let two readers of
// one message see two different requests.
struct Members {
  rapidjson::Value* jsonrpc = nullptr;
  rapidjson::Value* id = nullptr;
  rapidjson::Value* method = nullptr;
  rapidjson::Value* params = nullptr;
  const char* repeated = nullptr;

  explicit Members(rapidjson::Value& object) {
    for (auto& member : object.GetObject()) {
      const std::string_view name(member.name.GetString(), member.name.GetStringLength());
      take(name, "jsonrpc", member.value, jsonrpc);
      take(name, "id", member.value, id);
      take(name, "method", member.value, method);
      take(name, "params", member.value, params);
    }
  }
  void take(std::string_view name, const char* wanted, rapidjson::Value& value,
            rapidjson::Value*& into) {
    if (name == wanted) {
      repeated = into != nullptr ? wanted : repeated;
      into = &value;
    }
  }
};

// Fills id and key; `raw` finds the text of a number that is no 64-bit integer.
template <class Raw>
std::optional<Error> read_id(const rapidjson::Value& id, const Raw& raw, RpcRequest& request) {
  request.id = "null";
  if (id.IsNull()) {
    return std::nullopt;
  }
  if (!id.IsString() && !id.IsNumber()) {
    return invalid(expected("id", "a string, a number or null", id));
  }
  if (id.IsString() && id.GetStringLength() > kMaxIdBytes) {
    return invalid("id: longer than 256 bytes");
  }
  request.key = id_key(id);
  if (!id.IsDouble()) {
    request.id = request.key;
    return std::nullopt;
  }
  const std::string_view text = raw();
  if (text.empty() || text.size() > kMaxIdBytes) {
    request.key.clear();
    return invalid("id: longer than 256 bytes");
  }
  request.id = text;
  return std::nullopt;
}

std::optional<Error> read_members(const Members& members, RpcRequest& request) {
  if (members.repeated != nullptr) {
    return invalid(std::string(members.repeated) + ": given twice");
  }
  if (members.jsonrpc == nullptr || !members.jsonrpc->IsString() ||
      std::string_view(members.jsonrpc->GetString(), members.jsonrpc->GetStringLength()) != "2.0") {
    return invalid("jsonrpc: must be \"2.0\"");
  }
  if (members.method == nullptr) {
    return invalid("method: missing");
  }
  if (!members.method->IsString()) {
    return invalid(expected("method", "a string", *members.method));
  }
  if (members.method->GetStringLength() > kMaxMethodBytes) {
    return invalid("method: longer than 256 bytes");
  }
  request.method.assign(members.method->GetString(), members.method->GetStringLength());
  if (members.params != nullptr) {
    if (!members.params->IsObject() && !members.params->IsArray()) {
      return invalid(expected("params", "an object or an array", *members.params));
    }
    request.params = members.params;
  }
  return std::nullopt;
}

template <class Raw>
RpcRequest read_request(rapidjson::Value& value, const Raw& raw) {
  RpcRequest request;
  if (!value.IsObject()) {
    request.error = invalid(expected("request", "an object", value));
    request.id = "null";
    return request;
  }
  const Members members(value);
  if (members.id != nullptr) {
    request.error = read_id(*members.id, raw, request);
  }
  if (!request.error) {
    request.error = read_members(members, request);
  }
  if (request.error && request.id.empty()) {
    request.id = "null";
  }
  return request;
}

}  // namespace

std::string id_key(const rapidjson::Value& id) {
  std::string key;
  if (id.IsString()) {
    wire::append_json_string({id.GetString(), id.GetStringLength()}, key);
  } else if (id.IsInt64()) {
    key = number_text(id.GetInt64());
  } else if (id.IsUint64()) {
    key = number_text(id.GetUint64());
  } else if (id.IsDouble()) {
    key = number_text(id.GetDouble());
  }
  return key;
}

RpcMessage::RpcMessage(std::string_view text, const wire::JsonLimits& limits, std::size_t max_batch)
    : pool_(buffer_.data(), buffer_.size()), document_(&pool_) {
  const Result<void> parsed = wire::parse_json(text, limits, document_);
  if (!parsed) {
    requests_.emplace_back();
    requests_.back().id = "null";
    requests_.back().error = parsed.error();
  } else if (document_.IsArray()) {
    read_batch(text, max_batch);
  } else {
    requests_.push_back(read_request(document_, [text] { return RawScanner(text).id(); }));
  }
}

void RpcMessage::read_batch(std::string_view text, std::size_t max_batch) {
  if (document_.Empty() || document_.Size() > max_batch) {
    requests_.emplace_back();
    requests_.back().id = "null";
    requests_.back().error = invalid(
        document_.Empty() ? "a batch needs at least one request"
                          : "a batch has at most " + std::to_string(max_batch) + " requests");
    return;
  }
  batch_ = true;
  requests_.reserve(document_.Size());
  std::vector<std::string_view> elements;  // found once, when an id needs its text
  for (rapidjson::SizeType i = 0; i < document_.Size(); ++i) {
    const auto raw = [&elements, text, i] {
      if (elements.empty()) {
        elements = RawScanner(text).elements();
      }
      return i < elements.size() ? RawScanner(elements[i]).id() : std::string_view();
    };
    requests_.push_back(read_request(document_[i], raw));
  }
}

}  // namespace runbus::gateway
