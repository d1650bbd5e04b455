#pragma once

#include <boost/asio/io_context.hpp>

#include "services/execution/executor.h"
#include "services/worker/service.h"

namespace runbus::execution {

// execute.* (proto/runbus/v1/execution.proto). Runs and their followers are the Executor's; what is
// asked of a running execution goes straight to its agent.
class ExecutionService final : public worker::Service {
 public:
  // `owner` keeps `manager`, `archive` and `toolchain`.
  ExecutionService(boost::asio::io_context& io, std::shared_ptr<void> owner,
                   session::SessionManager& manager, session::LogArchive& archive,
                   Toolchain& toolchain, ExecutorOptions options);

 private:
  using Use = std::function<void(const session::SessionPtr&)>;

  // Calls `use` with the session of an execution; fails the call when there is none.
  void with_execution(const worker::CallPtr& call, const std::string& session_id,
                      const std::string& execution_id, Use use);
  void input(const worker::CallPtr& call, const v1::InputRequest& request);
  void signal(const worker::CallPtr& call, const v1::SignalRequest& request);
  void cancel(const worker::CallPtr& call, const v1::CancelRequest& request);
  void list(const worker::CallPtr& call, const v1::ListRequest& request);
  void list_kept(const worker::CallPtr& call, const std::string& session_id,
                 v1::ListResponse response);
  void languages(const worker::CallPtr& call);

  std::shared_ptr<void> owner_;  // first, so that it goes last
  session::SessionManager& manager_;
  session::LogArchive& archive_;
  Toolchain& toolchain_;
  Executor executor_;
};

}  // namespace runbus::execution
