#include "tests/unit/worker/fake_broker.h"

#include <stdexcept>
#include <utility>

#include "proto/support/id.h"

namespace runbus::worker {

FakeBroker::FakeBroker(std::string endpoint, std::chrono::milliseconds heartbeat_timeout)
    : socket_(context_, zmq::socket_type::router),
      epoch_(random_hex(8)),
      heartbeat_timeout_(heartbeat_timeout),
      next_heartbeat_(std::chrono::steady_clock::now()) {
  socket_.set(zmq::sockopt::linger, 0);
  socket_.set(zmq::sockopt::router_mandatory, true);
  socket_.bind(endpoint);
}

void FakeBroker::poll() {
  for (;;) {
    zmq::message_t peer;
    zmq::message_t head;
    zmq::message_t body;
    if (!socket_.recv(peer, zmq::recv_flags::dontwait)) {
      break;
    }
    static_cast<void>(socket_.recv(head));
    static_cast<void>(socket_.recv(body));
    v1::Header header;
    if (body.more() || !header.ParseFromArray(head.data(), static_cast<int>(head.size()))) {
      throw std::runtime_error("the worker sent something that is not [Header][body]");
    }
    take(std::move(peer), header, body);
  }
  const auto now = std::chrono::steady_clock::now();
  if (!peer_.empty() && now >= next_heartbeat_) {
    next_heartbeat_ = now + heartbeat_timeout_ / 5;
    v1::Header header;
    header.set_kind(v1::HEARTBEAT);
    send(header);
  }
}

void FakeBroker::take(zmq::message_t peer, const v1::Header& header, zmq::message_t& body) {
  const std::string from = peer.to_string();
  v1::Header answer;
  if (header.kind() == v1::READY) {
    peer_ = from;
    ++readies_;
    ready_.ParseFromArray(body.data(), static_cast<int>(body.size()));
    v1::Welcome welcome;
    welcome.set_epoch(epoch_);
    welcome.set_heartbeat_interval_ms(static_cast<std::uint32_t>(heartbeat_timeout_.count() / 5));
    welcome.set_heartbeat_timeout_ms(static_cast<std::uint32_t>(heartbeat_timeout_.count()));
    welcome.set_max_body_bytes(1U << 20U);
    answer.set_kind(v1::READY);
    send_to(from, answer, welcome.SerializeAsString());
  } else if (from != peer_) {
    v1::GoodbyeBody goodbye;
    goodbye.set_reason("unknown");
    answer.set_kind(v1::GOODBYE);
    send_to(from, answer, goodbye.SerializeAsString());
  } else if (header.kind() == v1::HEARTBEAT) {
    v1::Heartbeat heartbeat;
    if (!heartbeat.ParseFromArray(body.data(), static_cast<int>(body.size()))) {
      throw std::runtime_error("the worker sent a heartbeat that cannot be read");
    }
    told_sessions_.insert(told_sessions_.end(), heartbeat.sessions().begin(),
                          heartbeat.sessions().end());
    told_calls_.insert(told_calls_.end(), heartbeat.calls().begin(), heartbeat.calls().end());
  } else {
    received_.push_back({header, body.to_string()});
  }
}

void FakeBroker::send_to(const std::string& peer, const v1::Header& header,
                         const std::string& body) {
  try {
    socket_.send(zmq::buffer(peer), zmq::send_flags::sndmore);
    socket_.send(zmq::buffer(header.SerializeAsString()), zmq::send_flags::sndmore);
    socket_.send(zmq::buffer(body), zmq::send_flags::none);
  } catch (const zmq::error_t& error) {
    if (error.num() != EHOSTUNREACH) {  // the worker has just gone: a test that minds will time out
      throw;
    }
  }
}

void FakeBroker::send(const v1::Header& header, const std::string& body) {
  send_to(peer_, header, body);
}

void FakeBroker::call(const std::string& call_id, const std::string& method,
                      const google::protobuf::Message& request,
                      const std::function<void(v1::Header&)>& change) {
  v1::Header header;
  header.set_kind(v1::CALL);
  header.set_call_id(call_id);
  header.set_method(method);
  header.set_origin("gateway-1");
  header.set_credit(1U << 20U);
  if (change) {
    change(header);
  }
  send(header, request.SerializeAsString());
}

void FakeBroker::cancel(const std::string& call_id, const std::string& method) {
  v1::Header header;
  header.set_kind(v1::CANCEL);
  header.set_call_id(call_id);
  header.set_method(method);
  send(header);
}

void FakeBroker::credit(const std::string& call_id, std::uint64_t grant, std::uint64_t sequence) {
  v1::Header header;
  header.set_kind(v1::CREDIT);
  header.set_call_id(call_id);
  header.set_credit(grant);
  header.set_sequence(sequence);
  send(header);
}

void FakeBroker::input(const std::string& call_id, const google::protobuf::Message& request) {
  v1::Header header;
  header.set_kind(v1::INPUT);
  header.set_call_id(call_id);
  send(header, request.SerializeAsString());
}

std::vector<Received> FakeBroker::of(v1::Kind kind, const std::string& call_id) const {
  std::vector<Received> found;
  for (const Received& received : received_) {
    if (received.header.kind() == kind &&
        (call_id.empty() || received.header.call_id() == call_id)) {
      found.push_back(received);
    }
  }
  return found;
}

std::vector<Received> FakeBroker::of_call(const std::string& call_id) const {
  std::vector<Received> found;
  for (const Received& received : received_) {
    if (received.header.call_id() == call_id) {
      found.push_back(received);
    }
  }
  return found;
}

std::size_t FakeBroker::count(v1::Kind kind, const std::string& call_id) const {
  return of(kind, call_id).size();
}

std::size_t FakeBroker::item_bytes(const std::string& call_id) const {
  std::size_t bytes = 0;
  for (const Received& item : of(v1::ITEM, call_id)) {
    bytes += item.body.size();
  }
  return bytes;
}

v1::ErrorBody error_of(const Received& received) {
  v1::ErrorBody body;
  if (received.header.kind() != v1::ERROR || !body.ParseFromString(received.body)) {
    throw std::runtime_error("not an ERROR with its body");
  }
  return body;
}

}  // namespace runbus::worker
