#pragma once

#include <string>

#include "runbus/v1/session.pb.h"
#include "services/session/session_manager.h"
#include "services/worker/service.h"

namespace runbus::execution {

struct SessionServiceOptions {
  std::string node;
  std::string engine;
  std::map<std::string, std::string> enforced;  // as the engine's probe found
  bool allow_network = false;
  session::Limits limits;  // of a session that asks for none, and the most that one may ask for
  std::uint32_t capacity = 256;
};

// session.* (proto/runbus/v1/session.proto) over the node's SessionManager. Loop thread.
class SessionService final : public worker::Service {
 public:
  SessionService(std::shared_ptr<session::SessionManager> manager, SessionServiceOptions options);

 private:
  void open(const worker::CallPtr& call, const v1::OpenRequest& request);
  void list(const worker::CallPtr& call);
  void info(const worker::CallPtr& call, const v1::SessionInfoRequest& request);
  void close(const worker::CallPtr& call, const v1::CloseRequest& request);
  void release(const worker::CallPtr& call, const v1::ReleaseRequest& request);

  Result<session::Limits> limits_of(const v1::Limits& asked) const;
  v1::SessionInfo describe(const session::SandboxRecord& record) const;
  // Calls back with the number of executions that run in the session; nothing when it has ended
  // meanwhile.
  void count_running(const session::SandboxRecord& record,
                     std::function<void(std::optional<std::uint32_t>)> callback);

  std::shared_ptr<session::SessionManager> manager_;
  SessionServiceOptions options_;
};

}  // namespace runbus::execution
