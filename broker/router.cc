#include "broker/router.h"

#include <algorithm>
#include <utility>

#include "proto/wire/batch.h"

namespace runbus::broker {
namespace {

// So many batches of one peer before the next has its turn.
constexpr int kFlushSlice = 64;

}  // namespace

Router::Lanes::value_type& Router::lane(const std::string& key) {
  return *lanes_.try_emplace(key, outbox_bytes_, outbox_messages_).first;
}

void Router::send(const std::string& key, v1::Kind kind, std::string_view call_id,
                  zmq::message_t header, zmq::message_t body) {
  Lanes::value_type& peer = lane(key);
  wire::Outbox& outbox = peer.second.outbox;
  if (!outbox.push(kind, call_id, header, body)) {
    failures_.push_back({key, true});
    return;
  }
  if (!std::exchange(peer.second.listed, true)) {
    waiting_.push_back(&peer);
  }
  if (outbox.fills_a_batch() && !outbox.stalled()) {
    flush(peer);
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

void Router::set_batch(const std::string& key, std::uint32_t messages) {
  Lane& peer = lane(key).second;
  peer.batch = messages;
  peer.introduced = true;
}

void Router::move(const std::string& old_key, const std::string& new_key) {
  const auto old = lanes_.find(old_key);
  if (old == lanes_.end()) {
    return;
  }
  Lane& from = old->second;
  const bool listed = from.listed;
  std::erase(waiting_, &*old);
  auto node = lanes_.extract(old);
  forget(new_key);
  node.key() = new_key;
  Lanes::value_type& moved = *lanes_.insert(std::move(node)).position;
  if (listed) {
    waiting_.push_back(&moved);
  }
}

void Router::forget(const std::string& key) {
  const auto peer = lanes_.find(key);
  if (peer != lanes_.end()) {
    flush(*peer);  // a goodbye
    erase(peer);
  }
}

void Router::erase(Lanes::iterator peer) {
  std::erase(waiting_, &*peer);
  lanes_.erase(peer);
}

void Router::flush() {
  for (Lanes::value_type* peer : waiting_) {
    flush(*peer);
  }
  std::erase_if(waiting_, [this](Lanes::value_type* peer) {
    if (!peer->second.outbox.empty()) {
      return false;
    }
    peer->second.listed = false;
    if (!peer->second.introduced) {
      lanes_.erase(lanes_.find(peer->first));
    }
    return true;
  });
}

void Router::flush(Lanes::value_type& peer) {
  LoopSocket& target = socket_of(peer.first);
  wire::Outbox& outbox = peer.second.outbox;
  const std::string_view id = std::string_view(peer.first).substr(1);
  for (int count = 0; count < kFlushSlice && !outbox.empty(); ++count) {
    target.attend = true;
    const wire::Sent sent = wire::send_first(target.socket, id, peer.second.batch, outbox);
    if (sent == wire::Sent::kFull) {
      outbox.stall();
      return;
    }
    if (sent == wire::Sent::kUnreachable) {
      failures_.push_back({peer.first, false});
      outbox.clear();
    }
  }
}

LoopSocket& Router::socket_of(const std::string& key) const {
  return *std::find_if(sockets_.begin(), sockets_.end(), [&key](const auto& socket) {
            return socket.first == key.front();
          })->second;
}

}  // namespace runbus::broker
