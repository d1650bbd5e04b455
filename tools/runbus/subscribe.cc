#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <map>
#include <optional>

#include "proto/wire/transcoder.h"
#include "tools/runbus/client.h"
#include "tools/runbus/commands.h"

namespace runbus::cli {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr seconds kConnectBound{10};
constexpr milliseconds kLongestPause{5000};

// A subscription that outlives its connection: on a new one it asks for what came after the last
// event it saw.
class Subscriber {
 public:
  Subscriber(const SubscribeOptions& options, GatewayAddress gateway)
      : options_(options),
        gateway_(std::move(gateway)),
        signals_(io_, SIGINT, SIGTERM),
        timer_(io_) {}

  int run() {
    signals_.async_wait([this](boost::system::error_code error, int) {
      if (!error) {
        exit_code_ = 0;
      }
    });
    connect();
    run_until(io_, std::chrono::steady_clock::time_point::max(),
              [this] { return exit_code_.has_value(); });
    return exit_code_.value_or(1);
  }

 private:
  struct Position {
    std::string epoch;
    std::uint64_t offset = 0;
  };

  void connect();
  void again(const Error& why);
  void subscribe();
  void on_notification(std::string_view method, const rapidjson::Value& params);
  void print(std::string_view method, const rapidjson::Value& params) const;

  const SubscribeOptions& options_;
  GatewayAddress gateway_;
  boost::asio::io_context io_{1};
  boost::asio::signal_set signals_;
  boost::asio::steady_timer timer_;
  std::unique_ptr<Client> client_;
  std::map<std::string, Position> positions_;
  milliseconds pause_{100};
  bool was_connected_ = false;
  std::uint64_t seen_ = 0;
  std::optional<int> exit_code_;
};

void Subscriber::connect() {
  client_ = std::make_unique<Client>(
      io_, Client::Events{.on_notification =
                              [this](std::string_view method, const rapidjson::Value& params) {
                                on_notification(method, params);
                              },
                          .on_closed = [this](const Error& why) { again(why); },
                          .on_frame = {}});
  client_->connect(gateway_, kConnectBound, [this](const Result<void>& outcome) {
    if (outcome) {
      subscribe();
    } else if (!was_connected_ || outcome.error().code == ErrorCode::kAuthentication) {
      exit_code_ = complain(outcome.error());
    } else {
      again(outcome.error());
    }
  });
}

void Subscriber::again(const Error& why) {
  std::fprintf(stderr, "runbus: %s; connecting again\n", describe(why).c_str());
  timer_.expires_after(pause_);
  pause_ = std::min(pause_ * 2, kLongestPause);
  timer_.async_wait([this](boost::system::error_code error) {
    if (!error) {
      connect();
    }
  });
}

void Subscriber::subscribe() {
  std::string params = "{\"topics\":[";
  for (std::size_t i = 0; i < options_.topics.size(); ++i) {
    params += i == 0 ? "" : ",";
    wire::append_json_string(options_.topics[i], params);
  }
  params += "],\"since\":{";
  bool first = true;
  for (const auto& [topic, position] : positions_) {
    params += first ? "" : ",";
    first = false;
    wire::append_json_string(topic, params);
    params += ":{\"epoch\":";
    wire::append_json_string(position.epoch, params);
    params += ",\"offset\":" + std::to_string(position.offset) + "}";
  }
  client_->call("events.subscribe", params + "}}",
                [this](const Result<const rapidjson::Value*>& reply) {
                  if (reply) {
                    was_connected_ = true;
                    pause_ = milliseconds(100);
                  } else if (client_->is_open()) {
                    exit_code_ = complain(reply.error());
                  }
                });
}

void Subscriber::on_notification(std::string_view method, const rapidjson::Value& params) {
  const bool is_event = method == "events.event";
  if ((!is_event && method != "events.lagged") || exit_code_) {
    return;
  }
  print(method, params);
  if (!is_event) {
    return;
  }
  if (params.HasMember("topic") && params["topic"].IsString() && params.HasMember("epoch") &&
      params["epoch"].IsString() && params.HasMember("offset") && params["offset"].IsUint64()) {
    positions_[params["topic"].GetString()] = {params["epoch"].GetString(),
                                               params["offset"].GetUint64()};
  }
  if (++seen_ == options_.count) {
    exit_code_ = 0;
  }
}

void Subscriber::print(std::string_view method, const rapidjson::Value& params) const {
  const auto text = [&params](const char* name) {
    return params.HasMember(name) && params[name].IsString() ? params[name].GetString() : "";
  };
  if (options_.json) {
    std::string line = "{\"method\":";
    wire::append_json_string(method, line);
    std::printf("%s,\"params\":%s}\n", line.c_str(), to_json(params).c_str());
  } else if (method == "events.lagged") {
    std::printf("(missed events of %s)\n", text("topic"));
  } else {
    std::printf("%s %s %s\n", text("timestamp"), text("topic"),
                params.HasMember("data") ? to_json(params["data"]).c_str() : "{}");
  }
  std::fflush(stdout);
}

}  // namespace

int subscribe(const SubscribeOptions& options) {
  Result<GatewayAddress> gateway = find_gateway(options.gateway);
  if (!gateway) {
    return complain(gateway.error());
  }
  return Subscriber(options, std::move(*gateway)).run();
}

}  // namespace runbus::cli
