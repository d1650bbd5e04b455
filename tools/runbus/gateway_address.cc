#include "tools/runbus/gateway_address.h"

#include <cstdlib>

#include "tools/runbus/files.h"
#include "tools/runbus/state_dir.h"

namespace runbus::cli {
namespace {

constexpr std::size_t kMaxSmallFile = 4096;

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

std::string query_token(std::string_view query) {
  constexpr std::string_view kName = "token=";
  while (!query.empty()) {
    const std::size_t end = query.find_first_of("&#");
    const std::string_view member = query.substr(0, end);
    if (member.starts_with(kName)) {
      return std::string(member.substr(kName.size()));
    }
    query.remove_prefix(end == std::string_view::npos ? query.size() : end + 1);
  }
  return {};
}

}  // namespace

Result<GatewayAddress> parse_gateway_url(std::string_view url) {
  const std::string shown(url.substr(0, url.find('?')));  // without the token
  const std::size_t scheme_end = url.find("://");
  const std::string_view scheme =
      scheme_end == std::string_view::npos ? url : url.substr(0, scheme_end);
  if (scheme == "https" || scheme == "wss") {
    return failure(
        "'" + shown +
        "': this tool does not speak TLS; use http:// over a tunnel or on the gateway's host");
  }
  if (scheme != "http" && scheme != "ws") {
    return failure("'" + shown + "' is not a gateway's URL: http://HOST:PORT");
  }
  std::string_view rest = url.substr(scheme_end + 3);
  const std::size_t authority_end = rest.find_first_of("/?#");
  std::string_view authority = rest.substr(0, authority_end);
  GatewayAddress address;
  const std::size_t question = rest.find('?');
  if (question != std::string_view::npos) {
    address.token = query_token(rest.substr(question + 1));
  }
  const std::size_t bracket =
      authority.starts_with('[') ? authority.find(']') : std::string_view::npos;
  const std::size_t colon = authority.find(':', bracket == std::string_view::npos ? 0 : bracket);
  address.port = colon == std::string_view::npos ? "80" : std::string(authority.substr(colon + 1));
  std::string_view host = authority.substr(0, colon);
  if (bracket != std::string_view::npos) {
    host = authority.substr(1, bracket - 1);
  }
  address.host = std::string(host);
  const bool digits = !address.port.empty() && address.port.size() <= 5 &&
                      address.port.find_first_not_of("0123456789") == std::string::npos;
  if (address.host.empty() || !digits || authority.find('@') != std::string_view::npos) {
    return failure("'" + shown + "' is not a gateway's URL: http://HOST:PORT");
  }
  return address;
}

Result<GatewayAddress> find_gateway(const GatewayChoice& choice) {
  std::string url = choice.url;
  if (url.empty() && choice.state_dir.empty()) {
    url = environment("RUNBUS_URL");
  }
  const std::string state_dir = choice.state_dir.empty() ? default_state_dir() : choice.state_dir;
  const bool local = url.empty();
  if (local) {
    const Result<std::string> text = read_file(state_dir + "/url", kMaxSmallFile);
    if (!text) {
      return failure("no gateway: nothing runs on " + state_dir +
                     " (start `runbus up`, or name one with --url or RUNBUS_URL)");
    }
    url = trimmed(*text);
  }
  Result<GatewayAddress> address = parse_gateway_url(url);
  if (!address) {
    return address;
  }
  std::string token_file = choice.token_file;
  if (token_file.empty() && address->token.empty()) {
    address->token = environment("RUNBUS_TOKEN");
    if (address->token.empty() && local) {
      token_file = state_dir + "/token";
    }
  }
  if (!token_file.empty()) {
    const Result<std::string> text = read_file(token_file, kMaxSmallFile);
    if (!text) {
      return text.error();
    }
    address->token = trimmed(*text);
  }
  return address;
}

}  // namespace runbus::cli
