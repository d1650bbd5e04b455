#include "services/execution/session_service.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <utility>

#include "services/execution/run_plan.h"

namespace runbus::execution {
namespace {

namespace agent_v1 = session::agent_v1;

constexpr double kMaxLinger = 86'400;
constexpr std::uint64_t kMinBytes = 1U << 20U;

template <class T>
Result<T> within(const char* name, bool given, T asked, T least, T most) {
  if (!given) {
    return most;
  }
  if (!(asked >= least && asked <= most)) {
    Error error = make_error(asked > most ? ErrorCode::kQuota : ErrorCode::kValidation,
                             "limits." + std::string(name) + ": between " + std::to_string(least) +
                                 " and " + std::to_string(most));
    error.limit = name;
    return error;
  }
  return asked;
}

}  // namespace

SessionService::SessionService(std::shared_ptr<session::SessionManager> manager,
                               SessionServiceOptions options)
    : Service(*v1::OpenRequest::descriptor()->file()->FindServiceByName("SessionService"),
              options.capacity),
      manager_(std::move(manager)),
      options_(std::move(options)) {
  using worker::CallPtr;
  on<v1::OpenRequest>(
      "Open", [this](const CallPtr& call, const v1::OpenRequest& request) { open(call, request); });
  on<v1::ListSessionsRequest>(
      "List", [this](const CallPtr& call, const v1::ListSessionsRequest&) { list(call); });
  on<v1::SessionInfoRequest>(
      "Info",
      [this](const CallPtr& call, const v1::SessionInfoRequest& request) { info(call, request); });
  on<v1::CloseRequest>("Close", [this](const CallPtr& call, const v1::CloseRequest& request) {
    close(call, request);
  });
  on<v1::ReleaseRequest>("Release", [this](const CallPtr& call, const v1::ReleaseRequest& request) {
    release(call, request);
  });
}

Result<session::Limits> SessionService::limits_of(const v1::Limits& asked) const {
  session::Limits limits = options_.limits;
  const auto memory =
      within<std::uint64_t>("memory", asked.has_memory(), asked.memory(), kMinBytes, limits.memory);
  const auto cpus = within<double>("cpus", asked.has_cpus(), asked.cpus(), 0.01, limits.cpus);
  const auto processes = within<std::uint32_t>("processes", asked.has_processes(),
                                               asked.processes(), 1, limits.processes);
  const auto disk =
      within<std::uint64_t>("disk", asked.has_disk(), asked.disk(), kMinBytes, limits.disk);
  if (!memory) {
    return memory.error();
  }
  if (!cpus) {
    return cpus.error();
  }
  if (!processes) {
    return processes.error();
  }
  if (!disk) {
    return disk.error();
  }
  limits.memory = *memory;
  limits.cpus = *cpus;
  limits.processes = *processes;
  limits.disk = *disk;
  return limits;
}

void SessionService::open(const worker::CallPtr& call, const v1::OpenRequest& request) {
  session::SessionOptions options;
  if (!request.network().empty() && request.network() != "none" && request.network() != "full") {
    call->fail(make_error(ErrorCode::kValidation, "network: \"none\" or \"full\""));
    return;
  }
  options.network = request.network() == "full";
  if (options.network && !options_.allow_network) {
    call->fail(make_error(ErrorCode::kAuthorization,
                          "network: this node does not give programs a network"));
    return;
  }
  auto limits = limits_of(request.limits());
  if (!limits) {
    call->fail(limits.error());
    return;
  }
  options.limits = *limits;
  if (auto checked = check_environment(request.environment(), "environment"); !checked) {
    call->fail(checked.error());
    return;
  }
  options.environment.insert(request.environment().begin(), request.environment().end());
  manager_->find_or_create(request.session_id(), std::move(options),
                           [this, call](const Result<session::SessionPtr>& session) {
                             if (call->ended()) {
                               return;
                             }
                             if (!session) {
                               call->fail(session.error());
                               return;
                             }
                             v1::OpenResponse response;
                             response.set_session_id((*session)->id());
                             response.set_node(options_.node);
                             response.set_engine(options_.engine);
                             response.mutable_enforced()->insert(options_.enforced.begin(),
                                                                 options_.enforced.end());
                             call->finish(response);
                           });
}

v1::SessionInfo SessionService::describe(const session::SandboxRecord& record) const {
  v1::SessionInfo info;
  info.set_session_id(record.session_id);
  info.set_node(options_.node);
  info.set_engine(record.engine);
  info.set_state(record.paused ? "paused" : "running");
  info.mutable_created()->set_seconds(static_cast<std::int64_t>(record.created_ms / 1000));
  info.mutable_created()->set_nanos(
      static_cast<std::int32_t>(record.created_ms % 1000 * 1'000'000));
  info.mutable_enforced()->insert(options_.enforced.begin(), options_.enforced.end());
  return info;
}

void SessionService::count_running(const session::SandboxRecord& record,
                                   std::function<void(std::optional<std::uint32_t>)> callback) {
  if (record.paused) {
    callback(0);  // or it would not be; asking would wake it
    return;
  }
  manager_->find(
      record.session_id,
      [manager = std::weak_ptr(manager_),
       callback = std::move(callback)](const Result<session::SessionPtr>& session) {
        if (!session) {
          callback(std::nullopt);
          return;
        }
        agent_v1::AgentRequest message;
        message.mutable_list();
        (*session)->agent().request(
            std::move(message), {},
            [manager, callback,
             asked = std::weak_ptr(*session)](const Result<agent_v1::AgentReply>& reply) {
              const auto living = manager.lock();
              const auto known = asked.lock();
              if (living && known) {
                living->looked(*known);
              }
              if (!reply) {
                callback(std::nullopt);
                return;
              }
              const auto& entries = reply->listing().entries();
              callback(static_cast<std::uint32_t>(std::count_if(
                  entries.begin(), entries.end(),
                  [](const agent_v1::Listing::Entry& entry) { return entry.running(); })));
            });
      },
      false);
}

void SessionService::list(const worker::CallPtr& call) {
  manager_->list([this, call](const std::vector<session::SandboxRecord>& records) {
    if (records.empty()) {
      call->finish(v1::ListSessionsResponse());
      return;
    }
    struct Gathering {
      v1::ListSessionsResponse response;
      std::size_t open = 0;
    };
    const auto gathering = std::make_shared<Gathering>();
    gathering->open = records.size();
    for (const session::SandboxRecord& record : records) {
      count_running(record, [call, gathering, info = describe(record)](
                                std::optional<std::uint32_t> running) mutable {
        if (running) {
          info.set_executions(*running);
          *gathering->response.add_sessions() = std::move(info);
        }
        if (--gathering->open == 0) {
          call->finish(gathering->response);
        }
      });
    }
  });
}

void SessionService::info(const worker::CallPtr& call, const v1::SessionInfoRequest& request) {
  manager_->look_up(request.session_id(), [this,
                                           call](const Result<session::SandboxRecord>& record) {
    if (!record) {
      call->fail(record.error());
      return;
    }
    count_running(*record,
                  [call, info = describe(*record)](std::optional<std::uint32_t> running) mutable {
                    if (!running) {
                      call->fail(make_error(ErrorCode::kNotFound, "the session has ended"));
                      return;
                    }
                    info.set_executions(*running);
                    call->finish(info);
                  });
  });
}

void SessionService::close(const worker::CallPtr& call, const v1::CloseRequest& request) {
  manager_->close(request.session_id(), [call](const Result<void>& closed) {
    if (closed) {
      call->finish(v1::CloseResponse());
    } else {
      call->fail(closed.error());
    }
  });
}

void SessionService::release(const worker::CallPtr& call, const v1::ReleaseRequest& request) {
  if (!(request.linger() >= 0 && request.linger() <= kMaxLinger)) {
    call->fail(make_error(ErrorCode::kValidation, "linger: between 0 and 86400 seconds"));
    return;
  }
  manager_->release(request.session_id(),
                    std::chrono::milliseconds(static_cast<std::int64_t>(request.linger() * 1000)));
  call->finish(v1::ReleaseResponse());
}

}  // namespace runbus::execution
