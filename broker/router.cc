#include "broker/router.h"

#include <cerrno>
#include <utility>

namespace runbus::broker {
namespace {

// So many messages of one peer before the next has its turn.
constexpr int kFlushSlice = 64;

}  // namespace

void Router::send(const std::string& key, v1::Kind kind, std::string_view call_id,
                  zmq::message_t header, zmq::message_t body) {
  const auto waiting = stalled_.empty() ? stalled_.end() : stalled_.find(key);
  if (waiting == stalled_.end()) {
    const Sent sent = try_send(key, header, body);
    if (sent == Sent::kUnreachable) {
      failures_.push_back({key, false});
    } else if (sent == Sent::kFull && kind != v1::GOODBYE) {
      stalled_.try_emplace(key, outbox_bytes_, outbox_messages_)
          .first->second.push(kind, call_id, header, body);
    }
    return;
  }
  // A goodbye is for a peer that we no longer care for: it gets it if it can.
  if (kind == v1::GOODBYE) {
    try_send(key, header, body);
  } else if (!waiting->second.push(kind, call_id, header, body)) {
    failures_.push_back({key, true});
  }
}

void Router::publish(std::string_view topic, std::string_view event) {
  for (LoopSocket* publisher : publishers_) {
    // A subscriber whose queue is full misses the event: XPUB never makes anybody wait.
    publisher->socket.send(zmq::buffer(topic),
                           zmq::send_flags::sndmore | zmq::send_flags::dontwait);
    publisher->socket.send(zmq::buffer(event), zmq::send_flags::dontwait);
    publisher->attend = true;
  }
}

void Router::move(const std::string& old_key, const std::string& new_key) {
  if (auto waiting = stalled_.extract(old_key); !waiting.empty()) {
    waiting.key() = new_key;
    stalled_.insert(std::move(waiting));
  }
}

void Router::flush() {
  for (auto it = stalled_.begin(); it != stalled_.end();) {
    wire::Outbox& outbox = it->second;
    Sent sent = Sent::kYes;
    for (int count = 0; count < kFlushSlice && sent == Sent::kYes && !outbox.empty(); ++count) {
      wire::OutMessage& next = outbox.front();
      sent = try_send(it->first, next.header, next.body);
      if (sent == Sent::kYes) {
        outbox.pop();
      }
    }
    if (sent == Sent::kUnreachable) {
      failures_.push_back({it->first, false});
    }
    it = sent == Sent::kUnreachable || outbox.empty() ? stalled_.erase(it) : std::next(it);
  }
}

Router::Sent Router::try_send(const std::string& key, zmq::message_t& header,
                              zmq::message_t& body) {
  LoopSocket* target = nullptr;
  for (const auto& [letter, socket] : sockets_) {
    target = letter == key.front() ? socket : target;
  }
  void* handle = target->socket.handle();
  target->attend = true;
  zmq::message_t id(key.data() + 1, key.size() - 1);
  if (zmq_msg_send(id.handle(), handle, ZMQ_DONTWAIT | ZMQ_SNDMORE) < 0) {
    return zmq_errno() == EAGAIN ? Sent::kFull : Sent::kUnreachable;
  }
  // The routing frame has found room for the whole message; these two are not refused. Should the
  // peer go away in between, libzmq drops them.
  target->socket.send(header, zmq::send_flags::dontwait | zmq::send_flags::sndmore);
  target->socket.send(body, zmq::send_flags::dontwait);
  return Sent::kYes;
}

}  // namespace runbus::broker
