#pragma once

#include <rapidjson/document.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "tools/runbus/client.h"
#include "tools/runbus/gateway_address.h"
#include "tools/runbus/sink.h"
#include "tools/runbus/stdin_feed.h"

namespace runbus::cli {

struct FollowOptions {
  GatewayAddress gateway;
  std::string execution;
  std::string session;  // empty: the connection's own
  std::optional<std::string>
      start;  // params of execute.code_streaming; absent: attach to what runs
  std::uint64_t offset = 0;
  bool forward_stdin = false;
  bool json = false;  // items and result as lines of JSON
};

// One execution as if it ran here: its streams are ours, so are its exit code and Ctrl-C. When the
// connection is lost it connects again, for up to 30 s, and goes on at the byte where it stopped; a
// program is never started twice.
class Follow {
 public:
  explicit Follow(FollowOptions options);
  ~Follow();
  Follow(const Follow&) = delete;
  Follow& operator=(const Follow&) = delete;

  // Returns the program's exit code, 128 + signal, or kRunbusFailed after a text on stderr.
  int run();

 private:
  using Clock = std::chrono::steady_clock;

  void connect();
  void on_connected(const Result<void>& outcome);
  void begin();
  void try_again(const Error& why);
  void on_notification(std::string_view method, const rapidjson::Value& params);
  void on_output(const rapidjson::Value& params);
  void on_gap(const rapidjson::Value& params);
  void on_end(const Result<const rapidjson::Value*>& reply);
  void on_result(const rapidjson::Value& result);
  void on_lost(const Error& why);
  void write(Sink& sink, std::string_view bytes);
  void on_drained();
  void send_input(std::string_view chunk, bool eof);
  void wait_for_signal();
  void on_signal();
  void finish(int exit_code);
  void fail(const Error& error);
  // `{"session_id":…,"execution_id":…` without the closing brace.
  std::string target() const;

  FollowOptions options_;
  boost::asio::io_context io_{1};
  Sink out_;
  Sink err_;
  StdinFeed feed_;
  boost::asio::signal_set signals_;
  boost::asio::steady_timer timer_;
  std::unique_ptr<Client> client_;
  std::uint64_t offset_;
  std::chrono::milliseconds pause_{0};
  std::optional<Clock::time_point> lost_at_;
  bool called_ = false;   // execute.code_streaming was sent: never again
  bool started_ = false;  // the execution is known to exist
  bool reader_gone_ = false;
  int interrupts_ = 0;
  std::optional<int> exit_code_;
};

}  // namespace runbus::cli
