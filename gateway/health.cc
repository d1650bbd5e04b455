#include "gateway/health.h"

#include <utility>

#include "proto/wire/transcoder.h"
#include "runbus/v1/session.pb.h"

namespace runbus::gateway {
namespace {

constexpr std::chrono::seconds kFresh{5};
constexpr std::chrono::seconds kWait{1};
constexpr std::size_t kMaxWaiting = 1000;

CallRequest request_of(const char* method) {
  CallRequest request;
  request.method = method;
  request.principal = "gateway";
  request.timeout = std::chrono::seconds(5);
  return request;
}

template <class Message>
std::optional<Message> parse(const Result<std::string_view>& body) {
  Message message;
  if (!body || !message.ParseFromArray(body->data(), static_cast<int>(body->size()))) {
    return std::nullopt;
  }
  return message;
}

}  // namespace

Health::Health(boost::asio::io_context& io, BusClient& bus) : bus_(bus), timer_(io) {}

Health::~Health() { *alive_ = false; }

void Health::report(std::function<void(std::string)> done) {
  const auto now = std::chrono::steady_clock::now();
  const bool fresh = asked_ != std::chrono::steady_clock::time_point() && now - asked_ < kFresh;
  if (!bus_.ready() || (fresh && pending_ == 0) || late_ || waiting_.size() >= kMaxWaiting) {
    done(text());
    return;
  }
  waiting_.push_back(std::move(done));
  if (pending_ == 0) {
    refresh();
  }
}

void Health::refresh() {
  asked_ = std::chrono::steady_clock::now();
  pending_ = 2;
  timer_.expires_after(kWait);
  timer_.async_wait([this](const boost::system::error_code& error) {
    if (!error && pending_ > 0) {
      late_ = true;
      answer();
    }
  });
  bus_.call(
      request_of("bus.workers"), [this, alive = alive_](const Result<std::string_view>& body) {
        if (!*alive) {
          return;
        }
        const auto response = parse<v1::WorkersResponse>(body);
        workers_ = response ? std::optional<std::size_t>(response->workers_size()) : std::nullopt;
        arrived();
      });
  if (bus_.catalog()->find("session.list") == nullptr) {
    enforced_.reset();
    arrived();
    return;
  }
  bus_.call(request_of("session.list"),
            [this, alive = alive_](const Result<std::string_view>& body) {
              if (!*alive) {
                return;
              }
              const auto response = parse<v1::ListSessionsResponse>(body);
              if (response && response->sessions_size() > 0) {
                const auto& enforced = response->sessions(0).enforced();
                enforced_.emplace(enforced.begin(), enforced.end());
              }
              arrived();
            });
}

void Health::arrived() {
  if (--pending_ == 0) {
    late_ = false;
    timer_.cancel();
    answer();
  }
}

void Health::answer() {
  for (const auto& done : std::exchange(waiting_, {})) {
    done(text());
  }
}

std::string Health::text() const {
  std::string out = R"({"status":")";
  out.append(bus_.ready() ? "ok" : "unavailable").append(R"(","version":)");
  wire::append_json_string(RUNBUS_VERSION, out);
  out.append(R"(,"workers":)")
      .append(workers_ && bus_.ready() ? std::to_string(*workers_) : "null");
  out.append(R"(,"enforced":)");
  if (!enforced_) {
    return out.append("null}");
  }
  out.push_back('{');
  for (const auto& [resource, by] : *enforced_) {
    out.append(out.back() == '{' ? "" : ",");
    wire::append_json_string(resource, out);
    out.push_back(':');
    wire::append_json_string(by, out);
  }
  return out.append("}}");
}

std::string root_json() {
  std::string out = R"({"name":"runbus","version":)";
  wire::append_json_string(RUNBUS_VERSION, out);
  return out.append(
      R"(,"websocket":"/ws","rpc":"/rpc","health":"/health","ready":"/ready","discover":"rpc.discover"})");
}

std::string root_page() {
  return R"(<!doctype html>
<html lang="en"><meta charset="utf-8"><title>runbus</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:40em;margin:4em auto;padding:0 1em}code{background:#8882;padding:.1em .3em}</style>
<h1>runbus )" RUNBUS_VERSION
         R"(</h1>
<p>This is a runbus gateway: JSON-RPC 2.0 over one WebSocket at <code>/ws</code>, or over HTTP at <code>POST /rpc</code>.
The method <code>rpc.discover</code> describes all that can be called.</p>
<p><a href="/health">Health</a> · <a href="/ready">Ready</a></p>
</html>
)";
}

}  // namespace runbus::gateway
