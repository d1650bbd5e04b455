#pragma once

#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "services/worker/call_state.h"
#include "services/worker/deadlines.h"
#include "services/worker/held_sessions.h"
#include "services/worker/recent_calls.h"
#include "services/worker/worker.h"

// The inside of Worker: links in worker.cc, calls in worker_calls.cc, leaving in worker_drain.cc.
namespace runbus::worker {

// Until the broker has said what it carries, and however much it says.
inline constexpr std::size_t kDefaultMaxBody = 32U << 20U;
inline constexpr std::size_t kLargestMaxBody = 1U << 30U;

struct Worker::Impl : CallHost, std::enable_shared_from_this<Worker::Impl> {
  struct Served {
    std::unique_ptr<Service> service;
    v1::ServiceOffer offer;
    std::size_t active = 0;
  };
  struct Link {
    std::unique_ptr<wire::BusLink> bus;
    std::chrono::milliseconds heartbeat_timeout{};
    // What ended since then may not have arrived; set when the link is lost.
    std::optional<RecentCalls::Clock::time_point> unsure_since;
    // Sessions that came to this node since the last introduction and that its broker was not told
    // of.
    std::vector<std::string> untold;
    // Calls that came by a link that was lost meanwhile.
    std::vector<std::string> untold_calls;
  };
  struct Active {
    std::shared_ptr<CallState> call;
    Served* served = nullptr;  // null: takes no place of a service's capacity
    std::optional<Deadlines::Handle> deadline;
  };

  Impl(boost::asio::io_context& io_context, WorkerOptions worker_options);

  void start();
  void stop();
  v1::Ready make_ready(std::size_t link);
  void on_connected(std::size_t link, const v1::Welcome& welcome, bool new_broker);
  void on_disconnected(std::size_t link);
  void on_message(std::size_t link, const v1::Header& header, const zmq::message_t& body);
  void on_call(std::size_t link, const v1::Header& header, const zmq::message_t& body);
  void begin(std::size_t link, const v1::Header& header, const zmq::message_t& body);
  void refuse(std::size_t link, const v1::Header& header, Error error);
  void on_cancel(std::size_t link, const v1::Header& header, const zmq::message_t& body);
  // The call that a message of the caller is for; null also when the call has moved to another link
  // and the message is of an earlier time.
  std::shared_ptr<CallState> find_for(std::size_t link, const std::string& call_id) const;
  void move_to(std::size_t link, CallState& call, const v1::Header& header);
  void note_session(std::size_t link, const std::string& session_id);
  void hold_session(const std::string& session_id);
  void tell_brokers();
  void tell_of_lost_calls(std::size_t link);
  void on_deadline(const std::string& call_id);
  std::shared_ptr<CallState> find(const std::string& call_id) const;
  void each_call(const std::function<void(CallState&)>& function);

  void drain(std::function<void()> done);
  void check_drained();
  void flush(std::chrono::steady_clock::time_point until);
  void finish_drain();

  // CallHost
  boost::asio::io_context& io() override { return loop; }
  Result<void> transmit(std::size_t link, const v1::Header& header, zmq::message_t body) override;
  const std::string& worker_id() const override { return id; }
  std::size_t max_body_bytes() const override { return max_body; }
  void settled(CallState& call) override;

  boost::asio::io_context& loop;
  WorkerOptions options;
  std::string id;
  std::size_t max_body = kDefaultMaxBody;
  std::function<void()> attached_callback;
  std::function<void()> drain_request_callback;
  bool started = false;

  enum class Drain { kNo, kWaiting, kFlushing, kDone };
  Drain drain_state = Drain::kNo;
  std::vector<std::function<void()>> drained_callbacks;
  boost::asio::steady_timer drain_timer;

  std::vector<std::unique_ptr<Served>> services;
  Deadlines deadlines;
  RecentCalls recent;
  // To run these again would do no harm: of them only as many as a lost link may have on its way.
  RecentCalls recent_harmless{{.calls = 256}};
  HeldSessions sessions;
  bool telling = false;
  std::unordered_map<std::string, Active> calls;
  std::size_t refusals = 0;
  zmq::context_t context;  // closes after the links
  std::vector<Link> links;
};

}  // namespace runbus::worker
