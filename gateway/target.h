#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace runbus::gateway {

// A request target in origin form (RFC 9112 §3.2.1), split. Only the path may be logged: the query
// can hold a token.
struct Target {
  std::string_view path;
  std::string_view query;
};

Target split_target(std::string_view target);

// %XX and + decoded; an invalid escape stays as it is.
std::string percent_decode(std::string_view text);

// The first parameter of that name, decoded.
std::optional<std::string> query_parameter(std::string_view query, std::string_view name);

// From a Cookie header (RFC 6265 §4.2.1).
std::optional<std::string> cookie(std::string_view header, std::string_view name);

}  // namespace runbus::gateway
