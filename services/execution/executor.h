#pragma once

#include <google/protobuf/struct.pb.h>

#include <array>
#include <bitset>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>

#include "services/execution/run.h"
#include "services/execution/toolchain.h"

namespace runbus::execution {

struct ExecutorOptions {
  std::uint32_t capacity = 64;  // executions at once; more wait
  bool allow_network = false;
  session::Limits limits;  // of sessions that a call makes
  std::function<void(const std::string& topic, google::protobuf::Struct data)> publish;
};

// The executions of this worker: admits them, starts them once each, lets others follow them, and
// knows when they end. What an execution is lives in its agent; this is forgotten with the process.
// Loop thread.
class Executor final : public RunHost {
 public:
  static constexpr std::size_t kPerSession = 64;

  Executor(boost::asio::io_context& io, session::SessionManager& manager,
           session::LogArchive& archive, Toolchain& toolchain, ExecutorOptions options);
  ~Executor() override;
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  // execute.code and execute.code_streaming.
  void run(const worker::CallPtr& call, const v1::CodeRequest& request, bool streaming);
  // Calls back once an execution that this worker is about to start has started, or will not; at
  // once for any other.
  void when_started(const std::string& session_id, const std::string& execution_id,
                    std::function<void(Result<void>)> callback);
  // execute.attach.
  void attach(const worker::CallPtr& call, const v1::AttachRequest& request);

 private:
  using Key = std::pair<std::string, std::string>;  // session id, execution id

  // What a call that follows an execution wants.
  struct Following {
    worker::CallPtr call;
    SinkIds ids;
    std::uint64_t offset = 0;
    std::shared_ptr<OutputSink> sink;
    std::string fingerprint;  // must be the execution's; empty: any
    std::string language;
    bool began = false;  // it was there: when it is not, it is lost
  };

  boost::asio::any_io_executor executor() override { return io_.get_executor(); }
  session::SessionManager& manager() override { return manager_; }
  session::LogArchive& archive() override { return archive_; }
  session::SessionOptions session_options(bool network) override;
  Result<std::string> claim_name(const std::string& session_id) override;
  void give_back_name(const std::string& session_id, const std::string& name) override;
  void follow(const std::shared_ptr<Run>& run) override;
  void on_started(const Run& run) override;
  void on_ended(const std::shared_ptr<Run>& run, const Outcome* outcome) override;
  void on_orphaned(const std::shared_ptr<Run>& run) override;

  void admit(const worker::CallPtr& call, const v1::CodeRequest& request, bool streaming,
             const std::optional<Error>& cancelled);
  void start_waiting();
  void start_waiting_soon();
  void follow_call(Following following);
  void watch_orphans();
  void ask_for_ends(const std::string& session_id);
  void publish(const Run& run, const std::string& topic, const std::string& status,
               const Outcome* outcome);

  boost::asio::io_context& io_;
  session::SessionManager& manager_;
  session::LogArchive& archive_;
  Toolchain& toolchain_;
  ExecutorOptions options_;
  std::string prefix_;  // keeps this worker's file names apart from those of others
  std::map<Key, std::shared_ptr<Run>> runs_;
  std::size_t active_ = 0;  // begun, and neither ended nor orphaned
  std::deque<std::shared_ptr<Run>> waiting_;
  std::unordered_map<std::string, std::bitset<kPerSession>> names_;
  boost::asio::steady_timer orphan_timer_;
  bool watching_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace runbus::execution
