#include <chrono>
#include <cstdio>
#include <optional>

#include "proto/wire/transcoder.h"
#include "tools/runbus/client.h"
#include "tools/runbus/commands.h"
#include "tools/runbus/files.h"

namespace runbus::cli {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Clock = std::chrono::steady_clock;

constexpr seconds kConnectBound{10};
constexpr seconds kRunBound{60};

struct Program {
  const char* language;
  const char* code;
};
// The first whose language this machine has.
constexpr Program kPrograms[] = {
    {"python",
     "import sys\nprint('Python', '.'.join(map(str, sys.version_info[:3])), 'says: 6 * 7 =', 6 * "
     "7)\n"},
    {"bash", "echo \"bash ${BASH_VERSION%%(*} says: 6 * 7 = $((6 * 7))\"\n"},
};
constexpr std::string_view kExpected = "says: 6 * 7 = 42\n";

struct Outcome {
  Error error;
  bool language_missing = false;
};

// Runs one program; nothing when all went well.
std::optional<Outcome> run(const GatewayAddress& gateway, const Program& program) {
  boost::asio::io_context io(1);
  std::string output;
  Client client(io, {.on_notification =
                         [&output](std::string_view method, const rapidjson::Value& params) {
                           if (method == "execute.output" && params.HasMember("text") &&
                               params["text"].IsString()) {
                             output += params["text"].GetString();
                           }
                         },
                     .on_closed = {},
                     .on_frame = {}});
  if (const Result<void> connected = client.connect(gateway, kConnectBound); !connected) {
    return Outcome{connected.error(), false};
  }
  std::string params = "{\"stdin\":\"\",\"language\":";
  wire::append_json_string(program.language, params);
  params += ",\"code\":";
  wire::append_json_string(program.code, params);
  const auto start = Clock::now();
  const Result<rapidjson::Document> result =
      client.call("execute.code_streaming", params + "}", kRunBound);
  const double took = std::chrono::duration<double, std::milli>(Clock::now() - start).count();
  if (!result) {
    const ErrorCode code = result.error().code;
    return Outcome{result.error(), code == ErrorCode::kNotFound || code == ErrorCode::kValidation ||
                                       code == ErrorCode::kInvalidParams};
  }
  if (!std::string_view(output).ends_with(kExpected)) {
    return Outcome{failure(std::string(program.language) + " printed '" + output +
                           "' and ended with " + to_json(*result)),
                   false};
  }
  std::printf("  %s  (%.1f ms, with the session's sandbox made for it)\n", trimmed(output).c_str(),
              took);
  std::fflush(stdout);
  if (result->HasMember("session_id") && (*result)["session_id"].IsString()) {
    std::string session = "{\"session_id\":";
    wire::append_json_string((*result)["session_id"].GetString(), session);
    const Result<rapidjson::Document> closed =
        client.call("session.close", session + "}", kRunBound);
    if (!closed) {
      complain(closed.error());  // the program ran: that is what was asked
    }
  }
  client.close(milliseconds(500));
  return std::nullopt;
}

}  // namespace

int self_check(const SelfCheckOptions& options) {
  const Result<GatewayAddress> gateway = find_gateway(options.gateway);
  if (!gateway) {
    return complain(gateway.error());
  }
  std::optional<Outcome> outcome;
  for (const Program& program : kPrograms) {
    outcome = run(*gateway, program);
    if (!outcome) {
      return 0;
    }
    complain(outcome->error);
    if (!outcome->language_missing) {
      return 1;
    }
  }
  return 1;
}

}  // namespace runbus::cli
