#include <rapidjson/document.h>

#include <chrono>
#include <cstdio>

#include "proto/wire/transcoder.h"
#include "tools/runbus/client.h"
#include "tools/runbus/commands.h"
#include "tools/runbus/files.h"

namespace runbus::cli {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr seconds kConnectBound{10};
constexpr std::chrono::hours kForEver{24 * 365};

void print_line(const std::string& text) {
  std::fputs((text + "\n").c_str(), stdout);
  std::fflush(stdout);
}

// An error in the form in which a result is printed, so that a script reads both from stdout.
std::string error_line(const Error& error) {
  std::string line =
      "{\"error\":{\"code\":" + std::to_string(static_cast<int>(error.code)) + ",\"message\":";
  wire::append_json_string(error.internal.empty() ? catalogue(error.code).message : error.internal,
                           line);
  line += ",\"detail\":";
  wire::append_json_string(error.detail, line);
  return line + "}}";
}

}  // namespace

int call(const CallOptions& options) {
  rapidjson::Document params;
  if (const Result<void> parsed = wire::parse_json(options.params, {}, params); !parsed) {
    return complain(failure("the params are not JSON: " + parsed.error().detail), 2);
  }
  if (!params.IsObject() && !params.IsArray()) {
    return complain(failure("the params must be a JSON object"), 2);
  }
  const Result<GatewayAddress> gateway = find_gateway(options.gateway);
  if (!gateway) {
    return complain(gateway.error());
  }
  boost::asio::io_context io(1);
  Client::Events events;
  if (options.stream) {
    events.on_notification = [](std::string_view method, const rapidjson::Value& item) {
      std::string line = "{\"method\":";
      wire::append_json_string(method, line);
      print_line(line + ",\"params\":" + to_json(item) + "}");
    };
  }
  Client client(io, std::move(events));
  if (const Result<void> connected = client.connect(*gateway, kConnectBound); !connected) {
    return complain(connected.error());
  }
  const milliseconds bound = options.timeout > 0
                                 ? milliseconds(static_cast<long>(options.timeout * 1000))
                                 : std::chrono::duration_cast<milliseconds>(kForEver);
  const Result<rapidjson::Document> result = client.call(options.method, options.params, bound);
  if (!result) {
    print_line(error_line(result.error()));
    return complain(result.error());
  }
  print_line(to_json(*result));
  client.close(milliseconds(500));
  return 0;
}

int workers(const WorkersOptions& options) {
  const Result<GatewayAddress> gateway = find_gateway(options.gateway);
  if (!gateway) {
    return complain(gateway.error());
  }
  boost::asio::io_context io(1);
  Client client(io, {});
  if (const Result<void> connected = client.connect(*gateway, kConnectBound); !connected) {
    return complain(connected.error());
  }
  const Result<rapidjson::Document> result = client.call("bus.workers", "{}", kConnectBound);
  if (!result) {
    return complain(result.error());
  }
  if (options.json) {
    print_line(to_json(*result));
    return 0;
  }
  const auto text = [](const rapidjson::Value& worker, const char* name) {
    return worker.HasMember(name) && worker[name].IsString() ? worker[name].GetString() : "";
  };
  const auto number = [](const rapidjson::Value& worker, const char* name) {
    return worker.HasMember(name) && worker[name].IsUint() ? worker[name].GetUint() : 0U;
  };
  std::printf("%-14s %-20s %8s %6s %9s  %-10s %s\n", "NAME", "NODE", "PID", "CALLS", "CAPACITY",
              "IDENTITY", "ID");
  if (result->HasMember("workers") && (*result)["workers"].IsArray()) {
    for (const rapidjson::Value& worker : (*result)["workers"].GetArray()) {
      if (worker.IsObject()) {
        std::printf("%-14s %-20s %8u %6u %9u  %-10s %s\n", text(worker, "name"),
                    text(worker, "node"), number(worker, "pid"), number(worker, "calls"),
                    number(worker, "capacity"), text(worker, "identity"),
                    text(worker, "worker_id"));
      }
    }
  }
  client.close(milliseconds(500));
  return 0;
}

}  // namespace runbus::cli
