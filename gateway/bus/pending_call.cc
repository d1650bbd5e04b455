#include "gateway/bus/pending_call.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "proto/support/id.h"
#include "proto/support/log.h"

namespace runbus::gateway {
namespace {

constexpr auto kNever = PendingCall::TimePoint::max();
// A worker keeps what was not acknowledged; small items alone would let much pile up.
constexpr std::uint64_t kAcknowledgeEvery = 256;
// How far past its credit a stream may go before its worker is taken to ignore it.
constexpr std::uint64_t kCreditSlack = 1U << 20U;
constexpr std::chrono::milliseconds kBusyRetry{100};

PendingCall::TimePoint now() { return std::chrono::steady_clock::now(); }

// Codes by which a broker says that no worker can take the call just now.
bool is_temporary(ErrorCode code) {
  return code == ErrorCode::kUnavailable || code == ErrorCode::kMethodNotFound ||
         code == ErrorCode::kBusy;
}

}  // namespace

PendingCall::PendingCall(CallHost& host, CallRequest request,
                         std::shared_ptr<CallObserver> observer)
    : host_(host), request_(std::move(request)), observer_(std::move(observer)), id_(make_uuid()) {
  const auto deadline = std::chrono::system_clock::now() + request_.timeout;
  deadline_ms_ = static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(deadline.time_since_epoch()).count());
  backstop_ = now() + request_.timeout + host_.patience().backstop;
  granted_ = request_.window;
}

void PendingCall::start() {
  BusPort* port = host_.connected_port();
  if (request_.only != nullptr) {
    port = request_.only->connected() ? request_.only : nullptr;
  }
  move_to(port);
}

void PendingCall::move_to(BusPort* port) {
  port_ = port;
  if (port_ != nullptr) {
    wait_until_ = kNever;
    if (has_hole()) {  // the CALL asks for it
      hole_until_ = now() + host_.patience().hole;
    }
    send_call();
  } else {
    wait_until_ = now() + (sent_once_ ? host_.patience().reconnect : host_.patience().no_broker);
  }
  schedule();
}

void PendingCall::send_call() {
  // One after the other, so that its strings keep their memory.
  static thread_local v1::Header header;
  header.Clear();
  header.set_kind(v1::CALL);
  header.set_call_id(id_);
  header.set_method(request_.method);
  header.set_session_id(request_.session_id);
  header.set_principal(request_.principal);
  header.set_traceparent(request_.traceparent);
  header.set_deadline_ms(deadline_ms_);
  header.set_origin(host_.origin());
  header.set_credit(granted_);
  header.set_worker_id(worker_id_);
  header.set_again(sent_once_ && !begun_ && !request_.resumable && !request_.idempotent);
  if (begun_) {
    header.mutable_resume()->set_sequence(sequence_);
    header.mutable_resume()->set_offset(offset_);
    header.mutable_resume()->set_bytes(received_);
  }
  const Result<void> sent = port_->send(header, request_.body);
  if (sent) {
    sent_once_ = true;
    told_ = granted_;
    if (state_ == State::kWaiting) {
      state_ = State::kSent;
    }
  } else if (!sent_once_ && sent.error().code == ErrorCode::kBusy) {
    end_with(sent.error());
  } else {
    retry_at_ = now() + kBusyRetry;
  }
}

void PendingCall::send_control(v1::Kind kind, std::string_view method) {
  v1::Header header;
  header.set_kind(kind);
  header.set_call_id(id_);
  header.set_origin(host_.origin());
  header.set_method(std::string(method));
  header.set_worker_id(worker_id_);  // for a broker that is younger than the call
  if (kind == v1::CREDIT) {
    header.set_credit(granted_);
    header.set_sequence(sequence_);
    told_ = granted_;
  }
  if (port_ != nullptr && port_->send(header, std::string_view())) {
    return;
  }
  if (kind == v1::CANCEL) {
    host_.send_later(std::move(header));
  }
}

void PendingCall::on_message(const BusPort& from, const v1::Header& header, zmq::message_t& body) {
  if (ended()) {
    return;
  }
  // How a broker that had the call before sees it is out of date; what a worker answers is true by
  // whichever way it comes.
  if (&from != port_ && header.sequence() == 0) {
    return;
  }
  const auto self = shared_from_this();
  switch (header.kind()) {
    case v1::ACCEPTED:
      accepted(header);
      break;
    case v1::ITEM:
      item(header, body);
      break;
    case v1::RESULT:
      if (in_order(header.sequence(), 0)) {
        end()->on_result({body.data<char>(), body.size()});
      }
      break;
    case v1::ERROR:
      failed(header, {body.data<char>(), body.size()});
      break;
    default:
      spdlog::warn("bus: call {} got a message of kind {}", id_, static_cast<int>(header.kind()));
  }
}

void PendingCall::accepted(const v1::Header& header) {
  if (!worker_id_.empty() && !header.worker_id().empty() && header.worker_id() != worker_id_) {
    // The broker gave an idempotent call to another worker, which begins at the beginning.
    replayed_ = true;
    received_ = 0;
    granted_ = request_.window;
    told_ = granted_;
  }
  if (!header.worker_id().empty()) {
    worker_id_ = header.worker_id();
  }
  state_ = State::kAccepted;
  begun_ = true;
  if (granted_ > told_) {
    send_control(v1::CREDIT, {});
  }
  if (loss_) {
    loss_.reset();
    recover_until_ = kNever;
    retry_at_ = kNever;
    schedule();
  }
}

bool PendingCall::in_order(std::uint64_t sequence, std::size_t bytes) {
  if (sequence == sequence_ + 1) {
    sequence_ = sequence;
    if (has_hole()) {
      hole_until_ = kNever;
      schedule();
    }
    return true;
  }
  if (sequence == 0) {
    return true;  // from a broker, or a worker that ends a call without items
  }
  if (sequence <= sequence_) {
    if (replayed_) {  // seen from another worker; the present one counts it against its credit
      received_ += bytes;
      grant();
    }
    return false;
  }
  if (!has_hole()) {
    ask_for_the_missing();
  }
  return false;
}

void PendingCall::item(const v1::Header& header, zmq::message_t& body) {
  if (request_.window == 0 || header.sequence() == 0) {
    spdlog::error("bus: worker {} sent an item that call {} of {} cannot have",
                  printable(worker_id_), id_, request_.method);
    send_control(v1::CANCEL, {});
    end_with(make_error(ErrorCode::kInternal, "the worker broke the protocol"));
    return;
  }
  const std::size_t bytes = body.size();
  if (!in_order(header.sequence(), bytes)) {
    return;
  }
  losses_ = 0;
  offset_ = std::max(offset_, header.offset());
  received_ += bytes;
  unconsumed_ += bytes;
  if (received_ > granted_ + request_.window + kCreditSlack) {
    spdlog::error("bus: worker {} sent past the credit of call {}", printable(worker_id_), id_);
    send_control(v1::CANCEL, {});
    end_with(make_error(ErrorCode::kInternal, "the worker broke the protocol"));
    return;
  }
  const std::shared_ptr<CallObserver> observer = observer_;
  observer->on_item(body);
}

void PendingCall::consumed(std::uint64_t bytes) {
  if (ended()) {
    return;
  }
  unconsumed_ -= std::min(bytes, unconsumed_);
  grant();
}

void PendingCall::grant() {
  const std::uint64_t may = received_ + request_.window - std::min(unconsumed_, request_.window);
  const bool worth_it = may >= granted_ + request_.window / 4;
  if (!worth_it && sequence_ - acknowledged_ < kAcknowledgeEvery) {
    return;
  }
  granted_ = std::max(granted_, may);
  acknowledged_ = sequence_;
  if (state_ == State::kAccepted && port_ != nullptr) {
    send_control(v1::CREDIT, {});
  }
}

void PendingCall::failed(const v1::Header& header, std::string_view body) {
  if (!in_order(header.sequence(), 0)) {
    return;
  }
  v1::ErrorBody wire_error;
  Error error = make_error(ErrorCode::kInternal);
  if (wire_error.ParseFromArray(body.data(), static_cast<int>(body.size()))) {
    error = make_error(error_code_from_number(wire_error.code()), wire_error.detail());
    error.limit = wire_error.limit();
  } else {
    error.internal = "an ERROR that cannot be read";
    spdlog::error("bus: call {} of {}: {}", id_, request_.method, error.internal);
  }
  const bool from_broker = header.sequence() == 0;
  const bool lost = error.code == ErrorCode::kWorkerLost && request_.resumable;
  if (cancelled_ || !from_broker || !(lost || (loss_ && is_temporary(error.code)))) {
    end_with(loss_ && is_temporary(error.code) ? *loss_ : error);
    return;
  }
  if (lost) {
    recover(std::move(error));
  } else if (now() >= recover_until_) {
    const Error loss = *loss_;
    end_with(loss);
  } else {
    retry_at_ = now() + host_.patience().recovery_retry;
    schedule();
  }
}

// Its worker is gone: another one goes on, should there be one.
void PendingCall::recover(Error error) {
  if (!may_lose_again(error)) {
    return;
  }
  begun_ = true;  // a broker takes a call that it saw end only when it is to be resumed
  // Another worker starts to count bytes again; what the observer still holds is taken off its
  // window. What had been missing is a part of what it sends.
  worker_id_.clear();
  hole_until_ = kNever;
  state_ = State::kSent;
  received_ = 0;
  granted_ = request_.window - std::min(unconsumed_, request_.window);
  if (!loss_) {
    recover_until_ = now() + host_.patience().recovery;
  }
  loss_ = std::move(error);
  if (port_ != nullptr) {
    send_call();
  }
  schedule();
}

// Its worker sends again all that was not acknowledged.
void PendingCall::ask_for_the_missing() {
  begun_ = true;
  hole_until_ = now() + host_.patience().hole;
  // A CALL that waits for a broker, or for room on the way there, asks as well: no further loss.
  const bool waits = port_ == nullptr || retry_at_ != kNever;
  if (!waits) {
    if (!may_lose_again(make_error(ErrorCode::kWorkerLost, "a part of the answer was lost"))) {
      return;
    }
    send_call();
  }
  schedule();
}

// Counts a loss; ends the call when there were too many in a row.
bool PendingCall::may_lose_again(const Error& error) {
  if (++losses_ <= host_.patience().max_losses) {
    return true;
  }
  send_control(v1::CANCEL, {});
  end_with(error);
  return false;
}

void PendingCall::on_link_up(BusPort& port) {
  // From a broker whose connection is gone it goes over without waiting until that is certain.
  if (ended() || (port_ != nullptr && port_ != &port && port_->writable()) ||
      (request_.only != nullptr && request_.only != &port)) {
    return;
  }
  const auto self = shared_from_this();
  move_to(&port);
  if (cancelled_ && !ended()) {
    send_control(v1::CANCEL, {});
  }
}

void PendingCall::on_link_lost(BusPort& port) {
  if (ended() || port_ != &port) {
    return;
  }
  const auto self = shared_from_this();
  if (request_.only != nullptr) {
    end_with(make_error(ErrorCode::kConnection, "the broker went away"));
    return;
  }
  move_to(host_.connected_port());
}

void PendingCall::cancel() {
  if (ended() || cancelled_) {
    return;
  }
  const auto self = shared_from_this();
  cancelled_ = true;
  const bool at_a_worker = state_ == State::kAccepted || (state_ == State::kSent && !loss_);
  if (sent_once_) {
    send_control(v1::CANCEL, {});
  }
  if (!at_a_worker || port_ == nullptr) {
    end_with(make_error(ErrorCode::kCancelled));
    return;
  }
  cancel_until_ = now() + host_.patience().cancel;
  schedule();
}

void PendingCall::abandon() {
  if (ended()) {
    return;
  }
  const auto self = shared_from_this();
  if (sent_once_) {
    send_control(v1::CANCEL, "$/gone");
  }
  end();
}

Result<void> PendingCall::input(std::string_view body) {
  if (ended() || port_ == nullptr) {
    return make_error(ErrorCode::kUnavailable, "the call has no worker at the moment");
  }
  v1::Header header;
  header.set_kind(v1::INPUT);
  header.set_call_id(id_);
  header.set_origin(host_.origin());
  header.set_worker_id(worker_id_);
  return port_->send(header, body);
}

void PendingCall::on_time(TimePoint time) {
  if (ended()) {
    return;
  }
  const auto self = shared_from_this();
  if (time >= backstop_) {
    send_control(v1::CANCEL, {});
    end_with(make_error(ErrorCode::kTimeout));
  } else if (time >= cancel_until_) {
    end_with(make_error(ErrorCode::kCancelled));
  } else if (time >= wait_until_) {
    end_with(sent_once_ ? make_error(ErrorCode::kConnection, "the bus cannot be reached")
                        : make_error(ErrorCode::kUnavailable, "no broker is connected"));
  } else if (time >= hole_until_) {
    ask_for_the_missing();
  } else if (time >= retry_at_) {
    retry_at_ = kNever;
    if (port_ != nullptr) {
      send_call();
    }
    schedule();
  } else {
    schedule();
  }
}

void PendingCall::schedule() {
  if (!ended()) {
    host_.schedule(*this,
                   std::min({backstop_, wait_until_, retry_at_, hole_until_, cancel_until_}));
  }
}

std::shared_ptr<CallObserver> PendingCall::end() {
  state_ = State::kEnded;
  request_.body = std::string();
  host_.forget(*this);
  return std::exchange(observer_, nullptr);
}

void PendingCall::end_with(const Error& error) {
  const Error copy = error;  // `error` may be a member that ends with the observer's references
  end()->on_error(copy);
}

}  // namespace runbus::gateway
