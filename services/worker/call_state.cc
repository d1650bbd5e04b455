#include "services/worker/call_state.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <utility>

#include "proto/support/log.h"
#include "proto/wire/transcoder.h"

namespace runbus::worker {
namespace {

constexpr std::size_t kMaxDetail = 8U << 10U;

// ErrorBody.detail is a proto3 string: one bad byte would make the whole body unreadable.
std::string utf8_detail(std::string_view text) {
  std::string out;
  text = text.substr(0, kMaxDetail);
  while (!text.empty()) {
    bool incomplete = false;
    const std::size_t valid = wire::valid_utf8_prefix(text, incomplete);
    out.append(text.substr(0, valid));
    text.remove_prefix(valid);
    if (!text.empty()) {
      out.push_back('?');
      text.remove_prefix(1);
    }
  }
  return out;
}

zmq::message_t to_body(const google::protobuf::Message& message, std::size_t size) {
  zmq::message_t body(size);
  message.SerializeWithCachedSizesToArray(static_cast<std::uint8_t*>(body.data()));
  return body;
}

zmq::message_t to_body(const Error& error) {
  v1::ErrorBody body;
  body.set_code(static_cast<std::int32_t>(error.code));
  body.set_detail(utf8_detail(error.detail));
  body.set_limit(utf8_detail(error.limit));
  return to_body(body, body.ByteSizeLong());
}

}  // namespace

CallState::CallState(CallHost& host, const v1::Header& call, std::size_t link,
                     const google::protobuf::MethodDescriptor* method,
                     const google::protobuf::Message* prototype)
    : host_(&host),
      method_(method),
      prototype_(prototype),
      call_(call),
      link_(link),
      sequence_(call.resume().sequence()),
      handed_(sequence_),
      acknowledged_(sequence_),
      acknowledged_end_(call.resume().bytes()),
      queued_end_(acknowledged_end_),
      credit_(call.credit()),
      window_(call.has_resume() ? 0 : credit_) {}

void CallState::accept() {
  accept_due_ = true;
  // The answer of a harmless call, when it comes at once, says that it was accepted.
  if (!harmless()) {
    pump();
  }
}

bool CallState::harmless() const {
  return !refused() && !method_->server_streaming() &&
         method_->options().idempotency_level() == google::protobuf::MethodOptions::NO_SIDE_EFFECTS;
}

void CallState::grant(const v1::Header& header) {
  const std::uint64_t before = credit();
  credit_ = std::max(credit_, header.credit());
  acknowledge(header.sequence());
  pump();
  check_window();
  if (credit() > before) {
    tell_of_credit();
  }
}

void CallState::tell_of_credit() {
  if (ended_ || !credit_callback_ || credit_posted_) {
    return;
  }
  credit_posted_ = true;
  boost::asio::post(host_->io(), [self = shared_from_this()] {
    self->credit_posted_ = false;
    if (const auto callback = self->credit_callback_; callback && !self->ended_) {
      self->guarded(*callback);
    }
  });
}

void CallState::resend(std::size_t link, const v1::Header& call) {
  link_ = link;
  accept_due_ = !refused();
  settled_ = false;
  if (call.has_resume()) {
    acknowledge(call.resume().sequence());
    count_from(call.resume().bytes(), call.credit());
  } else {
    credit_ = std::max(credit_, call.credit());
  }
  if (forgotten_) {
    kept_.clear();
    if (acknowledged_ < sequence_) {
      Kept lost;
      lost.kind = v1::ERROR;
      lost.sequence = acknowledged_ + 1;
      lost.body = to_body(make_error(ErrorCode::kWorkerLost, "the answer is no longer kept"));
      kept_.push_back(std::move(lost));
    }
  }
  next_ = 0;
  pump();
  // What was granted while no broker was there comes with the call alone.
  if (credit() > 0) {
    tell_of_credit();
  }
}

void CallState::restored(std::size_t link) {
  if (link == link_) {
    settled_ = false;
    next_ = 0;
    pump();
  }
}

void CallState::pump() {
  if (host_ == nullptr || settled_) {
    return;
  }
  const bool answered_at_once = ended_ && sequence_ == 1 && next_ == 0;
  if (accept_due_ && !answered_at_once) {
    if (!transmit(v1::ACCEPTED, nullptr)) {
      return;
    }
    accept_due_ = false;
  }
  while (next_ < kept_.size()) {
    Kept& kept = kept_[next_];
    if ((kept.kind == v1::ITEM && kept.end > credit_) || !transmit(kept.kind, &kept)) {
      return;
    }
    handed_ = std::max(handed_, kept.sequence);
    ++next_;
  }
  if (ended_) {
    settled_ = true;
    const auto self = shared_from_this();
    host_->settled(*this);
  }
}

bool CallState::transmit(v1::Kind kind, Kept* kept) {
  // One after the other, so that its strings keep their memory.
  static thread_local v1::Header header;
  header.Clear();
  header.set_kind(kind);
  header.set_call_id(call_.call_id());
  header.set_origin(call_.origin());
  zmq::message_t body;
  if (kind == v1::ACCEPTED) {
    header.set_worker_id(host_->worker_id());
  }
  if (kept != nullptr) {
    header.set_sequence(kept->sequence);
    header.set_offset(kept->offset);
    body.copy(kept->body);  // shares the bytes
  }
  return host_->transmit(link_, header, std::move(body)).has_value();
}

void CallState::acknowledge(std::uint64_t sequence) {
  acknowledged_ = std::max(acknowledged_, std::min(sequence, handed_));
  while (!kept_.empty() && kept_.front().sequence <= acknowledged_) {
    acknowledged_end_ = kept_.front().end;
    kept_.pop_front();
    next_ -= next_ > 0 ? 1 : 0;
  }
}

void CallState::count_from(std::uint64_t bytes, std::uint64_t credit) {
  for (Kept& kept : kept_) {
    kept.end = kept.end - acknowledged_end_ + bytes;
  }
  queued_end_ = queued_end_ - acknowledged_end_ + bytes;
  acknowledged_end_ = bytes;
  credit_ = credit;
}

std::size_t CallState::kept_bytes() const {
  std::size_t bytes = 0;
  for (const Kept& kept : kept_) {
    bytes += kept.body.size() + sizeof(Kept);
  }
  return bytes;
}

void CallState::forget_answer() {
  forgotten_ = true;
  kept_.clear();
  next_ = 0;
}

void CallState::detach() {
  host_ = nullptr;
  ended_ = true;
  kept_.clear();
  next_ = 0;
  end();
}

std::optional<zmq::message_t> CallState::serialize(const google::protobuf::Message& message) {
  if (message.GetDescriptor() != method_->output_type()) {
    fail(internal_error("the handler sent a " + message.GetDescriptor()->full_name()));
    return std::nullopt;
  }
  const std::size_t size = message.ByteSizeLong();
  if (size > host_->max_body_bytes()) {
    Error error = make_error(ErrorCode::kQuota, "the answer has " + std::to_string(size) +
                                                    " bytes; the bus carries " +
                                                    std::to_string(host_->max_body_bytes()));
    error.limit = "body_size";
    fail(std::move(error));
    return std::nullopt;
  }
  return to_body(message, size);
}

void CallState::keep(v1::Kind kind, std::uint64_t offset, zmq::message_t body) {
  Kept kept;
  kept.kind = kind;
  kept.sequence = ++sequence_;
  kept.offset = offset;
  if (kind == v1::ITEM) {
    queued_end_ += body.size();
  }
  kept.end = queued_end_;
  kept.body = std::move(body);
  kept_.push_back(std::move(kept));
}

void CallState::finish(const google::protobuf::Message& response) {
  if (ended_) {
    return;
  }
  if (auto body = serialize(response)) {
    ended_ = true;
    keep(v1::RESULT, 0, std::move(*body));
    pump();
    check_window();
    end();
  }
}

void CallState::fail(Error error) {
  if (ended_) {
    return;
  }
  if (!error.internal.empty()) {
    spdlog::warn("call {} of {} failed: {}", printable(call_.call_id()), printable(call_.method()),
                 printable(to_string(error), 1000));
  }
  end_with(error);
}

void CallState::end_with(const Error& error) {
  drop_unsent();
  ended_ = true;
  keep(v1::ERROR, 0, to_body(error));
  pump();
  end();
}

// A message that no link was ever given has no number that the caller could know.
void CallState::drop_unsent() {
  while (!kept_.empty() && kept_.back().sequence > handed_) {
    if (kept_.back().kind == v1::ITEM) {
      queued_end_ -= kept_.back().body.size();
    }
    kept_.pop_back();
  }
  next_ = std::min(next_, kept_.size());
  sequence_ = handed_;
}

// The callbacks often hold the call itself; they go last, since this may run their owners'
// destructors.
void CallState::end() {
  const auto credit_callback = std::exchange(credit_callback_, nullptr);
  const auto cancel_callback = std::exchange(cancel_callback_, nullptr);
  const auto input_callback = std::exchange(input_callback_, nullptr);
  waiting_input_.clear();
  waiting_input_bytes_ = 0;
}

void CallState::send(const google::protobuf::Message& item, std::uint64_t offset) {
  if (ended_) {
    return;
  }
  if (!method_->server_streaming()) {
    fail(internal_error("the handler sent an item, but the method is not a stream"));
    return;
  }
  if (auto body = serialize(item)) {
    keep(v1::ITEM, offset, std::move(*body));
    pump();
    if (queued_end_ > credit_ && queued_end_ - credit_ > kMaxOverCredit) {
      fail(internal_error("the handler ignores credit"));
      return;
    }
    check_window();
  }
}

// An item larger than all the caller will ever grant would wait for ever. That is known once
// everything before it is acknowledged and the window is open as far as it was at the beginning.
void CallState::check_window() {
  if (settled_ || next_ >= kept_.size() || window_ == 0) {
    return;
  }
  const Kept& kept = kept_[next_];
  const std::uint64_t start = kept.end - kept.body.size();
  if (kept.kind != v1::ITEM || kept.sequence <= handed_ || kept.end <= credit_ ||
      kept.sequence != acknowledged_ + 1 || credit_ - std::min(credit_, start) < window_) {
    return;
  }
  Error error =
      make_error(ErrorCode::kInternal, "an item of " + std::to_string(kept.body.size()) +
                                           " bytes is larger than the caller's window of " +
                                           std::to_string(window_));
  error.limit = "window";
  spdlog::warn("call {} of {}: {}", printable(call_.call_id()), printable(call_.method()),
               error.detail);
  end_with(error);
}

std::uint64_t CallState::credit() const { return credit_ - std::min(credit_, queued_end_); }

std::chrono::system_clock::time_point deadline_of(const v1::Header& call) {
  // The clock counts nanoseconds in 64 bits: what lies after the year 2255 is never.
  constexpr std::uint64_t kFar = 9'000'000'000'000;
  if (call.deadline_ms() == 0 || call.deadline_ms() > kFar) {
    return std::chrono::system_clock::time_point::max();
  }
  return std::chrono::system_clock::time_point(std::chrono::milliseconds(call.deadline_ms()));
}

}  // namespace runbus::worker
