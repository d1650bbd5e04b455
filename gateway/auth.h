#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "proto/support/error.h"

namespace runbus::gateway {

// What decides about one HTTP request. Views into the request.
struct Credentials {
  std::string_view authorization;  // header
  std::string_view cookie;         // header
  std::string_view query;
  std::string_view origin;  // header; empty when absent
  std::string_view host;    // header
};

// Who may come in. Both decisions are taken before a request has any effect, and for a WebSocket
// before 101. The token is compared in constant time and never logged.
class Auth {
 public:
  // `token` empty: everyone is let in (a loopback gateway started with --insecure-no-token).
  Auth(std::string token, std::vector<std::string> allowed_origins);

  // The principal, or nothing when the token is missing or wrong. It comes as `Authorization:
  // Bearer`, as
  // `?token=` or as the cookie `runbus_token`; the first of them that is there decides.
  std::optional<std::string> authenticate(const Credentials& credentials) const;
  // Whether the query has the right token: the page then sets the cookie.
  bool token_in_query(const Credentials& credentials) const;

  // Whether a page of that origin may talk to us. A program that is no browser sends none and may;
  // "null" and foreign ones may not, unless listed. Without a token the Host must be an address or
  // localhost, since any name can be made to resolve to this machine and then counts as the same
  // origin.
  bool origin_allowed(const Credentials& credentials) const;

 private:
  std::string token_;
  std::vector<std::string> allowed_origins_;
};

// The token of `file` (its first line), or of the environment's RUNBUS_TOKEN when `file` is empty.
// kValidation when there is none, or one that is too short to be a secret.
Result<std::string> load_token(const std::string& file);

}  // namespace runbus::gateway
