#include "services/agent/agent.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "services/agent/attachment.h"
#include "services/agent/identity.h"

namespace runbus::agent {
namespace {

// Large enough that a fast program costs few turns, small enough that others get theirs.
constexpr std::size_t kBufferSize = 256 * 1024;
constexpr std::chrono::milliseconds kDefaultResultTtl{60'000};
constexpr std::chrono::milliseconds kAcceptAgain{100};
// Not beside a sandbox's first run.
constexpr std::chrono::milliseconds kPrepareDelay{50};
constexpr std::chrono::milliseconds kEndPatience{5'000};
constexpr std::uint64_t kLongestMs = 365ULL * 24 * 3600 * 1000;

}  // namespace

Agent::Agent(Options options)
    : reaper_(loop_, [this] { loop_.stop(0); }),
      workspace_(options.workspace),
      warm_(loop_, reaper_, options.workspace),
      spawner_(workspace_, warm_),
      listen_(std::move(options.listen)),
      log_directory_(std::move(options.log_directory)),
      accept_again_(loop_),
      forget_timer_(loop_),
      idle_timer_(loop_),
      prepare_timer_(loop_),
      buffer_(kBufferSize),
      most_log_space_(options.log_space),
      log_space_{.limit = options.log_space, .used = 0, .on_full = [this] { make_log_room(); }},
      services_{loop_, reaper_, spawner_, buffer_, log_space_, log_directory_.get(), next_log_},
      result_ttl_(kDefaultResultTtl) {
  if (listen_ &&
      !listen_watch_.open(loop_, listen_.get(), EPOLLIN, [this](std::uint32_t) { accept(); })) {
    throw std::system_error(errno, std::generic_category(), "listening socket");
  }
  prepare_timer_.after(kPrepareDelay, [this] { prepare(); });
}

Agent::~Agent() = default;

int Agent::run() {
  const int code = loop_.run();
  connections_.clear();
  reaper_.kill_everything(kEndPatience);
  return code;
}

// ---- connections -------------------------------------------------------------------------------

void Agent::serve(UniqueFd input, UniqueFd output) {
  if (!add_connection(std::move(input), std::move(output))) {
    throw std::system_error(errno, std::generic_category(), "standard input or output");
  }
}

bool Agent::add_connection(UniqueFd input, UniqueFd output) {
  const std::uint64_t id = next_connection_++;
  auto connection =
      std::make_unique<Connection>(loop_, *this, id, std::move(input), std::move(output));
  if (!connection->start()) {
    return false;
  }
  connections_.emplace(id, std::move(connection));
  update_listening();
  update_idle();
  return true;
}

void Agent::accept() {
  UniqueFd peer(::accept4(listen_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (!peer) {
    if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
      // The peer waits in the backlog; without a pause this would spin.
      listen_watch_.set(0);
      accept_again_.after(kAcceptAgain, [this] { update_listening(); });
    }
    return;
  }
  add_connection(std::move(peer), UniqueFd());
}

void Agent::update_listening() {
  listen_watch_.set(connections_.size() < kMaxConnections ? static_cast<std::uint32_t>(EPOLLIN)
                                                          : 0);
}

void Agent::on_closed(Connection& connection) {
  loop_.post([this, id = connection.id()] {
    connections_.erase(id);
    update_listening();
    update_idle();
    if (!listen_ && connections_.empty()) {
      // Nobody can come back.
      loop_.stop(0);
    }
  });
}

// ---- requests ----------------------------------------------------------------------------------

void Agent::on_request(Connection& connection, const v1::AgentRequest& request,
                       std::string_view payload) {
  const std::uint64_t id = request.request_id();
  switch (request.request_case()) {
    case v1::AgentRequest::kHello: {
      v1::AgentReply reply;
      reply.mutable_welcome()->set_version(RUNBUS_VERSION);
      reply.mutable_welcome()->set_pid(static_cast<std::uint32_t>(::getpid()));
      connection.answer(id, std::move(reply));
      break;
    }
    case v1::AgentRequest::kWriteFile: {
      const v1::WriteFile& file = request.write_file();
      if (const auto failure =
              workspace_.write_file(file.path(), file.mode(), file.append(), payload)) {
        connection.answer_failed(id, *failure);
      } else {
        connection.answer_done(id);
      }
      break;
    }
    case v1::AgentRequest::kSpawn:
      spawn(connection, id, request.spawn());
      break;
    case v1::AgentRequest::kAttach:
      attach(connection, id, request.attach());
      break;
    case v1::AgentRequest::kCredit:
      credit(connection, id, request.credit());
      break;
    case v1::AgentRequest::kDetach:
      connection.detach(request.detach().execution_id());
      connection.answer_done(id);
      break;
    case v1::AgentRequest::kInput:
      input(connection, id, request.input(), payload);
      break;
    case v1::AgentRequest::kSignal:
      signal(connection, id, request.signal());
      break;
    case v1::AgentRequest::kKill:
      kill(connection, id, request.kill());
      break;
    case v1::AgentRequest::kList:
      list(connection, id);
      break;
    case v1::AgentRequest::kForget:
      forget(connection, id, request.forget());
      break;
    case v1::AgentRequest::kConfigure:
      configure(request.configure());
      connection.answer_done(id);
      break;
    case v1::AgentRequest::kShutdown:
      connection.answer_done(id);
      loop_.stop(0);
      break;
    case v1::AgentRequest::REQUEST_NOT_SET:
      connection.answer_failed(
          id, invalid("the request is empty or of a kind this agent does not know"));
      break;
  }
}

Execution* Agent::find(Connection& connection, std::uint64_t request_id, const std::string& id) {
  const auto found = executions_.find(id);
  if (found == executions_.end()) {
    connection.answer_failed(request_id, {v1::Failed::NOT_FOUND, "no such execution", 0});
    return nullptr;
  }
  return found->second.get();
}

void Agent::spawn(Connection& connection, std::uint64_t request_id, const v1::Spawn& request) {
  if (const auto failure = Execution::check(request)) {
    connection.answer_failed(request_id, *failure);
    return;
  }
  const std::string& id = request.execution_id();
  if (executions_.contains(id)) {
    connection.answer_failed(request_id, {v1::Failed::EXISTS, "the execution id is taken", 0});
    return;
  }
  if (executions_.size() >= kMaxExecutions) {
    if (ended_.empty()) {
      connection.answer_failed(request_id, {v1::Failed::LIMIT, "too many executions", 0});
      return;
    }
    drop(ended_.front());
  }
  if (auto failure = write_files(request)) {
    connection.answer_failed(request_id, *failure);
    return;
  }
  Execution::Callbacks callbacks;
  callbacks.on_started = [this, id, connection_id = connection.id(),
                          request_id](std::optional<Failure> failure) {
    on_started(id, connection_id, request_id, std::move(failure));
  };
  callbacks.on_ended = [this, id] { on_ended(id); };
  v1::Spawn kept = request;
  kept.clear_files();
  auto execution = std::make_unique<Execution>(services_, std::move(kept), std::move(callbacks));
  if (const auto failure = execution->start()) {
    connection.answer_failed(request_id, *failure);
    return;
  }
  executions_.emplace(id, std::move(execution));
  update_idle();
}

std::optional<Failure> Agent::write_files(const v1::Spawn& request) const {
  for (const v1::SpawnFile& file : request.files()) {
    if (auto failure = workspace_.write_file(file.path(), file.mode(), false, file.content())) {
      failure->detail = "writing the files: " + failure->detail;
      return failure;
    }
  }
  return std::nullopt;
}

void Agent::on_started(const std::string& id, std::uint64_t connection_id, std::uint64_t request_id,
                       std::optional<Failure> failure) {
  const auto connection = connections_.find(connection_id);
  if (connection != connections_.end()) {
    if (failure) {
      connection->second->answer_failed(request_id, *failure);
    } else {
      connection->second->answer_done(request_id);
    }
  }
  if (failure) {
    // We are called from within it.
    loop_.post([this, id = id] {
      drop(id);
      update_idle();
    });
  }
}

void Agent::on_ended(const std::string& id) {
  ended_.push_back(id);
  loop_.post([this] {
    forget_old();
    update_idle();
  });
  // When its end has been sent.
  prepare_timer_.after(std::chrono::milliseconds(0), [this] { prepare(); });
}

// What a file system may take its time for, ahead of the run that needs it.
void Agent::prepare() {
  if (executions_.size() >= kMaxExecutions && ended_.size() > 1) {
    drop(ended_.front());  // the next one gets its place, and its folder
  }
  const AsAgent owner;
  next_log_.make(log_directory_.get());
}

void Agent::attach(Connection& connection, std::uint64_t request_id, const v1::Attach& request) {
  Execution* const execution = find(connection, request_id, request.execution_id());
  if (execution == nullptr) {
    return;
  }
  const log::OutputLog& log = execution->log();
  if (request.offset() > log.end_offset()) {
    connection.answer_failed(
        request_id, invalid("offset is beyond the end, " + std::to_string(log.end_offset())));
    return;
  }
  v1::AgentReply reply;
  v1::Attached& attached = *reply.mutable_attached();
  attached.set_execution_id(execution->id());
  attached.set_first_offset(log.first_offset());
  attached.set_end_offset(log.end_offset());
  attached.set_running(!execution->ended());
  attached.set_tag(execution->tag());
  connection.answer(request_id, std::move(reply));
  connection.attach(
      execution->id(),
      std::make_unique<Attachment>(connection, *execution, request.offset(), request.credit()));
  connection.pump();
}

void Agent::credit(Connection& connection, std::uint64_t request_id, const v1::Credit& request) {
  Attachment* const attachment = connection.attachment(request.execution_id());
  if (attachment == nullptr) {
    // Usual after Exited, which may have crossed this on its way.
    connection.answer_failed(request_id, {v1::Failed::NOT_FOUND, "not attached", 0});
    return;
  }
  attachment->grant(request.credit());
  connection.answer_done(request_id);
  connection.pump();
}

void Agent::input(Connection& connection, std::uint64_t request_id, const v1::Input& request,
                  std::string_view payload) {
  Execution* const execution = find(connection, request_id, request.execution_id());
  if (execution == nullptr) {
    return;
  }
  const auto taken = execution->input(payload, request.eof());
  if (const auto* failure = std::get_if<Failure>(&taken)) {
    connection.answer_failed(request_id, *failure);
    return;
  }
  v1::AgentReply reply;
  reply.mutable_input_taken()->set_bytes(std::get<std::size_t>(taken));
  connection.answer(request_id, std::move(reply));
}

void Agent::signal(Connection& connection, std::uint64_t request_id, const v1::Signal& request) {
  if (Execution* const execution = find(connection, request_id, request.execution_id())) {
    if (const auto failure = execution->signal(request.signal())) {
      connection.answer_failed(request_id, *failure);
    } else {
      connection.answer_done(request_id);
    }
  }
}

void Agent::kill(Connection& connection, std::uint64_t request_id, const v1::Kill& request) {
  if (Execution* const execution = find(connection, request_id, request.execution_id())) {
    const bool disk = request.limit() == "disk";
    execution->kill(request.reason(), request.reason() == "timeout" ? "time" : disk ? "disk" : "");
    connection.answer_done(request_id);
  }
}

void Agent::list(Connection& connection, std::uint64_t request_id) {
  v1::AgentReply reply;
  v1::Listing& listing = *reply.mutable_listing();
  for (const auto& [id, execution] : executions_) {
    v1::Listing::Entry& entry = *listing.add_entries();
    entry.set_execution_id(id);
    entry.set_first_offset(execution->log().first_offset());
    entry.set_end_offset(execution->log().end_offset());
    entry.set_running(!execution->ended());
    entry.set_tag(execution->tag());
    entry.set_started_ms(execution->started_ms());
    if (execution->ended()) {
      *entry.mutable_exited() = execution->exited();
    }
  }
  connection.answer(request_id, std::move(reply));
}

void Agent::forget(Connection& connection, std::uint64_t request_id, const v1::Forget& request) {
  Execution* const execution = find(connection, request_id, request.execution_id());
  if (execution == nullptr) {
    return;
  }
  if (!execution->ended()) {
    connection.answer_failed(request_id, invalid("the execution has not ended"));
    return;
  }
  drop(request.execution_id());
  connection.answer_done(request_id);
}

void Agent::configure(const v1::Configure& request) {
  // Nothing of ours runs while nothing runs, so pausing (pause_after_ms) is the engine's to do: it
  // freezes the sandbox as a whole, the agent included.
  destroy_after_ = std::chrono::milliseconds(std::min(request.destroy_after_ms(), kLongestMs));
  result_ttl_ = request.result_ttl_ms() == 0
                    ? kDefaultResultTtl
                    : std::chrono::milliseconds(std::min(request.result_ttl_ms(), kLongestMs));
  warm_.configure(request.warm());
  log_space_.limit =
      request.log_space() == 0 ? most_log_space_ : std::min(most_log_space_, request.log_space());
  forget_old();
  make_log_room();
  update_idle();
}

// ---- what is kept, and for how long -------------------------------------------------------------

void Agent::drop(std::string id) {
  const auto found = executions_.find(id);
  if (found != executions_.end()) {
    found->second->remove_log();
    executions_.erase(found);
    std::erase(ended_, id);
  }
}

void Agent::forget_old() {
  const auto forget_at = [this] {
    return executions_.at(ended_.front())->ended_at() + result_ttl_;
  };
  while (!ended_.empty() && forget_at() <= Clock::now()) {
    drop(ended_.front());
  }
  if (!ended_.empty()) {
    forget_timer_.at(forget_at(), [this] { forget_old(); });
  }
}

void Agent::make_log_room() {
  // The last one stays in any case: somebody is about to read it.
  while (log_space_.used > log_space_.limit && ended_.size() > 1) {
    drop(ended_.front());
  }
}

void Agent::update_idle() {
  const bool idle =
      connections_.empty() && std::all_of(executions_.begin(), executions_.end(),
                                          [](const auto& item) { return item.second->ended(); });
  if (!idle || destroy_after_ == std::chrono::milliseconds(0)) {
    idle_timer_.cancel();
  } else if (!idle_timer_.armed()) {
    idle_timer_.after(destroy_after_, [this] { loop_.stop(0); });
  }
}

}  // namespace runbus::agent
