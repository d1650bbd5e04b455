#include "services/execution/execution_service.h"

#include <algorithm>
#include <set>
#include <utility>

#include "proto/support/id.h"

namespace runbus::execution {
namespace {

namespace agent_v1 = session::agent_v1;

// Offered beyond the executions at once: calls that wait for a place or follow an execution must
// not keep execute.input and execute.cancel from coming through.
constexpr std::uint32_t kExtraCapacity = 448;
constexpr std::size_t kMaxInput = 1U << 20U;

Error no_execution() { return make_error(ErrorCode::kNotFound, "execution_id: no such execution"); }

Error about_execution(const Error& error) {
  return error.code == ErrorCode::kNotFound ? no_execution() : error;
}

v1::ExecutionInfo info_of(const agent_v1::Listing::Entry& entry, const std::string& session_id) {
  v1::ExecutionInfo info;
  info.set_execution_id(entry.execution_id());
  info.set_session_id(session_id);
  info.set_language(decode_tag(entry.tag()).language);
  info.set_bytes(entry.end_offset());
  info.set_first_offset(entry.first_offset());
  const std::uint64_t started = std::min<std::uint64_t>(entry.started_ms(), 253'402'300'799'000);
  info.mutable_started()->set_seconds(static_cast<std::int64_t>(started / 1000));
  info.mutable_started()->set_nanos(static_cast<std::int32_t>(started % 1000 * 1'000'000));
  if (entry.running()) {
    info.set_status("running");
  } else if (!entry.has_exited()) {
    info.set_status("lost");
  } else {
    const Outcome outcome = outcome_of(entry.exited());
    info.set_status(outcome.status);
    if (outcome.exit_code) {
      info.set_exit_code(*outcome.exit_code);
    }
  }
  return info;
}

}  // namespace

ExecutionService::ExecutionService(boost::asio::io_context& io, std::shared_ptr<void> owner,
                                   session::SessionManager& manager, session::LogArchive& archive,
                                   Toolchain& toolchain, ExecutorOptions options)
    : Service(*v1::CodeRequest::descriptor()->file()->FindServiceByName("ExecutionService"),
              options.capacity + kExtraCapacity),
      owner_(std::move(owner)),
      manager_(manager),
      archive_(archive),
      toolchain_(toolchain),
      executor_(io, manager, archive, toolchain, std::move(options)) {
  using worker::CallPtr;
  on<v1::CodeRequest>("Code", [this](const CallPtr& call, const v1::CodeRequest& request) {
    executor_.run(call, request, false);
  });
  on<v1::CodeRequest>("CodeStreaming", [this](const CallPtr& call, const v1::CodeRequest& request) {
    executor_.run(call, request, true);
  });
  on<v1::AttachRequest>("Attach", [this](const CallPtr& call, const v1::AttachRequest& request) {
    executor_.when_started(request.session_id(), request.execution_id(),
                           [this, call, request](const Result<void>&) {
                             if (!call->ended()) {
                               executor_.attach(call, request);
                             }
                           });
  });
  on<v1::InputRequest>("Input", [this](const CallPtr& call, const v1::InputRequest& request) {
    input(call, request);
  });
  on<v1::SignalRequest>("Signal", [this](const CallPtr& call, const v1::SignalRequest& request) {
    signal(call, request);
  });
  on<v1::CancelRequest>("Cancel", [this](const CallPtr& call, const v1::CancelRequest& request) {
    cancel(call, request);
  });
  on<v1::ListRequest>(
      "List", [this](const CallPtr& call, const v1::ListRequest& request) { list(call, request); });
  on<v1::LanguagesRequest>(
      "Languages", [this](const CallPtr& call, const v1::LanguagesRequest&) { languages(call); });
}

void ExecutionService::with_execution(const worker::CallPtr& call, const std::string& session_id,
                                      const std::string& execution_id, Use use) {
  if (!is_valid_id(execution_id)) {
    call->fail(make_error(ErrorCode::kValidation, "execution_id: not a valid id"));
    return;
  }
  executor_.when_started(
      session_id, execution_id,
      [this, call, session_id, use = std::move(use)](const Result<void>& started) {
        if (call->ended()) {
          return;
        }
        if (!started) {
          call->fail(no_execution());
          return;
        }
        manager_.find(session_id, [call, use](const Result<session::SessionPtr>& session) {
          if (call->ended()) {
            return;
          }
          if (session) {
            use(*session);
          } else {
            call->fail(about_execution(session.error()));
          }
        });
      });
}

void ExecutionService::input(const worker::CallPtr& call, const v1::InputRequest& request) {
  std::string bytes = request.has_text() ? request.text() : request.data();
  const bool whole = bytes.size() <= kMaxInput;
  bytes.resize(std::min(bytes.size(), kMaxInput));
  agent_v1::AgentRequest message;
  message.mutable_input()->set_execution_id(request.execution_id());
  message.mutable_input()->set_eof(request.eof() && whole);
  with_execution(
      call, request.session_id(), request.execution_id(),
      [call, message, bytes = std::move(bytes)](const session::SessionPtr& session) {
        session->agent().request(
            message, bytes, [call, size = bytes.size()](const Result<agent_v1::AgentReply>& reply) {
              if (!reply) {
                call->fail(about_execution(reply.error()));
                return;
              }
              v1::InputResponse response;
              response.set_accepted(std::min<std::uint64_t>(reply->input_taken().bytes(), size));
              call->finish(response);
            });
      });
}

void ExecutionService::signal(const worker::CallPtr& call, const v1::SignalRequest& request) {
  const std::optional<int> number = signal_number(request.signal());
  if (!number) {
    call->fail(
        make_error(ErrorCode::kValidation,
                   "signal: one of INT, TERM, HUP, QUIT, KILL, USR1, USR2, CONT, STOP, TSTP, "
                   "TTIN, TTOU, WINCH, ALRM, ABRT"));
    return;
  }
  agent_v1::AgentRequest message;
  message.mutable_signal()->set_execution_id(request.execution_id());
  message.mutable_signal()->set_signal(*number);
  with_execution(call, request.session_id(), request.execution_id(),
                 [call, message](const session::SessionPtr& session) {
                   session->agent().request(message, {},
                                            [call](const Result<agent_v1::AgentReply>& reply) {
                                              if (!reply) {
                                                call->fail(about_execution(reply.error()));
                                              } else {
                                                call->finish(v1::SignalResponse());
                                              }
                                            });
                 });
}

void ExecutionService::cancel(const worker::CallPtr& call, const v1::CancelRequest& request) {
  agent_v1::AgentRequest message;
  message.mutable_kill()->set_execution_id(request.execution_id());
  message.mutable_kill()->set_reason("cancelled");
  with_execution(call, request.session_id(), request.execution_id(),
                 [call, message](const session::SessionPtr& session) {
                   session->agent().request(message, {},
                                            [call](const Result<agent_v1::AgentReply>& reply) {
                                              if (!reply) {
                                                call->fail(about_execution(reply.error()));
                                              } else {
                                                call->finish(v1::CancelResponse());
                                              }
                                            });
                 });
}

// The agent's executions, then what is kept of those that it does not know.
void ExecutionService::list(const worker::CallPtr& call, const v1::ListRequest& request) {
  manager_.find(request.session_id(), [this, call, session_id = request.session_id()](
                                          const Result<session::SessionPtr>& session) {
    if (call->ended()) {
      return;
    }
    if (!session && session.error().code == ErrorCode::kNotFound) {
      list_kept(call, session_id, {});
      return;
    }
    if (!session) {
      call->fail(session.error());
      return;
    }
    agent_v1::AgentRequest message;
    message.mutable_list();
    (*session)->agent().request(
        std::move(message), {},
        [this, call, session_id](const Result<agent_v1::AgentReply>& reply) {
          if (!reply) {
            call->fail(reply.error());
            return;
          }
          v1::ListResponse response;
          for (const auto& entry : reply->listing().entries()) {
            if (is_valid_id(entry.execution_id())) {
              *response.add_executions() = info_of(entry, session_id);
            }
          }
          list_kept(call, session_id, std::move(response));
        });
  });
}

void ExecutionService::list_kept(const worker::CallPtr& call, const std::string& session_id,
                                 v1::ListResponse response) {
  archive_.list(session_id, [call, session_id, response = std::move(response)](
                                const std::vector<agent_v1::Listing::Entry>& kept) mutable {
    std::set<std::string> known;
    for (const v1::ExecutionInfo& info : response.executions()) {
      known.insert(info.execution_id());
    }
    for (const agent_v1::Listing::Entry& entry : kept) {
      if (!known.contains(entry.execution_id())) {
        *response.add_executions() = info_of(entry, session_id);
      }
    }
    call->finish(response);
  });
}

void ExecutionService::languages(const worker::CallPtr& call) {
  toolchain_.when_known([this, call] {
    v1::LanguagesResponse response;
    for (const Language& language : toolchain_.languages()) {
      v1::LanguageInfo* info = response.add_languages();
      info->set_name(language.name);
      info->set_version(language.version);
      info->set_warm(!language.warm.empty());
      for (const std::string& alias : language.aliases) {
        info->add_aliases(alias);
      }
    }
    call->finish(response);
  });
}

}  // namespace runbus::execution
