#pragma once

#include <boost/asio/io_context.hpp>
#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>
#include <zmq.hpp>

#include "runbus/v1/bus.pb.h"

// A broker that does what a test tells it: a bare ROUTER on ipc, polled by the test's own thread
// between turns of the worker's loop. It welcomes peers, tells strangers that it does not know
// them, keeps heartbeats, and collects everything else.
namespace runbus::worker {

struct Received {
  v1::Header header;
  std::string body;
};

class FakeBroker {
 public:
  // `heartbeat_timeout`: after which the worker gives a silent broker up.
  explicit FakeBroker(std::string endpoint,
                      std::chrono::milliseconds heartbeat_timeout = std::chrono::seconds(60));

  // Takes in what has come and says what is due.
  void poll();

  void send(const v1::Header& header, const std::string& body = {});
  void call(const std::string& call_id, const std::string& method,
            const google::protobuf::Message& request,
            const std::function<void(v1::Header&)>& change = {});
  void cancel(const std::string& call_id, const std::string& method = {});
  void credit(const std::string& call_id, std::uint64_t grant, std::uint64_t sequence);
  void input(const std::string& call_id, const google::protobuf::Message& request);

  bool attached() const { return !peer_.empty(); }
  int readies() const { return readies_; }
  const v1::Ready& ready() const { return ready_; }
  std::size_t count(v1::Kind kind, const std::string& call_id = {}) const;
  // Bytes of ITEM bodies of this call.
  std::size_t item_bytes(const std::string& call_id) const;
  // In order of arrival; empty call_id: of any.
  std::vector<Received> of(v1::Kind kind, const std::string& call_id = {}) const;
  std::vector<Received> of_call(const std::string& call_id) const;
  void forget() { received_.clear(); }
  // Sessions that heartbeats have named.
  const std::vector<std::string>& told_sessions() const { return told_sessions_; }
  const std::vector<std::string>& told_calls() const { return told_calls_; }

 private:
  void take(zmq::message_t peer, const v1::Header& header, zmq::message_t& body);
  void send_to(const std::string& peer, const v1::Header& header, const std::string& body);

  zmq::context_t context_;
  zmq::socket_t socket_;
  std::string epoch_;
  std::chrono::milliseconds heartbeat_timeout_;
  std::chrono::steady_clock::time_point next_heartbeat_;
  std::string peer_;
  v1::Ready ready_;
  int readies_ = 0;
  std::deque<Received> received_;
  std::vector<std::string> told_sessions_;
  std::vector<std::string> told_calls_;
};

// ERROR's body.
v1::ErrorBody error_of(const Received& received);

}  // namespace runbus::worker
