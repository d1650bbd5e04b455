#include "services/execution/executor.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <set>

#include "proto/support/id.h"

namespace runbus::execution {
namespace {

namespace agent_v1 = session::agent_v1;

constexpr std::chrono::seconds kOrphanInterval{2};

google::protobuf::Value text_value(const std::string& text) {
  google::protobuf::Value value;
  value.set_string_value(text);
  return value;
}

google::protobuf::Value number_value(double number) {
  google::protobuf::Value value;
  value.set_number_value(number);
  return value;
}

}  // namespace

Executor::Executor(boost::asio::io_context& io, session::SessionManager& manager,
                   session::LogArchive& archive, Toolchain& toolchain, ExecutorOptions options)
    : io_(io),
      manager_(manager),
      archive_(archive),
      toolchain_(toolchain),
      options_(std::move(options)),
      prefix_(random_hex(3)),
      orphan_timer_(io) {}

Executor::~Executor() {
  for (const auto& [key, run] : runs_) {
    run->abandon();
  }
}

void Executor::run(const worker::CallPtr& call, const v1::CodeRequest& request, bool streaming) {
  if (auto checked = check_request(request); !checked) {
    call->fail(checked.error());
    return;
  }
  if (request.config().network() == "full" && !options_.allow_network) {
    call->fail(make_error(ErrorCode::kAuthorization,
                          "config.network: this node does not give programs a network"));
    return;
  }
  if (toolchain_.known()) {
    admit(call, request, streaming, {});
    return;
  }
  // A resumed call may have a program already, which its cancellation has to reach.
  const auto cancelled = std::make_shared<std::optional<Error>>();
  if (call->resume() != nullptr) {
    call->on_cancel([call, cancelled](const Error& reason) {
      *cancelled = reason;
      call->fail(reason);
    });
  }
  toolchain_.when_known([this, call, request, streaming, cancelled] {
    if (!call->ended() || *cancelled) {
      admit(call, request, streaming, *cancelled);
    }
  });
}

void Executor::admit(const worker::CallPtr& call, const v1::CodeRequest& request, bool streaming,
                     const std::optional<Error>& cancelled) {
  const std::string name = request.language().empty() ? "python" : request.language();
  const Language* language = toolchain_.find(name);
  if (language == nullptr) {
    call->fail(make_error(ErrorCode::kValidation, "Unsupported language: " + name.substr(0, 64)));
    return;
  }
  auto run = std::make_shared<Run>(*this, call, request, *language, streaming);
  const Key key{request.session_id(), request.execution_id()};
  if (const auto known = runs_.find(key); known != runs_.end()) {
    const std::shared_ptr<Run> first = known->second;
    if (first->fingerprint() != run->fingerprint() || first->language() != language->name) {
      call->fail(make_error(ErrorCode::kConflict,
                            "execution_id: another execution of this session has it"));
      return;
    }
    first->when_started([this, run](const Result<void>& started) {
      if (run->call()->ended()) {
        return;
      }
      if (started) {
        follow(run);
      } else {
        run->call()->fail(started.error());
      }
    });
    return;
  }
  runs_[key] = run;
  run->prepare();
  if (cancelled) {
    run->cancel(*cancelled);
  }
  waiting_.push_back(run);
  start_waiting();
}

void Executor::start_waiting() {
  while (!waiting_.empty() && active_ < options_.capacity) {
    const std::shared_ptr<Run> run = std::move(waiting_.front());
    waiting_.pop_front();
    if (run->wanted()) {
      ++active_;
      run->begin();
    }
  }
}

// Not from within the end of another run.
void Executor::start_waiting_soon() {
  boost::asio::post(io_, [this, alive = std::weak_ptr(alive_)] {
    if (!alive.expired()) {
      start_waiting();
    }
  });
}

session::SessionOptions Executor::session_options(bool network) {
  session::SessionOptions options;
  options.network = network;
  options.limits = options_.limits;
  return options;
}

Result<std::string> Executor::claim_name(const std::string& session_id) {
  auto& taken = names_[session_id];
  for (std::size_t index = 0; index < kPerSession; ++index) {
    if (!taken[index]) {
      taken[index] = true;
      return prefix_ + "-" + std::to_string(index);
    }
  }
  Error error =
      make_error(ErrorCode::kBusy, "the session has as many executions at once as it may");
  error.limit = "executions";
  return error;
}

void Executor::give_back_name(const std::string& session_id, const std::string& name) {
  const auto found = names_.find(session_id);
  if (found == names_.end()) {
    return;
  }
  found->second[std::stoul(name.substr(prefix_.size() + 1))] = false;
  if (found->second.none()) {
    names_.erase(found);
  }
}

void Executor::follow(const std::shared_ptr<Run>& run) {
  Following following;
  following.call = run->call();
  following.ids = {run->request().execution_id(), run->request().session_id()};
  const v1::Resume* resume = run->call()->resume();
  if (run->streaming()) {
    following.offset = resume != nullptr ? resume->offset() : 0;
    following.sink = make_stream_sink(run->call(), executor(), following.ids,
                                      resume != nullptr && resume->sequence() > 0);
  } else {
    const auto& config = run->request().config();
    following.sink = make_collect_sink(
        run->call(), following.ids,
        config.has_max_output_size() ? config.max_output_size() : kDefaultMaxOutput);
  }
  following.fingerprint = run->fingerprint();
  following.language = run->language();
  following.began = true;
  follow_call(std::move(following));
}

void Executor::when_started(const std::string& session_id, const std::string& execution_id,
                            std::function<void(Result<void>)> callback) {
  if (!toolchain_.known()) {
    // Behind the runs that wait for the same.
    toolchain_.when_known([this, session_id, execution_id, callback = std::move(callback)] {
      when_started(session_id, execution_id, callback);
    });
    return;
  }
  if (const auto known = runs_.find({session_id, execution_id}); known != runs_.end()) {
    known->second->when_started(std::move(callback));
  } else {
    callback({});
  }
}

void Executor::attach(const worker::CallPtr& call, const v1::AttachRequest& request) {
  if (!is_valid_id(request.execution_id())) {
    call->fail(make_error(ErrorCode::kValidation, "execution_id: not a valid id"));
    return;
  }
  Following following;
  following.call = call;
  following.ids = {request.execution_id(), request.session_id()};
  const v1::Resume* resume = call->resume();
  const bool quiet = resume != nullptr && resume->sequence() > 0;
  following.began = resume != nullptr;
  following.offset = quiet ? std::max(resume->offset(), request.offset()) : request.offset();
  following.sink = make_stream_sink(call, executor(), following.ids, quiet);
  follow_call(std::move(following));
}

void Executor::follow_call(Following following) {
  Follower::Events events;
  events.attached = [following](const agent_v1::Attached& attached) {
    const Tag tag = decode_tag(attached.tag());
    if (!following.fingerprint.empty() &&
        (tag.fingerprint != following.fingerprint || tag.language != following.language)) {
      following.call->fail(make_error(ErrorCode::kConflict,
                                      "execution_id: another execution of this session has it"));
      return false;
    }
    following.sink->started(tag.language);
    return true;
  };
  events.done = [following](Result<agent_v1::Exited> result) {
    if (following.call->ended()) {
      return;
    }
    if (result) {
      following.sink->finish(outcome_of(*result));
    } else if (result.error().code == ErrorCode::kNotFound && following.began) {
      following.sink->fail(make_error(ErrorCode::kWorkerLost, "nothing is kept of the execution"));
    } else if (result.error().code == ErrorCode::kNotFound) {
      following.call->fail(make_error(ErrorCode::kNotFound, "execution_id: no such execution"));
    } else {
      following.sink->fail(result.error());
    }
  };
  auto follower = std::make_shared<Follower>(manager_, archive_, following.ids.execution_id,
                                             following.offset, following.sink, std::move(events));
  following.call->on_cancel([call = following.call, follower](Error reason) {
    follower->stop();
    call->fail(std::move(reason));
  });
  manager_.find(following.ids.session_id,
                [call = following.call, session_id = following.ids.session_id,
                 follower](const Result<session::SessionPtr>& session) {
                  if (call->ended()) {
                    return;
                  }
                  if (session) {
                    follower->start_own(*session);
                  } else if (session.error().code == ErrorCode::kNotFound) {
                    follower->start_kept(session_id);
                  } else {
                    call->fail(session.error());
                  }
                });
}

void Executor::on_started(const Run& run) { publish(run, "started", "running", nullptr); }

void Executor::on_ended(const std::shared_ptr<Run>& run, const Outcome* outcome) {
  const Key key{run->request().session_id(), run->request().execution_id()};
  const auto found = runs_.find(key);
  if (found == runs_.end() || found->second != run) {
    return;
  }
  runs_.erase(found);
  if (outcome != nullptr) {
    publish(*run, outcome->status == "cancelled" ? "cancelled" : "completed", outcome->status,
            outcome);
  }
  if (run->counted()) {
    --active_;
    start_waiting_soon();
  }
}

void Executor::on_orphaned(const std::shared_ptr<Run>&) {
  --active_;
  start_waiting_soon();
  watch_orphans();
}

void Executor::watch_orphans() {
  if (watching_) {
    return;
  }
  watching_ = true;
  orphan_timer_.expires_after(kOrphanInterval);
  orphan_timer_.async_wait(
      [this, alive = std::weak_ptr(alive_)](const boost::system::error_code& error) {
        if (error || alive.expired()) {
          return;
        }
        watching_ = false;
        std::set<std::string> sessions;
        for (const auto& [key, run] : runs_) {
          if (run->orphaned()) {
            sessions.insert(key.first);
          }
        }
        for (const std::string& session_id : sessions) {
          ask_for_ends(session_id);
        }
        if (!sessions.empty()) {
          watch_orphans();
        }
      });
}

void Executor::ask_for_ends(const std::string& session_id) {
  const auto end_where = [this, session_id](const agent_v1::Listing* listing) {
    std::vector<std::pair<std::shared_ptr<Run>, const agent_v1::Exited*>> ended;
    for (const auto& [key, run] : runs_) {
      if (key.first != session_id || !run->orphaned()) {
        continue;
      }
      const agent_v1::Listing::Entry* entry = nullptr;
      for (int index = 0; listing != nullptr && index < listing->entries_size(); ++index) {
        if (listing->entries(index).execution_id() == key.second) {
          entry = &listing->entries(index);
        }
      }
      if (entry == nullptr || !entry->running()) {
        ended.emplace_back(run, entry == nullptr ? nullptr : &entry->exited());
      }
    }
    for (const auto& [run, exited] : ended) {
      run->end_orphan(exited);
    }
  };
  manager_.find(
      session_id,
      [end_where](const Result<session::SessionPtr>& session) {
        if (!session) {
          if (session.error().code == ErrorCode::kNotFound) {
            end_where(nullptr);
          }
          return;
        }
        agent_v1::AgentRequest request;
        request.mutable_list();
        (*session)->agent().request(std::move(request), {},
                                    [end_where](const Result<agent_v1::AgentReply>& reply) {
                                      if (reply && reply->has_listing()) {
                                        end_where(&reply->listing());
                                      }
                                    });
      },
      false);
}

void Executor::publish(const Run& run, const std::string& topic, const std::string& status,
                       const Outcome* outcome) {
  if (!options_.publish) {
    return;
  }
  google::protobuf::Struct data;
  auto& fields = *data.mutable_fields();
  fields["execution_id"] = text_value(run.request().execution_id());
  fields["session_id"] = text_value(run.request().session_id());
  fields["language"] = text_value(run.language());
  fields["status"] = text_value(status);
  if (outcome != nullptr) {
    google::protobuf::Value null;
    null.set_null_value(google::protobuf::NULL_VALUE);
    fields["exit_code"] = outcome->exit_code ? number_value(*outcome->exit_code) : null;
    fields["signal"] = outcome->signal ? text_value(*outcome->signal) : null;
    fields["limit"] = outcome->limit ? text_value(*outcome->limit) : null;
    fields["execution_time"] = number_value(outcome->execution_time);
    fields["bytes"] = number_value(static_cast<double>(outcome->bytes));
  }
  options_.publish("code_execution." + topic, std::move(data));
}

}  // namespace runbus::execution
