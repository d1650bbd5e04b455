#include <exception>
#include <utility>

#include "proto/support/id.h"
#include "proto/support/log.h"
#include "services/worker/call_handle.h"
#include "services/worker/worker_impl.h"

namespace runbus::worker {

namespace {

// Refusals that wait for a link; more are dropped, and answered when the CALL comes again.
constexpr std::size_t kMaxWaitingRefusals = 4096;

}  // namespace

void Worker::Impl::on_call(std::size_t link, const v1::Header& header, const zmq::message_t& body) {
  if (!is_valid_id(header.call_id())) {
    spdlog::warn("broker {} sent a CALL with the unusable id \"{}\"", options.brokers[link],
                 printable(header.call_id()));
    return;
  }
  if (const auto call = find(header.call_id())) {
    move_to(link, *call, header);
    return;
  }
  auto call = recent.take(header.call_id());
  if (!call) {
    call = recent_harmless.take(header.call_id());
    call = call && call->forgotten() ? nullptr : call;  // the answer is gone: it is run again
  }
  if (call) {
    calls.emplace(header.call_id(), Active{call, nullptr, std::nullopt});
    call->resend(link, header);
    return;
  }
  begin(link, header, body);
}

void Worker::Impl::begin(std::size_t link, const v1::Header& header, const zmq::message_t& body) {
  Served* served = nullptr;
  const Service::Rpc* rpc = nullptr;
  for (const auto& candidate : services) {
    if ((rpc = candidate->service->find(header.method())) != nullptr) {
      served = candidate.get();
      break;
    }
  }
  if (rpc == nullptr) {
    refuse(link, header,
           make_error(ErrorCode::kMethodNotFound,
                      "no method " + printable(header.method()) + " here"));
    return;
  }
  if (served->active >= std::size_t{served->service->capacity()} * 2) {
    Error error = make_error(ErrorCode::kBusy, "the worker is full");
    error.limit = "capacity";
    refuse(link, header, std::move(error));
    return;
  }
  const auto deadline = deadline_of(header);
  const bool has_deadline = deadline != std::chrono::system_clock::time_point::max();
  if (has_deadline && deadline <= std::chrono::system_clock::now()) {
    refuse(link, header,
           make_error(ErrorCode::kTimeout, "the deadline had passed when the worker got the call"));
    return;
  }
  const std::unique_ptr<google::protobuf::Message> request(rpc->prototype->New());
  if (body.size() > max_body ||
      !request->ParseFromArray(body.data(), static_cast<int>(body.size()))) {
    refuse(link, header,
           make_error(ErrorCode::kInvalidParams,
                      "the body is not a valid " + request->GetDescriptor()->full_name()));
    return;
  }
  const auto call =
      std::make_shared<CallState>(*this, header, link, rpc->descriptor, rpc->prototype.get());
  Active& active =
      calls.emplace(header.call_id(), Active{call, served, std::nullopt}).first->second;
  ++served->active;
  if (has_deadline) {
    active.deadline = deadlines.add(deadline, header.call_id());
  }
  note_session(link, header.session_id());
  call->accept();
  call->guarded([&] { rpc->handler(std::make_shared<CallHandle>(call), *request); });
  call->pump();
}

// The caller has gone over to another broker, or missed something. The broker that had the call
// before counts it no longer, and calls it off no longer when it misses its caller; the caller does
// not listen to it any more.
void Worker::Impl::move_to(std::size_t link, CallState& call, const v1::Header& header) {
  if (const std::size_t old = call.link(); old != link && links[old].bus->connected()) {
    v1::Header moved;
    moved.set_kind(v1::ERROR);
    moved.set_call_id(header.call_id());
    moved.set_origin(header.origin());
    v1::ErrorBody body;
    body.set_code(static_cast<std::int32_t>(ErrorCode::kWorkerLost));
    body.set_detail("the call goes on by way of another broker");
    if (const auto sent = links[old].bus->send(moved, body.SerializeAsString()); !sent) {
      spdlog::debug("broker {} is not told of a call that moved: {}", options.brokers[old],
                    to_string(sent.error()));
    }
  }
  call.resend(link, header);
}

// Errors that come before the handler go the way of all answers, so that a full outbox only delays
// them. They are not remembered: the same call may be tried here again.
void Worker::Impl::refuse(std::size_t link, const v1::Header& header, Error error) {
  if (refusals >= kMaxWaitingRefusals) {
    spdlog::warn("dropped call {}: {} refusals wait for the broker already",
                 printable(header.call_id()), refusals);
    return;
  }
  ++refusals;
  const auto call = std::make_shared<CallState>(*this, header, link, nullptr, nullptr);
  calls.emplace(header.call_id(), Active{call, nullptr, std::nullopt});
  call->fail(std::move(error));
}

void Worker::Impl::on_cancel(std::size_t link, const v1::Header& header,
                             const zmq::message_t& body) {
  const auto call = find_for(link, header.call_id());
  if (!call) {
    return;
  }
  // A gateway says by the method that nobody waits any more, a broker whose gateway is gone by an
  // ErrorBody.
  v1::ErrorBody reason;
  const bool has_reason =
      body.size() > 0 && reason.ParseFromArray(body.data(), static_cast<int>(body.size()));
  if (header.method() == "$/gone" ||
      (has_reason && error_code_from_number(reason.code()) == ErrorCode::kConnection)) {
    call->cancel(make_error(ErrorCode::kConnection, "the caller is gone"));
  } else {
    call->cancel(make_error(ErrorCode::kCancelled));
  }
}

void Worker::Impl::on_deadline(const std::string& call_id) {
  const auto found = calls.find(call_id);
  if (found == calls.end()) {
    return;
  }
  found->second.deadline.reset();
  const auto call = found->second.call;
  call->cancel(make_error(ErrorCode::kTimeout));
}

void Worker::Impl::settled(CallState& call) {
  const auto found = calls.find(call.header().call_id());
  if (found == calls.end()) {
    return;
  }
  const Active active = std::move(found->second);
  calls.erase(found);
  if (active.served != nullptr) {
    --active.served->active;
  }
  if (active.deadline) {
    deadlines.remove(*active.deadline);
  }
  if (active.call->refused()) {
    --refusals;
  } else {
    (active.call->harmless() ? recent_harmless : recent).add(active.call);
  }
  check_drained();
}

// A call may end, and leave the table, while it is visited.
void Worker::Impl::each_call(const std::function<void(CallState&)>& function) {
  std::vector<std::shared_ptr<CallState>> all;
  all.reserve(calls.size());
  for (const auto& [call_id, active] : calls) {
    all.push_back(active.call);
  }
  for (const auto& call : all) {
    function(*call);
  }
}

// A link that is down cannot have the caller: then every other speaks for it.
std::shared_ptr<CallState> Worker::Impl::find_for(std::size_t link,
                                                  const std::string& call_id) const {
  auto call = find(call_id);
  const bool stale = call && call->link() != link && links[call->link()].bus->connected();
  return stale ? nullptr : call;
}

std::shared_ptr<CallState> Worker::Impl::find(const std::string& call_id) const {
  const auto found = calls.find(call_id);
  return found == calls.end() ? nullptr : found->second.call;
}

}  // namespace runbus::worker
