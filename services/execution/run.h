#pragma once

#include <boost/asio/steady_timer.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "services/execution/follower.h"
#include "services/execution/languages.h"
#include "services/execution/outcome.h"
#include "services/execution/run_plan.h"
#include "services/worker/call.h"

namespace runbus::execution {

class Run;

// What a run needs of whoever owns it.
class RunHost {
 public:
  virtual ~RunHost() = default;
  virtual boost::asio::any_io_executor executor() = 0;
  virtual session::SessionManager& manager() = 0;
  virtual session::LogArchive& archive() = 0;
  virtual session::SessionOptions session_options(bool network) = 0;
  // A name for the run's files that no other running execution of the session has; kBusy when the
  // session has as many as it may.
  virtual Result<std::string> claim_name(const std::string& session_id) = 0;
  virtual void give_back_name(const std::string& session_id, const std::string& name) = 0;
  // The execution exists, or existed, already, made by a call that this worker knows nothing of.
  virtual void follow(const std::shared_ptr<Run>& run) = 0;
  virtual void on_started(const Run& run) = 0;
  // `outcome` is null when it is not known how it ended.
  virtual void on_ended(const std::shared_ptr<Run>& run, const Outcome* outcome) = 0;
  // The caller has gone, the execution goes on; the host asks for its end from time to time.
  virtual void on_orphaned(const std::shared_ptr<Run>& run) = 0;
};

// One execution as this worker makes it for a call: a sandbox, the files, the program, its output
// and its end. Kept by its host until on_ended; the call may end earlier. Loop thread.
class Run final : public std::enable_shared_from_this<Run> {
 public:
  Run(RunHost& host, worker::CallPtr call, v1::CodeRequest request, Language language,
      bool streaming);

  const v1::CodeRequest& request() const { return request_; }
  const std::string& language() const { return language_.name; }
  const std::string& fingerprint() const { return fingerprint_; }
  const worker::CallPtr& call() const { return call_; }
  const session::SessionPtr& session() const { return session_; }
  bool streaming() const { return streaming_; }
  bool orphaned() const { return stage_ == Stage::kOrphaned; }
  // Whether it takes one of the worker's places: from begin() to its end or until its caller has
  // gone.
  bool counted() const { return begun_ && !left_; }

  // Takes over the call's cancellation; begin() may come later.
  void prepare();
  // The call is cancelled: the program ends too, but for a caller that is only gone.
  void cancel(const Error& reason);
  void begin();
  // Whether begin() would still have something to do.
  bool wanted() const { return stage_ == Stage::kWaiting; }
  // Calls back, from the loop, once the agent knows the execution, or with why it never will.
  void when_started(std::function<void(Result<void>)> callback);
  // The worker leaves: nothing is called any more, the execution is its agent's alone.
  void abandon();
  // How an orphan ended.
  void end_orphan(const session::agent_v1::Exited* exited);

 private:
  enum class Stage {
    kWaiting,
    kOpening,
    kWriting,
    kSpawning,
    kRunning,
    kEnding,
    kOrphaned,
    kEnded
  };

  void open();
  void opened(Result<session::SessionPtr> session);
  void look();
  void write();
  bool files_go_with_spawn() const;
  void written();
  void spawn();
  bool kept() const;
  void hand_over();
  void spawned(const Result<session::agent_v1::AgentReply>& reply);
  bool adopt(const session::agent_v1::Attached& attached);
  void running();
  void feed_input();
  void retry();
  void done(Result<session::agent_v1::Exited> result);
  void kill(const std::string& reason);
  void orphan();
  void fail(Error error);
  void end(const Outcome* outcome);
  void tell_started(const Result<void>& result);
  std::shared_ptr<Follower> make_follower(
      std::function<bool(const session::agent_v1::Attached&)> attached);
  void fill_spawn();

  RunHost& host_;
  worker::CallPtr call_;
  v1::CodeRequest request_;
  Language language_;
  bool streaming_;
  std::string fingerprint_;

  Stage stage_ = Stage::kWaiting;
  bool look_first_ = false;  // the agent may know the execution already
  // Spawned, or the caller has seen an item: never in another sandbox.
  bool may_have_begun_ = false;
  bool nowhere_ = false;  // of a resumed call: there is no sandbox that could have it
  bool gone_ = false;     // the caller is gone
  bool begun_ = false;
  bool left_ = false;        // orphaned once
  std::string kill_reason_;  // the call was cancelled
  int attempts_ = 0;

  session::SessionPtr session_;
  std::string name_;
  RunPlan plan_;
  std::shared_ptr<OutputSink> sink_;
  std::shared_ptr<Follower> follower_;
  std::size_t writes_left_ = 0;
  std::optional<Error> write_error_;
  std::size_t input_sent_ = 0;
  std::chrono::milliseconds input_delay_{0};
  std::unique_ptr<boost::asio::steady_timer> input_timer_;
  std::optional<std::uint64_t> oom_kills_;  // of the session at its start
  std::vector<std::function<void(Result<void>)>> waiting_;
};

}  // namespace runbus::execution
