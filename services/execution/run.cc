#include "services/execution/run.h"

#include <signal.h>

#include <algorithm>
#include <utility>

namespace runbus::execution {
namespace {

namespace agent_v1 = session::agent_v1;

constexpr std::size_t kFilePart = 1U << 20U;
constexpr std::size_t kInputPart = 256U << 10U;
// Files that go with Spawn instead of ahead of it: one turn of the agent less.
constexpr std::size_t kFilesWithSpawn = 256U << 10U;
constexpr std::chrono::milliseconds kMaxInputDelay{100};
constexpr int kMaxAttempts = 3;

bool is_broken(const Error& error) {
  return error.code == ErrorCode::kConnection || error.code == ErrorCode::kTimeout;
}

}  // namespace

Run::Run(RunHost& host, worker::CallPtr call, v1::CodeRequest request, Language language,
         bool streaming)
    : host_(host),
      call_(std::move(call)),
      request_(std::move(request)),
      language_(std::move(language)),
      streaming_(streaming),
      fingerprint_(execution::fingerprint(request_)) {}

void Run::prepare() {
  const SinkIds ids{request_.execution_id(), request_.session_id()};
  const v1::Resume* resume = call_->resume();
  look_first_ = resume != nullptr;
  may_have_begun_ = resume != nullptr && resume->sequence() > 0;
  if (streaming_) {
    sink_ =
        make_stream_sink(call_, host_.executor(), ids, resume != nullptr && resume->sequence() > 0);
  } else {
    const auto& config = request_.config();
    sink_ = make_collect_sink(
        call_, ids, config.has_max_output_size() ? config.max_output_size() : kDefaultMaxOutput);
  }
  call_->on_cancel([self = shared_from_this()](const Error& reason) { self->cancel(reason); });
}

// It ran in a sandbox that has gone.
bool Run::kept() const {
  return host_.archive().has(request_.session_id(), request_.execution_id());
}

void Run::begin() {
  begun_ = true;
  if (kept()) {
    hand_over();  // not again
  } else {
    open();
  }
}

// The call gets what there is of the execution; this run starts nothing.
void Run::hand_over() {
  stage_ = Stage::kEnding;
  tell_started({});
  if (!call_->ended()) {
    host_.follow(shared_from_this());
  }
  end(nullptr);
}

void Run::open() {
  stage_ = Stage::kOpening;
  if (session::SessionPtr session = host_.manager().get_open(request_.session_id())) {
    opened(std::move(session));
    return;
  }
  auto callback = [self = shared_from_this()](Result<session::SessionPtr> session) {
    self->opened(std::move(session));
  };
  if (may_have_begun_ || (call_->resume() != nullptr && !nowhere_)) {
    host_.manager().find(request_.session_id(), std::move(callback));
  } else {
    host_.manager().find_or_create(request_.session_id(),
                                   host_.session_options(request_.config().network() == "full"),
                                   std::move(callback));
  }
}

void Run::opened(Result<session::SessionPtr> session) {
  if (stage_ != Stage::kOpening) {
    return;
  }
  if (!session) {
    const bool not_found = session.error().code == ErrorCode::kNotFound;
    if (not_found && !may_have_begun_ && !nowhere_ && !kept() && kill_reason_.empty()) {
      // The worker that had accepted it died before the session had a sandbox.
      nowhere_ = true;
      open();
    } else if (not_found && !gone_) {
      hand_over();
    } else {
      fail(session.error());
    }
    return;
  }
  session_ = std::move(*session);
  if (name_.empty()) {
    auto name = host_.claim_name(request_.session_id());
    if (!name) {
      fail(name.error());
      return;
    }
    name_ = std::move(*name);
    plan_ = make_plan(request_, language_, name_, streaming_);
    // Files must not be written under the feet of the same execution started by another worker.
    look_first_ = look_first_ || plan_.has_user_files;
  }
  fill_spawn();
  if (look_first_) {
    look();
  } else {
    write();
  }
}

void Run::fill_spawn() {
  const auto environment = environment_of(language_, session_->workspace(),
                                          session_->record().environment, request_.config());
  for (auto& step : *plan_.spawn.mutable_steps()) {
    step.clear_environment();
    for (const std::string& line : environment) {
      step.add_environment(line);
    }
    step.mutable_limits()->set_file_size(session_->record().limits.disk);
  }
}

std::shared_ptr<Follower> Run::make_follower(
    std::function<bool(const agent_v1::Attached&)> attached) {
  const v1::Resume* resume = call_->resume();
  const std::uint64_t offset = streaming_ && resume != nullptr ? resume->offset() : 0;
  Follower::Events events;
  events.attached = std::move(attached);
  events.done = [self = shared_from_this()](Result<agent_v1::Exited> result) {
    self->done(std::move(result));
  };
  return std::make_shared<Follower>(host_.manager(), host_.archive(), request_.execution_id(),
                                    offset, sink_, std::move(events));
}

void Run::look() {
  follower_ = make_follower([self = shared_from_this()](const agent_v1::Attached& attached) {
    return self->adopt(attached);
  });
  follower_->start_shared(session_);
}

bool Run::adopt(const agent_v1::Attached& attached) {
  const Tag tag = decode_tag(attached.tag());
  if (tag.fingerprint != fingerprint_ || tag.language != language_.name) {
    fail(
        make_error(ErrorCode::kConflict, "execution_id: another execution of this session has it"));
    return false;
  }
  if (request_.has_stdin()) {
    // How much an earlier worker had sent is not known; a program must not wait for the rest for
    // ever.
    input_sent_ = request_.stdin().size();
  }
  running();
  return true;
}

void Run::write() {
  if (session_->over_quota()) {
    Error error = make_error(ErrorCode::kQuota,
                             "the session's workspace is as large as it may be (" +
                                 std::to_string(session_->record().limits.disk) + " bytes)");
    error.limit = "disk";
    fail(std::move(error));
    return;
  }
  if (files_go_with_spawn()) {
    spawn();
    return;
  }
  stage_ = Stage::kWriting;
  writes_left_ = 1;
  write_error_.reset();
  const auto written_part = [self = shared_from_this()](const Result<agent_v1::AgentReply>& reply) {
    if (!reply && !self->write_error_) {
      self->write_error_ = reply.error();
    }
    self->written();
  };
  for (const auto& [path, content] : plan_.files) {
    std::size_t position = 0;
    do {
      agent_v1::AgentRequest request;
      request.mutable_write_file()->set_path(path);
      request.mutable_write_file()->set_append(position > 0);
      std::string part = content.substr(position, kFilePart);
      position += part.size();
      ++writes_left_;
      session_->agent().request(std::move(request), std::move(part), written_part);
    } while (position < content.size());
  }
  written();
}

bool Run::files_go_with_spawn() const {
  std::size_t size = 0;
  for (const auto& [path, content] : plan_.files) {
    size += path.size() + content.size();
  }
  return size <= kFilesWithSpawn;
}

void Run::written() {
  if (--writes_left_ > 0 || stage_ != Stage::kWriting) {
    return;
  }
  if (!write_error_) {
    spawn();
  } else if (is_broken(*write_error_)) {
    retry();
  } else {
    Error error = *write_error_;
    error.detail = "writing the files: " + error.detail;
    fail(std::move(error));
  }
}

void Run::spawn() {
  stage_ = Stage::kSpawning;
  may_have_begun_ = true;
  agent_v1::AgentRequest request;
  *request.mutable_spawn() = plan_.spawn;
  if (files_go_with_spawn()) {
    for (const auto& [path, content] : plan_.files) {
      auto& file = *request.mutable_spawn()->add_files();
      file.set_path(path);
      file.set_content(content);
    }
  }
  session_->agent().request(std::move(request), {},
                            [self = shared_from_this()](const Result<agent_v1::AgentReply>& reply) {
                              self->spawned(reply);
                            });
  if (!gone_) {
    follower_ = make_follower(nullptr);
    follower_->start_shared(session_);
  }
  session_->agent().flush();  // ahead of what else this turn of the loop sends: ACCEPTED
}

void Run::spawned(const Result<agent_v1::AgentReply>& reply) {
  if (stage_ != Stage::kSpawning) {
    return;
  }
  if (reply) {
    host_.on_started(*this);
    running();
    return;
  }
  if (follower_) {
    follower_->stop();
    follower_ = nullptr;
  }
  if (is_broken(reply.error())) {
    retry();
  } else if (reply.error().code == ErrorCode::kConflict && !gone_) {
    hand_over();
  } else {
    fail(reply.error());
  }
}

void Run::running() {
  stage_ = Stage::kRunning;
  tell_started({});
  if (request_.has_stdin()) {
    feed_input();
  }
  if (!kill_reason_.empty()) {
    kill(kill_reason_);
  } else if (gone_) {
    orphan();
  } else {
    sink_->started(language_.name);
    oom_kills_ = session_->oom_kills();
  }
}

// The agent takes what fits into the pipe and a bounded queue, and does not say when there is room
// again.
void Run::feed_input() {
  if (stage_ != Stage::kRunning && stage_ != Stage::kOrphaned) {
    return;
  }
  std::string part = request_.stdin().substr(input_sent_, kInputPart);
  const std::size_t size = part.size();
  const bool last = input_sent_ + size == request_.stdin().size();
  agent_v1::AgentRequest request;
  request.mutable_input()->set_execution_id(request_.execution_id());
  request.mutable_input()->set_eof(last);
  session_->agent().request(
      std::move(request), std::move(part),
      [self = shared_from_this(), size, last](const Result<agent_v1::AgentReply>& reply) {
        if (!reply || !reply->has_input_taken()) {
          return;  // the program has closed its input or has ended
        }
        const std::size_t taken = std::min<std::size_t>(reply->input_taken().bytes(), size);
        self->input_sent_ += taken;
        if (taken == size && last) {
          return;
        }
        if (taken == size) {
          self->input_delay_ = {};
          self->feed_input();
          return;
        }
        self->input_delay_ =
            std::min(kMaxInputDelay, self->input_delay_ * 2 + std::chrono::milliseconds(2));
        self->input_timer_ =
            std::make_unique<boost::asio::steady_timer>(self->host_.executor(), self->input_delay_);
        self->input_timer_->async_wait([self](const boost::system::error_code& error) {
          if (!error) {
            self->feed_input();
          }
        });
      });
}

void Run::retry() {
  if (++attempts_ > kMaxAttempts) {
    fail(make_error(ErrorCode::kUnavailable, "the session's agent cannot be reached"));
    return;
  }
  look_first_ = look_first_ || may_have_begun_;
  open();
}

void Run::done(Result<agent_v1::Exited> result) {
  follower_ = nullptr;
  if (!result) {
    if (stage_ == Stage::kOpening && result.error().code == ErrorCode::kNotFound) {
      // Looked for, not there: it is ours to start, unless it was started and has been forgotten.
      if (may_have_begun_) {
        fail(make_error(ErrorCode::kWorkerLost, "the execution is no longer kept"));
      } else if (!kill_reason_.empty()) {
        fail(make_error(ErrorCode::kCancelled));
      } else {
        write();
      }
    } else if (stage_ == Stage::kRunning && !call_->ended()) {
      sink_->fail(result.error());
      end(nullptr);
    } else if (stage_ != Stage::kSpawning) {
      fail(result.error());
    }
    return;  // while spawning, the answer to Spawn tells more
  }
  stage_ = Stage::kEnding;
  Outcome outcome = outcome_of(*result);
  if (result->signal() == SIGKILL && outcome.status == "failed" && !outcome.limit && oom_kills_ &&
      session_->oom_kills() > *oom_kills_) {
    outcome.limit = "memory";
  }
  if (!call_->ended()) {
    sink_->finish(outcome);
  }
  end(&outcome);
}

void Run::cancel(const Error& reason) {
  if (!call_->ended()) {
    call_->fail(reason);
  }
  sink_ = make_null_sink();
  if (reason.code == ErrorCode::kConnection) {
    gone_ = true;
    if (stage_ == Stage::kRunning) {
      orphan();
    }
    return;
  }
  kill_reason_ = reason.code == ErrorCode::kTimeout ? "timeout" : "cancelled";
  if (stage_ == Stage::kRunning) {
    kill(kill_reason_);
  } else if (!may_have_begun_ && call_->resume() == nullptr && stage_ < Stage::kSpawning) {
    fail(reason);
  }  // else there may be a program: it is looked for, or is being started
}

void Run::kill(const std::string& reason) {
  agent_v1::AgentRequest request;
  request.mutable_kill()->set_execution_id(request_.execution_id());
  request.mutable_kill()->set_reason(reason);
  session_->agent().request(std::move(request), {}, nullptr);
  // Its end still counts: read on to it, past all output.
  if (follower_) {
    follower_->set_sink(sink_);
  }
}

void Run::orphan() {
  stage_ = Stage::kOrphaned;
  left_ = true;
  if (follower_) {
    follower_->stop();
    follower_ = nullptr;
  }
  host_.on_orphaned(shared_from_this());
}

void Run::abandon() {
  stage_ = Stage::kEnded;
  call_->on_cancel(nullptr);  // it holds this run, which holds the call
  sink_ = nullptr;
  waiting_.clear();
  input_timer_.reset();
  if (follower_) {
    follower_->stop();
    follower_ = nullptr;
  }
}

void Run::end_orphan(const agent_v1::Exited* exited) {
  if (stage_ != Stage::kOrphaned) {
    return;
  }
  if (exited == nullptr) {
    end(nullptr);
    return;
  }
  const Outcome outcome = outcome_of(*exited);
  end(&outcome);
}

void Run::fail(Error error) {
  if (stage_ == Stage::kEnded) {
    return;
  }
  if (follower_) {
    follower_->stop();
    follower_ = nullptr;
  }
  tell_started(error);
  if (!call_->ended()) {
    call_->fail(std::move(error));
  }
  end(nullptr);
}

void Run::end(const Outcome* outcome) {
  stage_ = Stage::kEnded;
  const auto self = shared_from_this();
  if (!name_.empty()) {
    host_.give_back_name(request_.session_id(), name_);
  }
  input_timer_.reset();
  sink_ = nullptr;
  host_.on_ended(self, outcome);
  session_ = nullptr;
}

void Run::when_started(std::function<void(Result<void>)> callback) {
  if (stage_ < Stage::kRunning) {
    waiting_.push_back(std::move(callback));
  } else {
    callback({});
  }
}

void Run::tell_started(const Result<void>& result) {
  for (const auto& callback : std::exchange(waiting_, {})) {
    callback(result);
  }
}

}  // namespace runbus::execution
