#include "gateway/auth.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <fstream>
#include <utility>

#include "gateway/target.h"
#include "proto/support/id.h"

namespace runbus::gateway {
namespace {

constexpr std::size_t kMinTokenBytes = 8;
constexpr std::size_t kMaxTokenBytes = 4096;

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

// "scheme://host:port" as host:port with the scheme's port made explicit; empty when it is no such
// thing.
std::string authority_of(const std::string& origin) {
  const std::size_t scheme = origin.find("://");
  if (scheme == std::string::npos) {
    return {};
  }
  return origin.substr(scheme + 3);
}

std::string_view default_port(const std::string& origin) {
  return origin.starts_with("https:") ? ":443" : ":80";
}

// Where the port begins, or the size.
std::size_t port_at(std::string_view authority) {
  const std::size_t bracket = authority.rfind(']');
  const std::size_t colon = authority.rfind(':');
  const bool inside =
      bracket != std::string_view::npos && colon != std::string_view::npos && colon < bracket;
  return colon == std::string_view::npos || inside ? authority.size() : colon;
}

bool same_authority(const std::string& origin, const std::string& host) {
  std::string a = authority_of(origin);
  std::string b = host;
  if (a.empty() || b.empty()) {
    return false;
  }
  if (port_at(a) == a.size()) {
    a.append(default_port(origin));
  }
  if (port_at(b) == b.size()) {
    b.append(default_port(origin));
  }
  return a == b;
}

bool is_address_or_localhost(const std::string& host) {
  const std::string_view name = std::string_view(host).substr(0, port_at(host));
  if (name == "localhost" || (name.starts_with('[') && name.ends_with(']'))) {
    return true;
  }
  return !name.empty() && name.find_first_not_of("0123456789.") == std::string_view::npos;
}

// The token that a request carries, or nothing.
std::optional<std::string> carried(const Credentials& credentials) {
  if (!credentials.authorization.empty()) {
    constexpr std::string_view kScheme = "bearer ";
    if (lower(credentials.authorization.substr(0, kScheme.size())) != kScheme) {
      return std::nullopt;
    }
    std::string_view token = credentials.authorization.substr(kScheme.size());
    while (token.starts_with(' ')) {
      token.remove_prefix(1);
    }
    return std::string(token);
  }
  if (auto token = query_parameter(credentials.query, "token")) {
    return token;
  }
  return cookie(credentials.cookie, "runbus_token");
}

}  // namespace

Auth::Auth(std::string token, std::vector<std::string> allowed_origins)
    : token_(std::move(token)), allowed_origins_(std::move(allowed_origins)) {
  for (std::string& origin : allowed_origins_) {
    origin = lower(origin);
    while (origin.ends_with('/')) {
      origin.pop_back();
    }
  }
}

std::optional<std::string> Auth::authenticate(const Credentials& credentials) const {
  if (token_.empty()) {
    return "anonymous";
  }
  const std::optional<std::string> token = carried(credentials);
  if (!token || !equal_constant_time(*token, token_)) {
    return std::nullopt;
  }
  return "token";
}

bool Auth::token_in_query(const Credentials& credentials) const {
  const auto token = query_parameter(credentials.query, "token");
  return !token_.empty() && token && equal_constant_time(*token, token_);
}

bool Auth::origin_allowed(const Credentials& credentials) const {
  const std::string origin = lower(credentials.origin);
  const std::string host = lower(credentials.host);
  if (std::find(allowed_origins_.begin(), allowed_origins_.end(), origin) !=
          allowed_origins_.end() &&
      !origin.empty()) {
    return true;
  }
  if (origin.empty()) {
    return true;
  }
  if (token_.empty() && !is_address_or_localhost(host)) {
    return false;
  }
  return same_authority(origin, host);
}

Result<std::string> load_token(const std::string& file) {
  std::string token;
  std::string source = "RUNBUS_TOKEN";
  if (!file.empty()) {
    source = "the token file";
    std::ifstream in(file);
    if (!in) {
      return make_error(ErrorCode::kValidation, "cannot read the token file " + file);
    }
    std::getline(in, token);
  } else if (const char* value = std::getenv("RUNBUS_TOKEN"); value != nullptr) {
    token = value;
  } else {
    return make_error(ErrorCode::kValidation,
                      "a token is required: --token-file FILE or the environment's RUNBUS_TOKEN "
                      "(or --insecure-no-token on a loopback address)");
  }
  const std::size_t end = token.find_last_not_of(" \t\r\n");
  token.erase(end == std::string::npos ? 0 : end + 1);
  if (token.size() < kMinTokenBytes || token.size() > kMaxTokenBytes) {
    return make_error(ErrorCode::kValidation,
                      "the token of " + source + " must have 8 to 4096 characters");
  }
  return token;
}

}  // namespace runbus::gateway
