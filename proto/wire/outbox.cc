#include "proto/wire/outbox.h"

#include <utility>

#include "proto/wire/frame.h"

namespace runbus::wire {

bool Outbox::push(v1::Kind kind, std::string_view call_id, zmq::message_t& header,
                  zmq::message_t& body) {
  // Each message costs memory beyond its bytes.
  constexpr std::size_t kOverhead = 200;
  const std::size_t size = header.size() + body.size() + kOverhead;
  if (messages() >= max_messages_ || bytes_ + size > max_bytes_) {
    return false;
  }
  bytes_ += size;
  OutMessage message{std::move(header), std::move(body), {}, size};
  if (stalled_) {
    message.call_id = call_id;
    place(is_data(kind), std::move(message));
  } else {
    in_order_.push_back(std::move(message));
  }
  return true;
}

void Outbox::place(bool behind_data, OutMessage message) {
  if (!message.call_id.empty()) {
    if (behind_data) {
      ++calls_with_data_[message.call_id];
    } else if (const auto found = calls_with_data_.find(message.call_id);
               found != calls_with_data_.end()) {
      ++found->second;
      behind_data = true;
    }
  }
  (behind_data ? data_ : control_).push_back(std::move(message));
}

void Outbox::stall() {
  if (std::exchange(stalled_, true)) {
    return;
  }
  v1::Header header;
  for (OutMessage& message : in_order_) {
    // Our own bytes, or such as have passed parse_header().
    header.ParseFromArray(message.header.data(), static_cast<int>(message.header.size()));
    message.call_id = header.call_id();
    place(is_data(header.kind()), std::move(message));
  }
  in_order_.clear();
}

OutMessage& Outbox::operator[](std::size_t index) {
  if (!stalled_) {
    return in_order_[index];
  }
  return index < control_.size() ? control_[index] : data_[index - control_.size()];
}

void Outbox::pop() {
  if (!stalled_) {
    bytes_ -= in_order_.front().size;
    in_order_.pop_front();
    return;
  }
  if (!control_.empty()) {
    bytes_ -= control_.front().size;
    control_.pop_front();
  } else {
    bytes_ -= data_.front().size;
    const auto found = calls_with_data_.find(data_.front().call_id);
    if (found != calls_with_data_.end() && --found->second == 0) {
      calls_with_data_.erase(found);
    }
    data_.pop_front();
  }
  stalled_ = !empty();
}

void Outbox::clear() {
  in_order_.clear();
  control_.clear();
  data_.clear();
  calls_with_data_.clear();
  bytes_ = 0;
  stalled_ = false;
}

}  // namespace runbus::wire
