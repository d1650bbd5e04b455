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
  std::string id(call_id);
  bool behind_data = is_data(kind);
  if (!id.empty()) {
    if (behind_data) {
      ++calls_with_data_[id];
    } else if (const auto found = calls_with_data_.find(id); found != calls_with_data_.end()) {
      ++found->second;
      behind_data = true;
    }
  }
  (behind_data ? data_ : control_)
      .push_back({std::move(header), std::move(body), std::move(id), size});
  bytes_ += size;
  return true;
}

OutMessage& Outbox::front() { return control_.empty() ? data_.front() : control_.front(); }

void Outbox::pop() {
  if (!control_.empty()) {
    bytes_ -= control_.front().size;
    control_.pop_front();
    return;
  }
  bytes_ -= data_.front().size;
  const auto found = calls_with_data_.find(data_.front().call_id);
  if (found != calls_with_data_.end() && --found->second == 0) {
    calls_with_data_.erase(found);
  }
  data_.pop_front();
}

void Outbox::clear() {
  control_.clear();
  data_.clear();
  calls_with_data_.clear();
  bytes_ = 0;
}

}  // namespace runbus::wire
