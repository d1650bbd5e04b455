#include "tools/runbus/follow.h"

#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstring>

#include "proto/wire/transcoder.h"
#include "tools/runbus/commands.h"

namespace runbus::cli {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// As timeout(1) says it: the program has no exit code of its own.
constexpr int kTimedOut = 124;
constexpr seconds kConnectBound{10};
constexpr seconds kReconnectFor{30};
constexpr milliseconds kFirstPause{50};
constexpr milliseconds kLongestPause{1000};

std::string_view string_member(const rapidjson::Value& object, const char* name) {
  const auto member = object.FindMember(name);
  return member != object.MemberEnd() && member->value.IsString()
             ? std::string_view(member->value.GetString(), member->value.GetStringLength())
             : std::string_view();
}

std::uint64_t number_member(const rapidjson::Value& object, const char* name) {
  const auto member = object.FindMember(name);
  return member != object.MemberEnd() && member->value.IsUint64() ? member->value.GetUint64() : 0;
}

int signal_number(std::string_view name) {
  for (int number = 1; number < NSIG; ++number) {
    const char* short_name = ::sigabbrev_np(number);
    if (short_name != nullptr && name == std::string("SIG") + short_name) {
      return number;
    }
  }
  return SIGKILL;
}

// Of a call whose program is known to have started. A method that was there a moment ago is missing
// while a broker that has just started waits for its workers.
bool worth_another_try(ErrorCode code) {
  return code == ErrorCode::kMethodNotFound || code == ErrorCode::kUnavailable ||
         code == ErrorCode::kConnection || code == ErrorCode::kBusy ||
         code == ErrorCode::kRateLimit;
}

void tell(const std::string& text) { std::fprintf(stderr, "runbus: %s\n", text.c_str()); }

}  // namespace

Follow::Follow(FollowOptions options)
    : options_(std::move(options)),
      out_(io_, STDOUT_FILENO),
      err_(io_, STDERR_FILENO),
      feed_(io_, STDIN_FILENO,
            [this](std::string_view chunk, bool eof) { send_input(chunk, eof); }),
      signals_(io_, SIGINT, SIGTERM),
      timer_(io_),
      offset_(options_.offset) {
  ::signal(SIGPIPE, SIG_IGN);
  out_.on_drained([this] { on_drained(); });
  err_.on_drained([this] { on_drained(); });
}

Follow::~Follow() = default;

int Follow::run() {
  wait_for_signal();
  connect();
  run_until(io_, Clock::time_point::max(), [this] { return exit_code_.has_value(); });
  // What the program wrote is written before its end is told; a reader who does not read may still
  // interrupt.
  run_until(io_, Clock::time_point::max(), [this] {
    return (out_.drained() && err_.drained()) || interrupts_ > 2 || out_.broken();
  });
  if (client_) {
    client_->close(milliseconds(500));
  }
  return exit_code_.value_or(kRunbusFailed);
}

void Follow::connect() {
  client_ = std::make_unique<Client>(
      io_, Client::Events{.on_notification =
                              [this](std::string_view method, const rapidjson::Value& params) {
                                on_notification(method, params);
                              },
                          .on_closed = [this](const Error& why) { on_lost(why); },
                          .on_frame = {}});
  client_->connect(options_.gateway, kConnectBound,
                   [this](const Result<void>& outcome) { on_connected(outcome); });
}

void Follow::on_connected(const Result<void>& outcome) {
  if (outcome) {
    begin();
  } else if (lost_at_ && outcome.error().code != ErrorCode::kAuthentication) {
    try_again(outcome.error());
  } else {
    fail(outcome.error());
  }
}

void Follow::begin() {
  const auto on_reply = [this](const Result<const rapidjson::Value*>& reply) { on_end(reply); };
  if (options_.start && !called_) {
    called_ = true;
    // The connection's own session has to be named after a reconnection, when it is another
    // connection's.
    client_->call("connection.info", "{}", [this](const Result<const rapidjson::Value*>& reply) {
      if (reply && options_.session.empty()) {
        options_.session = string_member(**reply, "session_id");
      }
    });
    client_->call("execute.code_streaming", *options_.start, on_reply);
    return;
  }
  client_->call("execute.attach", target() + ",\"offset\":" + std::to_string(offset_) + "}",
                on_reply);
}

std::string Follow::target() const {
  std::string text = "{\"session_id\":";
  wire::append_json_string(options_.session, text);
  text += ",\"execution_id\":";
  wire::append_json_string(options_.execution, text);
  return text;
}

void Follow::try_again(const Error& why) {
  if (!lost_at_) {
    lost_at_ = Clock::now();
  }
  if (Clock::now() - *lost_at_ > kReconnectFor) {
    fail(why);
    return;
  }
  if (const std::size_t doubtful = feed_.lost(); doubtful > 0) {
    tell(std::to_string(doubtful) + " bytes of input were on their way and may not have arrived");
  }
  pause_ = pause_ == milliseconds(0) ? kFirstPause : std::min(pause_ * 2, kLongestPause);
  timer_.expires_after(pause_);
  timer_.async_wait([this](boost::system::error_code error) {
    if (error || exit_code_) {
      return;
    }
    if (client_->is_open()) {
      begin();
    } else {
      connect();
    }
  });
}

void Follow::on_lost(const Error& why) {
  if (exit_code_ || lost_at_) {
    return;
  }
  tell(describe(why) + "; connecting again");
  try_again(why);
}

void Follow::on_notification(std::string_view method, const rapidjson::Value& params) {
  if (!method.starts_with("execute.") ||
      string_member(params, "execution_id") != options_.execution || exit_code_) {
    return;
  }
  lost_at_.reset();
  pause_ = milliseconds(0);
  if (options_.json) {
    std::string line = "{\"method\":";
    wire::append_json_string(method, line);
    write(out_, line + ",\"params\":" + to_json(params) + "}\n");
  }
  if (method == "execute.output") {
    on_output(params);
  } else if (method == "execute.gap") {
    on_gap(params);
  } else if (method == "execute.started" && options_.session.empty()) {
    options_.session = string_member(params, "session_id");
  }
  started_ = true;
  if (options_.forward_stdin) {
    feed_.start();
  }
}

void Follow::on_output(const rapidjson::Value& params) {
  const std::uint64_t at = number_member(params, "offset");
  std::string decoded;
  std::string_view bytes = string_member(params, "text");
  if (params.HasMember("data")) {
    Result<std::string> data = wire::decode_base64(string_member(params, "data"));
    if (!data) {
      fail(data.error());
      return;
    }
    decoded = std::move(*data);
    bytes = decoded;
  }
  if (at > offset_) {
    tell("the gateway left out bytes " + std::to_string(offset_) + " to " + std::to_string(at) +
         " of the output");
  } else {
    bytes.remove_prefix(
        std::min<std::uint64_t>(bytes.size(), offset_ - at));  // seen before the reconnection
  }
  offset_ = std::max(at, offset_) + bytes.size();
  if (!options_.json) {
    write(string_member(params, "stream") == "stderr" ? err_ : out_, bytes);
  }
}

void Follow::on_gap(const rapidjson::Value& params) {
  const std::uint64_t from = number_member(params, "from");
  const std::uint64_t to = number_member(params, "to");
  tell("bytes " + std::to_string(from) + " to " + std::to_string(to) +
       " of the output are no longer kept");
  offset_ = std::max(offset_, to);
}

void Follow::write(Sink& sink, std::string_view bytes) {
  if (!sink.write(bytes)) {
    client_->pause();
  }
  if (out_.broken() && !exit_code_ && !reader_gone_) {
    reader_gone_ = true;
    // As a program of this host would end whose reader went away.
    client_->call("execute.cancel", target() + "}", [this](const auto&) { finish(128 + SIGPIPE); });
  }
}

void Follow::on_drained() {
  if (client_ && out_.drained() && err_.drained()) {
    client_->resume();
  }
}

void Follow::on_end(const Result<const rapidjson::Value*>& reply) {
  if (exit_code_) {
    return;
  }
  if (reply) {
    on_result(**reply);
    return;
  }
  Error error = reply.error();
  if (!client_->is_open()) {
    on_lost(error);
  } else if ((started_ || lost_at_) && worth_another_try(error.code)) {
    try_again(error);
  } else {
    if (error.code == ErrorCode::kNotFound && called_ && !started_) {
      error.detail =
          "the connection was lost before the program was seen to start, and it is not known now";
    }
    fail(error);
  }
}

void Follow::on_result(const rapidjson::Value& result) {
  if (options_.json) {
    write(out_, "{\"result\":" + to_json(result) + "}\n");
  }
  const std::string_view limit = string_member(result, "limit");
  if (!limit.empty()) {
    tell("ended by its limit of " + std::string(limit));
  } else if (string_member(result, "status") == "cancelled") {
    tell("cancelled");
  }
  const auto code = result.FindMember("exit_code");
  if (code != result.MemberEnd() && code->value.IsInt()) {
    finish(code->value.GetInt());
    return;
  }
  const std::string_view name = string_member(result, "signal");
  if (!name.empty()) {
    finish(128 + signal_number(name));
  } else {
    finish(string_member(result, "status") == "timeout" ? kTimedOut : 128 + SIGKILL);
  }
}

void Follow::send_input(std::string_view chunk, bool eof) {
  std::string params = target() + ",\"data\":\"";
  wire::append_base64(chunk, params);
  params += eof ? "\",\"eof\":true}" : "\"}";
  client_->call("execute.input", params, [this](const Result<const rapidjson::Value*>& reply) {
    if (reply) {
      feed_.acknowledge(number_member(**reply, "accepted"));
    } else if (reply.error().code == ErrorCode::kBusy ||
               reply.error().code == ErrorCode::kRateLimit) {
      feed_.acknowledge(0);
    } else if (client_->is_open()) {
      feed_.stop();  // the program has ended, or reads no more: its result says the rest
    }
  });
}

void Follow::wait_for_signal() {
  signals_.async_wait([this](boost::system::error_code error, int) {
    if (!error) {
      on_signal();
      wait_for_signal();
    }
  });
}

void Follow::on_signal() {
  ++interrupts_;
  const bool connected = client_ && client_->is_open();
  if (exit_code_ || !connected || interrupts_ > 2) {
    interrupts_ = 3;
    finish(128 + SIGINT);
  } else if (interrupts_ == 1) {
    client_->call("execute.signal", target() + ",\"signal\":\"SIGINT\"}", [](const auto&) {});
  } else {
    client_->call("execute.cancel", target() + "}", [](const auto&) {});
  }
}

void Follow::finish(int exit_code) {
  if (!exit_code_) {
    exit_code_ = exit_code;
    feed_.stop();
    timer_.cancel();
  }
}

void Follow::fail(const Error& error) {
  if (!exit_code_) {
    finish(complain(error, kRunbusFailed));
  }
}

}  // namespace runbus::cli
