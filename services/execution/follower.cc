#include "services/execution/follower.h"

#include <algorithm>
#include <utility>

namespace runbus::execution {
namespace {

// Without a byte of progress between them.
constexpr int kMaxAttempts = 4;

}  // namespace

Follower::Follower(session::SessionManager& manager, session::LogArchive& archive,
                   std::string execution_id, std::uint64_t offset, std::shared_ptr<OutputSink> sink,
                   Events events)
    : manager_(manager),
      archive_(archive),
      manager_alive_(manager.alive()),
      execution_id_(std::move(execution_id)),
      position_(offset),
      sink_(std::move(sink)),
      events_(std::move(events)) {}

void Follower::start_shared(session::SessionPtr session) {
  session_ = std::move(session);
  session_id_ = session_->id();
  set_sink(std::move(sink_));
  attach(session_->shared_agent());
}

void Follower::start_own(session::SessionPtr session) {
  session_ = std::move(session);
  session_id_ = session_->id();
  own_ = true;
  set_sink(std::move(sink_));
  client_ = session_->connect([self = shared_from_this()](const Result<void>& ready) {
    if (self->stopped_) {
      return;
    }
    if (!ready) {
      self->on_lost(make_error(ErrorCode::kConnection, "the session's agent cannot be reached",
                               to_string(ready.error())));
    } else {
      self->attach(self->client_);
    }
  });
}

void Follower::start_kept(const std::string& session_id) {
  session_id_ = session_id;
  set_sink(std::move(sink_));
  look_in_archive(make_error(ErrorCode::kNotFound, "no such execution"));
}

void Follower::set_sink(std::shared_ptr<OutputSink> sink) {
  sink_ = std::move(sink);
  sink_->on_room([weak = weak_from_this()] {
    if (const auto self = weak.lock(); self && !self->stopped_) {
      self->grant();
    }
  });
  grant();
}

void Follower::stop() {
  if (std::exchange(stopped_, true)) {
    return;
  }
  events_ = {};
  if (replay_) {
    replay_->stop();
  }
  if (client_) {
    client_->detach(execution_id_);
    if (own_) {
      client_->close();
    }
  }
}

void Follower::attach(std::shared_ptr<session::AgentClient> client) {
  client_ = std::move(client);
  received_ = 0;
  granted_ = sink_->room();
  client_->attach(execution_id_, position_, granted_, shared_from_this());
}

void Follower::on_attached(const session::agent_v1::Attached& attached) {
  if (stopped_ || std::exchange(known_, true)) {
    return;
  }
  // A copy, since it may stop this.
  const auto wanted = events_.attached;
  if (wanted && !wanted(attached)) {
    stop();
  }
  if (!stopped_) {
    grant();
  }
}

void Follower::on_output(int stream, std::uint64_t offset, std::string_view bytes) {
  if (stopped_) {
    return;
  }
  received_ += bytes.size();
  attempts_ = 0;
  if (offset > position_) {
    sink_->gap(position_, offset);
  } else if (offset < position_) {
    const std::uint64_t seen = std::min<std::uint64_t>(position_ - offset, bytes.size());
    bytes.remove_prefix(seen);
    offset += seen;
  }
  if (!bytes.empty()) {
    position_ = offset + bytes.size();
    sink_->output(stream, offset, bytes);
  }
  grant();
}

void Follower::on_gap(std::uint64_t from, std::uint64_t to) {
  if (!stopped_ && to > position_) {
    sink_->gap(std::max(from, position_), to);
    position_ = to;
  }
}

void Follower::on_exited(const session::agent_v1::Exited& exited) {
  if (!stopped_) {
    finish(exited);
  }
}

void Follower::on_lost(const Error& error) {
  if (stopped_) {
    return;
  }
  const bool broken = error.code == ErrorCode::kConnection || error.code == ErrorCode::kTimeout;
  if (error.code == ErrorCode::kNotFound) {
    // Of an earlier sandbox of the session, perhaps.
    look_in_archive(known_ ? make_error(ErrorCode::kWorkerLost, "the execution is no longer kept")
                           : error);
  } else if (!broken) {
    finish(error);
  } else if (++attempts_ > kMaxAttempts) {
    finish(make_error(ErrorCode::kWorkerLost, "the session's agent cannot be reached"));
  } else {
    reconnect();
  }
}

void Follower::reconnect() {
  if (own_ && client_) {
    client_->close();
  }
  client_ = nullptr;
  if (manager_alive_.expired()) {
    stop();
    return;
  }
  manager_.find(session_id_, [self = shared_from_this()](Result<session::SessionPtr> found) {
    if (self->stopped_) {
      return;
    }
    if (!found) {
      if (found.error().code == ErrorCode::kNotFound) {
        self->look_in_archive(
            make_error(ErrorCode::kWorkerLost, "the session's sandbox has ended"));
      } else {
        self->finish(found.error());
      }
    } else if (self->own_) {
      self->start_own(*found);
    } else {
      self->start_shared(*found);
    }
  });
}

void Follower::look_in_archive(const Error& otherwise) {
  if (own_ && client_) {
    client_->close();
  }
  client_ = nullptr;
  session_ = nullptr;
  if (manager_alive_.expired()) {
    stop();
    return;
  }
  archive_.open(session_id_, execution_id_,
                [self = shared_from_this(), otherwise](const Result<session::KeptLogPtr>& log) {
                  if (self->stopped_) {
                    return;
                  }
                  if (log) {
                    self->replay(*log);
                  } else {
                    self->finish(otherwise);
                  }
                });
}

void Follower::replay(const session::KeptLogPtr& log) {
  if (position_ > log->end_offset && !known_) {
    finish(make_error(ErrorCode::kValidation,
                      "offset is beyond the end, " + std::to_string(log->end_offset)));
    return;
  }
  received_ = 0;
  granted_ = sink_->room();
  replay_ =
      std::make_shared<session::LogReplay>(archive_, log, position_, granted_, shared_from_this());
  replay_->start();
}

void Follower::grant() {
  if ((!client_ && !replay_) || !known_) {
    return;
  }
  const std::uint64_t target = received_ + sink_->room();
  const std::uint64_t left = granted_ - std::min(granted_, received_);
  // Not for every write of the program: when half of what the agent may send is used up.
  if (target > granted_ && (target - granted_ >= left || left == 0)) {
    granted_ = target;
    if (replay_) {
      replay_->grant(granted_);
    } else {
      client_->grant(execution_id_, granted_);
    }
  }
}

void Follower::finish(Result<session::agent_v1::Exited> result) {
  stopped_ = true;
  if (own_ && client_) {
    client_->close();
  }
  const Events events = std::exchange(events_, {});
  if (events.done) {
    events.done(std::move(result));
  }
}

}  // namespace runbus::execution
