#include <boost/asio/post.hpp>
#include <utility>

#include "services/worker/call_state.h"

// What comes for the handler: cancellation and further input.
namespace runbus::worker {

void CallState::cancel(Error reason) {
  if (host_ == nullptr || settled_ || cancelled_) {
    return;
  }
  cancelled_ = std::move(reason);
  if (ended_) {
    // An end that was handed to a link before stays the end.
    if (sequence_ > handed_) {
      end_with(*cancelled_);
    }
    return;
  }
  post_cancel();
}

// The decision is taken in the post, so that a handler that has only just begun may still name its
// callback.
void CallState::post_cancel() {
  if (host_ == nullptr) {
    return;
  }
  boost::asio::post(host_->io(), [self = shared_from_this()] {
    if (self->ended_ || self->cancel_delivered_ || !self->cancelled_) {
      return;
    }
    self->cancel_delivered_ = true;
    if (!self->cancel_callback_) {
      self->fail(*self->cancelled_);
      return;
    }
    self->guarded([callback = std::exchange(self->cancel_callback_, nullptr),
                   reason = *self->cancelled_] { callback(reason); });
  });
}

void CallState::input(const zmq::message_t& body) {
  if (ended_ || host_ == nullptr || method_ == nullptr) {
    return;
  }
  if (!method_->client_streaming()) {
    fail(make_error(ErrorCode::kInvalidRequest, call_.method() + " takes no further input"));
    return;
  }
  if (!waiting_input_.empty() && waiting_input_bytes_ + body.size() > kMaxWaitingInput) {
    Error error = make_error(ErrorCode::kQuota, "input comes faster than it is read");
    error.limit = "input";
    fail(std::move(error));
    return;
  }
  std::unique_ptr<google::protobuf::Message> message(prototype_->New());
  if (body.size() > host_->max_body_bytes() ||
      !message->ParseFromArray(body.data(), static_cast<int>(body.size()))) {
    fail(make_error(ErrorCode::kInvalidParams,
                    "the input is not a valid " + prototype_->GetDescriptor()->full_name()));
    return;
  }
  // An empty message costs memory too.
  const std::size_t bytes = body.size() + 64;
  waiting_input_.push_back({std::move(message), bytes});
  waiting_input_bytes_ += bytes;
  post_input();
}

void CallState::post_input() {
  if (input_posted_ || !input_callback_ || waiting_input_.empty() || host_ == nullptr) {
    return;
  }
  input_posted_ = true;
  boost::asio::post(host_->io(), [self = shared_from_this()] {
    self->input_posted_ = false;
    self->deliver_input();
  });
}

void CallState::deliver_input() {
  while (!ended_ && input_callback_ && !waiting_input_.empty()) {
    const auto callback = input_callback_;
    const WaitingInput input = std::move(waiting_input_.front());
    waiting_input_.pop_front();
    waiting_input_bytes_ -= input.bytes;
    guarded([&] { (*callback)(*input.message); });
  }
}

void CallState::on_credit(std::function<void()> callback) {
  if (!ended_) {
    credit_callback_ = std::make_shared<std::function<void()>>(std::move(callback));
  }
}

void CallState::on_cancel(std::function<void(Error)> callback) {
  if (ended_) {
    return;
  }
  cancel_callback_ = std::move(callback);
  if (cancelled_) {
    post_cancel();
  }
}

void CallState::on_input(std::function<void(const google::protobuf::Message&)> callback) {
  if (!ended_) {
    input_callback_ = std::make_shared<std::function<void(const google::protobuf::Message&)>>(
        std::move(callback));
    post_input();
  }
}

}  // namespace runbus::worker
