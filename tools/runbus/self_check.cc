#include <algorithm>
#include <chrono>
#include <cstdio>
#include <optional>
#include <string>
#include <thread>

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
constexpr seconds kOfferBound{10};
constexpr milliseconds kOfferPause{20};

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

// The broker tells the gateway what the worker offers, at about the time when it tells the worker
// that it is welcome: waits until the gateway knows. If it never does the call says what is wrong.
void wait_for_method(Client& client, const std::string& name) {
  const auto deadline = Clock::now() + kOfferBound;
  while (Clock::now() < deadline) {
    const Result<rapidjson::Document> known = client.call("rpc.discover", "{}", kRunBound);
    if (!known || !known->IsObject() || !known->HasMember("methods") ||
        !(*known)["methods"].IsArray()) {
      return;
    }
    const auto& methods = (*known)["methods"];
    if (std::any_of(methods.Begin(), methods.End(), [&name](const rapidjson::Value& method) {
          return method.IsObject() && method.HasMember("name") && method["name"] == name.c_str();
        })) {
      return;
    }
    std::this_thread::sleep_for(kOfferPause);
  }
}

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
  wait_for_method(client, "execute.code_streaming");
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
