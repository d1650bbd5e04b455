#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <zmq.hpp>

#include "proto/wire/bus_link.h"
#include "proto/wire/outbox.h"
#include "proto/wire/socket_watch.h"

namespace runbus::wire {

// How a link is seen from outside: introductions, heartbeats, loss, the end (bus_link.cc); what
// goes in and out (bus_link_pump.cc).
struct BusLink::Impl : std::enable_shared_from_this<BusLink::Impl> {
  using Clock = std::chrono::steady_clock;
  using milliseconds = std::chrono::milliseconds;
  enum class State { kConnecting, kConnected, kClosing, kClosed };

  Impl(boost::asio::io_context& loop, zmq::context_t& zmq_context, BusLinkOptions link_options,
       std::function<v1::Ready()> introduction, Events handlers)
      : io(loop),
        context(zmq_context),
        options(std::move(link_options)),
        make_ready(std::move(introduction)),
        events(std::move(handlers)),
        outbox(options.max_outbox_bytes, options.max_outbox_messages),
        timer(loop),
        company_timer(loop) {}

  void start();
  void open_socket();
  void drop_socket();
  void tick_after(milliseconds interval);
  void tick();
  void handle(v1::Header& header, zmq::message_t& body);
  void handle_welcome(const zmq::message_t& body);
  void handle_goodbye(const zmq::message_t& body);
  bool send_own(v1::Kind kind, zmq::message_t body);
  void send_ready();
  void lose(std::string_view why, milliseconds wait);
  void begin_close();
  void finish_close();
  bool live() const { return state == State::kConnecting || state == State::kConnected; }

  // bus_link_pump.cc
  void pump();
  void run_slice();
  bool gathers();
  int receive();
  void take(std::string_view header, zmq::message_t& body);
  Result<void> send(const v1::Header& header, zmq::message_t body, bool along);
  void wait_for_company();
  bool send_now(zmq::message_t& header, zmq::message_t& body);
  bool flush();
  void note_room();
  void report_drained();

  boost::asio::io_context& io;
  zmq::context_t& context;
  BusLinkOptions options;
  std::function<v1::Ready()> make_ready;
  Events events;
  State state = State::kConnecting;
  std::optional<zmq::socket_t> socket;
  std::optional<SocketWatch> watch;
  Outbox outbox;
  boost::asio::steady_timer timer;
  boost::asio::steady_timer company_timer;
  v1::Welcome welcome;
  std::string broker_epoch;
  v1::Header incoming;
  Clock::time_point last_heard;
  Clock::time_point last_sent;
  Clock::time_point next_ready;
  Clock::time_point next_socket;
  milliseconds retry{0};
  Clock::time_point close_deadline;
  std::function<void()> drained;
  std::size_t gathered = 0;  // messages that waited at the last turn
  bool was_full = false;
  bool pumping = false;
  bool waits_for_company = false;  // the timer is set
};

}  // namespace runbus::wire
