#include <rapidjson/allocators.h>
#include <rapidjson/error/en.h>
#include <rapidjson/memorystream.h>
#include <rapidjson/reader.h>

#include <array>
#include <charconv>
#include <cmath>

#include "proto/wire/text.h"
#include "proto/wire/transcoder.h"

namespace runbus::wire {
namespace {

// Stands between the parser and the document: stops at a limit, and at text that is not UTF-8. The
// check is here and not RapidJSON's own, which lets a lone "\udc00" escape through as three bytes
// of no character.
class Guard {
 public:
  Guard(std::string_view text, const rapidjson::MemoryStream& stream, const JsonLimits& limits,
        rapidjson::Document& document)
      : text_(text), stream_(stream), limits_(limits), document_(document) {}

  bool Null() { return count() && document_.Null(); }
  bool Bool(bool value) { return count() && document_.Bool(value); }
  bool Int(int value) { return count() && document_.Int(value); }
  bool Uint(unsigned value) { return count() && document_.Uint(value); }
  bool Int64(std::int64_t value) { return count() && document_.Int64(value); }
  bool Uint64(std::uint64_t value) { return count() && document_.Uint64(value); }
  bool Double(double rough) {
    double value = 0;
    return count() && exact_number(rough, value) && document_.Double(value);
  }
  bool RawNumber(const char* /*text*/, rapidjson::SizeType /*length*/, bool /*copy*/) {
    return false;  // only asked for with a flag that is not set
  }
  bool String(const char* text, rapidjson::SizeType length, bool copy) {
    return count() && check_text(text, length) && document_.String(text, length, copy);
  }
  bool Key(const char* text, rapidjson::SizeType length, bool copy) {
    return count() && check_text(text, length) && document_.Key(text, length, copy);
  }
  bool StartObject() { return count() && enter() && document_.StartObject(); }
  bool StartArray() { return count() && enter() && document_.StartArray(); }
  bool EndObject(rapidjson::SizeType members) {
    --depth_;
    return document_.EndObject(members);
  }
  bool EndArray(rapidjson::SizeType elements) {
    --depth_;
    return document_.EndArray(elements);
  }

  // Why the parser was stopped.
  const Error& error() const { return error_; }

 private:
  bool count() {
    if (++values_ <= limits_.max_values) {
      return true;
    }
    return refuse("json_values",
                  "more than " + std::to_string(limits_.max_values) + " values in one message");
  }

  bool enter() {
    if (++depth_ <= limits_.max_depth) {
      return true;
    }
    return refuse("json_depth",
                  "nested more than " + std::to_string(limits_.max_depth) + " levels deep");
  }

  // The number that the parser has just read: it ends where the stream stands, and nothing that may
  // stand before a number looks like a part of one.
  std::string_view number_text() const {
    const std::string_view read = text_.substr(0, stream_.Tell());
    const std::size_t before = read.find_last_not_of("0123456789+-.eE");
    return read.substr(before == std::string_view::npos ? 0 : before + 1);
  }

  bool exact_number(double rough, double& value) {
    const std::string_view number = number_text();
    const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), value);
    if (error == std::errc()) {
      return true;
    }
    // Out of range at one end or the other: too small is zero.
    value = std::copysign(0.0, rough);
    if (std::abs(rough) < 1) {
      return true;
    }
    error_ = make_error(ErrorCode::kParseError, "a number too large for a double");
    return false;
  }

  bool check_text(const char* text, std::size_t length) {
    if (is_utf8({text, length})) {
      return true;
    }
    error_ = make_error(ErrorCode::kParseError, "a string that is not UTF-8");
    return false;
  }

  bool refuse(const char* limit, std::string detail) {
    error_ = make_error(ErrorCode::kValidation, std::move(detail));
    error_.limit = limit;
    return false;
  }

  std::string_view text_;
  const rapidjson::MemoryStream& stream_;
  const JsonLimits& limits_;
  rapidjson::Document& document_;
  std::size_t values_ = 0;
  std::size_t depth_ = 0;
  Error error_;
};

Error at_offset(std::size_t offset, Error error) {
  error.detail = "at byte " + std::to_string(offset) + ": " + error.detail;
  return error;
}

}  // namespace

Result<void> parse_json(std::string_view text, const JsonLimits& limits,
                        rapidjson::Document& document) {
  document.SetNull();
  if (text.size() > limits.max_bytes) {
    Error error = make_error(ErrorCode::kValidation,
                             std::to_string(text.size()) + " bytes of JSON, of which at most " +
                                 std::to_string(limits.max_bytes) + " are allowed");
    error.limit = "json_size";
    return error;
  }
  // RapidJSON takes a zero byte for the end of the text and would accept anything after it.
  if (const std::size_t zero = text.find('\0'); zero != std::string_view::npos) {
    return at_offset(zero, make_error(ErrorCode::kParseError, "a zero byte"));
  }
  rapidjson::MemoryStream stream(text.data(), text.size());
  Guard guard(text, stream, limits, document);
  // The reader's stack; for most messages it is large enough.
  std::array<char, 16384> memory;
  using Pool = rapidjson::MemoryPoolAllocator<>;
  Pool pool(memory.data(), memory.size());
  rapidjson::GenericReader<rapidjson::UTF8<>, rapidjson::UTF8<>, Pool> reader(&pool, 4096);
  const auto generate = [&](rapidjson::Document& /*handler*/) {
    return !reader.Parse<rapidjson::kParseIterativeFlag>(stream, guard).IsError();
  };
  document.Populate(generate);
  if (!reader.HasParseError()) {
    return {};
  }
  document.SetNull();
  if (reader.GetParseErrorCode() == rapidjson::kParseErrorTermination) {
    return at_offset(reader.GetErrorOffset(), guard.error());
  }
  return at_offset(
      reader.GetErrorOffset(),
      make_error(ErrorCode::kParseError, rapidjson::GetParseError_En(reader.GetParseErrorCode())));
}

}  // namespace runbus::wire
